"""PostgreSQL on loopback. Its data can be a copy of a prepared database."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

from testbed.processes import LOOPBACK, Part, Server, free_port
from testbed.tools import CACHE, postgresql_tree

_NOBODY = 65534
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    # Durability does not matter here.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}


class PostgreSqlError(RuntimeError):
    """A statement failed."""


class PostgreSql(Part):
    """A server whose superuser needs no password.

    Args:
        name: the name of the prepared data in the cache.
        prepare: fills the first server of that name. Later servers start from a copy.
    """

    user = "test"

    def __init__(self, name: str, prepare: Callable[[PostgreSql], None]) -> None:
        # A separate directory, because the server's user cannot enter those of this process.
        super().__init__("postgresql", None)
        self.port = free_port()
        self._prepare = prepare
        tree = postgresql_tree()
        self._programs = tree.find("usr/lib/postgresql/*/bin")[-1]
        self._environment = {"PATH": f"{self._programs}:/usr/bin:/bin", "LC_ALL": "C", **tree.environment}
        self._prepared = CACHE / f"{name}-postgresql-{self._programs.parent.name}"
        self._data = self.run_directory / "data"
        # PostgreSQL does not run as root.
        owner = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
        self._as_owner = owner if os.geteuid() == 0 else []
        self.server: Server | None = None

    def _start(self) -> None:
        options = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
        self.server = Server(
            "postgresql",
            [
                *self._as_owner,
                str(self._programs / "postgres"),
                "-D",
                str(self._data),
                "-p",
                str(self.port),
                *options,
            ],
            run_directory=self.run_directory,
            ready=self._ready,
            environment=self._environment,
            stop_timeout=20,
            ready_timeout=60,
        )
        if not self._prepared.is_dir():
            self._make(self.server)
        if not self._data.is_dir():
            shutil.copytree(self._prepared, self._data)
        self._own()
        self.server.start()

    def _stop(self) -> None:
        if self.server:
            self.server.stop()

    def sql(self, text: str, *, database: str = "postgres") -> None:
        """Runs statements until one fails."""
        psql = [str(self._programs / "psql"), "-q", "-v", "ON_ERROR_STOP=1", "-f", "-"]
        answer = subprocess.run(
            [*psql, "-h", LOOPBACK, "-p", str(self.port), "-U", self.user, "-d", database],
            input=text,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        if answer.returncode != 0:
            raise PostgreSqlError(answer.stderr.strip()[-500:])

    def _make(self, server: Server) -> None:
        self._data.mkdir()
        self._own()
        initdb = [str(self._programs / "initdb"), "-D", str(self._data), "-U", self.user, "-A", "trust", "-E", "UTF8"]
        subprocess.run(
            [*self._as_owner, *initdb, "--no-sync"],
            env=self._environment,
            check=True,
            capture_output=True,
            timeout=120,
        )
        with server:
            self._prepare(self)
        part = self._prepared.with_name(f"{self._prepared.name}.{os.getpid()}.part")
        shutil.copytree(self._data, part)
        try:
            part.rename(self._prepared)
        except OSError:  # another process was first
            shutil.rmtree(part)

    def _own(self) -> None:
        """Makes the server's user the only owner of the data."""
        self._data.chmod(0o700)
        if self._as_owner:
            self.run_directory.chmod(0o755)
            for path in [self._data, *self._data.rglob("*")]:
                os.chown(path, _NOBODY, _NOBODY)

    def _ready(self) -> bool:
        try:
            self.sql("SELECT 1")
        except PostgreSqlError:
            return False
        return True
