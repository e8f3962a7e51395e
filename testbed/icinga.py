"""Icinga 2 on loopback, with its API over TLS and its own certificate authority.

Measured behavior of Icinga 2.13:

- A missing permission returns 404 "No objects found.", for queries and deletions. So does an invalid filter.
  Only a wrong password returns 401.
- A query or deletion whose filter matches nothing returns 200 with ``"results": []``.
- Deleting a host with services requires ``cascade``.
- The certificate of its authority has no Authority Key Identifier.
"""

from __future__ import annotations

import base64
import contextlib
import getpass
import grp
import http.client
import json
import os
import secrets
import ssl
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from testbed.processes import LOOPBACK, Part, Server, free_port
from testbed.tools import icinga_tree

_TIMEOUT_SECONDS = 10
_NAME = "localhost"  # in the certificate, and therefore in the URL

# Icinga consists of three processes, and the others survive when the first is killed. This guard kills the process
# group on SIGTERM, or when its parent dies.
_GUARD = """
import ctypes, os, signal, subprocess, sys
signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
sys.exit(subprocess.call(sys.argv[1:]))
"""

_CONFIGURATION = """
const NodeName = "{name}"
const ZoneName = "{name}"
include <itl>
object Endpoint "{name}" {{ }}
object Zone "{name}" {{ endpoints = [ "{name}" ] }}
object CheckCommand "none" {{ command = [ "/bin/true" ] }}
template Host "test" {{ check_command = "none" }}
object ApiListener "api" {{ bind_host = "{address}"; bind_port = {port} }}
"""


class IcingaApiError(RuntimeError):
    """Icinga did not answer 2xx."""


class Icinga(Part):
    """Icinga 2, without hosts at first.

    Args:
        users: the permissions of each API user. `passwords` holds their passwords.
    """

    def __init__(
        self, users: Mapping[str, Sequence[str]] | None = None, *, run_directory: Path | None = None
    ) -> None:
        super().__init__("icinga", run_directory)
        self._users = {"admin": ["*"], **(users or {})}
        self._port = free_port()
        self.passwords = {name: secrets.token_hex(16) for name in self._users}
        self.url = f"https://{_NAME}:{self._port}"
        self.ca = self.run_directory / "data" / "certs" / "ca.crt"
        self.server: Server | None = None

    def _start(self) -> None:
        tree = icinga_tree()
        [program] = tree.find("usr/lib/*/icinga2/sbin/icinga2")
        for folder in ("data/certs", "log", "cache", "spool", "run"):
            (self.run_directory / folder).mkdir(parents=True)
        configuration = self.run_directory / "icinga2.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(self._configuration())
        paths = {"DataDir": "data", "LogDir": "log", "CacheDir": "cache", "SpoolDir": "spool", "InitRunDir": "run"}
        defines = {name: str(self.run_directory / folder) for name, folder in paths.items()}
        # Otherwise, it would switch to the package's user, which this machine may not have.
        defines |= {"RunAsUser": getpass.getuser(), "RunAsGroup": grp.getgrgid(os.getgid()).gr_name}
        options = [f"-D{name}={value}" for name, value in defines.items()]
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(self.run_directory), **tree.environment}

        def run(*arguments: str) -> None:
            subprocess.run(
                [program, *arguments, *options], env=environment, check=True, capture_output=True, timeout=60
            )

        certificates = self.run_directory / "data" / "certs"
        key, request = f"{certificates}/{_NAME}.key", f"{certificates}/{_NAME}.csr"
        run("pki", "new-ca")
        run("pki", "new-cert", "--cn", _NAME, "--key", key, "--csr", request)
        run("pki", "sign-csr", "--csr", request, "--cert", f"{certificates}/{_NAME}.crt")
        self.ca.write_bytes((self.run_directory / "data" / "ca" / "ca.crt").read_bytes())
        include = tree.root / "usr/share/icinga2/include"
        daemon = ("daemon", "-c", str(configuration))
        self.server = Server(
            "icinga2",
            [sys.executable, "-I", "-S", "-c", _GUARD, program, *daemon, *options, "-I", include],
            run_directory=self.run_directory,
            ready=self._ready,
            environment=environment,
        )
        self.server.start()

    def _stop(self) -> None:
        if self.server:
            self.server.stop()

    def create_host(self, name: str, **variables: str) -> None:
        """Creates a host with these custom variables."""
        host = {"templates": ["test"], "attrs": {"vars": variables, "address": "192.0.2.1"}}
        self.api("PUT", f"/v1/objects/hosts/{quote(name, safe='')}", host)

    def delete_host(self, name: str) -> None:
        self.api("DELETE", f"/v1/objects/hosts/{quote(name, safe='')}", {"cascade": True})

    def hosts(self) -> list[str]:
        """The names of all hosts."""
        return sorted(host["name"] for host in self.api("GET", "/v1/objects/hosts")["results"])

    def api(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, user: str = "admin") -> Any:
        """Sends a request and returns the parsed answer. Raises IcingaApiError for any status other than 200."""
        context = ssl.create_default_context(cafile=self.ca)
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        credentials = base64.b64encode(f"{user}:{self.passwords[user]}".encode()).decode()
        headers = {"Accept": "application/json", "Authorization": f"Basic {credentials}"}
        connection = http.client.HTTPSConnection(_NAME, self._port, timeout=_TIMEOUT_SECONDS, context=context)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        if answer.status != http.HTTPStatus.OK:
            raise IcingaApiError(f"Icinga: {method} {path}: {answer.status} {text}")
        return json.loads(text)

    def _configuration(self) -> str:
        text = _CONFIGURATION.format(name=_NAME, address=LOOPBACK, port=self._port)
        for name, permissions in self._users.items():
            granted = ", ".join(f'"{permission}"' for permission in permissions)
            text += (
                f'object ApiUser "{name}" {{ password = "{self.passwords[name]}"; permissions = [ {granted} ] }}\n'
            )
        return text

    def _ready(self) -> bool:
        try:
            return bool(self.api("GET", "/v1/status/IcingaApplication"))
        except IcingaApiError:
            return False
