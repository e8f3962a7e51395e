"""Zabbix's API on loopback: the PHP frontend on PHP's web server, with PostgreSQL. The Zabbix server does not run.

Measured behavior of Zabbix 6.0:

- Every answer is 200. An error has ``error`` in place of ``result``.
- The token is in ``auth`` of the body. The Authorization header is supported since 6.4.
- A wrong token is "Not authorized.", an ended session "Session terminated, re-login, please."
- A missing host and a read-only host are "No permissions to referred object or it does not exist!"
- A user without permission for a host does not see it: ``"result": []``.
- ``host.get`` by tag with operator 1 is an exact match. Operator 0 matches every value that contains the text.
"""

from __future__ import annotations

import gzip
import re
import secrets
import shutil
from pathlib import Path
from typing import Any

import requests

from testbed.postgresql import PostgreSql
from testbed.processes import LOOPBACK, Part, Server, free_port
from testbed.tools import php_tree, zabbix_tree

_TIMEOUT_SECONDS = 30
_TAG = "aws.instance_id"
_EXTENSIONS = (
    *("ctype", "gettext", "mbstring", "pgsql", "bcmath", "sockets", "gd", "fileinfo"),
    *("dom", "xml", "xmlreader", "xmlwriter", "simplexml"),
)
_ADMIN_ROLE = "2"  # a role in the schema that can manage the hosts of its groups
_RIGHTS = {"write": 3, "read": 2}


class ZabbixApiError(RuntimeError):
    """The API answered with an error."""


class Zabbix(Part):
    """Zabbix's API. All test hosts are in one host group."""

    def __init__(self, *, run_directory: Path | None = None) -> None:
        super().__init__("zabbix", run_directory)
        self._port = free_port()
        self.url = f"http://{LOOPBACK}:{self._port}/api_jsonrpc.php"
        self.server: Server | None = None
        self._database: PostgreSql | None = None
        self._session = ""
        self._group = ""
        self._http = requests.Session()
        # Ignore the user's proxy and .netrc settings: everything is on loopback.
        self._http.trust_env = False

    def _start(self) -> None:
        [source] = zabbix_tree().find("usr/share/zabbix")
        name = f"zabbix-{_version(source)}"
        self._database = PostgreSql(name, _load)
        self._database.start()
        self.server = self._frontend(source, self._database)
        self.server.start()
        self._session = self.call("user.login", {"user": "Admin", "password": "zabbix"}, token=None)
        self._group = self.call("hostgroup.create", {"name": "EC2"})["groupids"][0]

    def _stop(self) -> None:
        if self.server:
            self.server.kill()
        if self._database:
            self._database.stop()

    # Hosts and users

    def create_host(self, name: str, instance_id: str | None = None) -> str:
        """Creates a host with the tag ``aws.instance_id``. Returns its id."""
        tags = [{"tag": _TAG, "value": instance_id}] if instance_id else []
        host = {"host": name, "groups": [{"groupid": self._group}], "tags": tags}
        hostid: str = self.call("host.create", host)["hostids"][0]
        return hostid

    def delete_host(self, hostid: str) -> None:
        self.call("host.delete", [hostid])

    def hosts(self) -> dict[str, str]:
        """The host names in the group, by id."""
        found = self.call("host.get", {"output": ["hostid", "host"], "groupids": [self._group]})
        return {host["hostid"]: host["host"] for host in found}

    def create_token(self, rights: str = "write") -> str:
        """Creates an API token for a new user who can ``write`` or ``read`` the group's hosts."""
        name = f"user-{secrets.token_hex(4)}"
        permission = {"permission": _RIGHTS[rights], "id": self._group}
        group = self.call("usergroup.create", {"name": name, "rights": [permission]})["usrgrpids"][0]
        user = {
            "username": name,
            "passwd": secrets.token_urlsafe(24),
            "roleid": _ADMIN_ROLE,
            "usrgrps": [{"usrgrpid": group}],
        }
        userid = self.call("user.create", user)["userids"][0]
        tokenid = self.call("token.create", {"name": name, "userid": userid})["tokenids"][0]
        token: str = self.call("token.generate", [tokenid])[0]["token"]
        return token

    def call(self, method: str, params: Any, *, token: str | None = "") -> Any:
        """Makes a call, by default as the administrator, and returns the result."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        if token is not None:
            body["auth"] = token or self._session
        answer = self._http.post(self.url, json=body, timeout=_TIMEOUT_SECONDS)
        answer.raise_for_status()
        document = answer.json()
        if "error" in document:
            raise ZabbixApiError(f"Zabbix: {method}: {document['error']}")
        return document["result"]

    # Internals

    def _frontend(self, source: Path, database: PostgreSql) -> Server:
        pages = self.run_directory / "frontend"
        pages.mkdir()
        for name in ("include", "local", "modules", "vendor", "conf"):
            shutil.copytree(source / name, pages / name, symlinks=True)
        shutil.copy(source / "api_jsonrpc.php", pages)
        self._configure(pages, database)
        php = php_tree()
        [extensions] = {path.parent for path in php.find("usr/lib/php/*/pgsql.so")}
        loaded = [f"extension={name}" for name in _EXTENSIONS if (extensions / f"{name}.so").exists()]
        options = [f"extension_dir={extensions}", *loaded, "memory_limit=256M", "max_execution_time=60"]
        return Server(
            "frontend",
            [
                php.find("usr/bin/php[0-9]*")[-1],
                *("-n", *(word for option in options for word in ("-d", option))),
                *("-S", f"{LOOPBACK}:{self._port}", "-t", str(pages)),
            ],
            run_directory=self.run_directory,
            ready=lambda: bool(self.call("apiinfo.version", [], token=None)),
            environment={"PATH": "/usr/bin:/bin", **php.environment},
        )

    def _configure(self, pages: Path, database: PostgreSql) -> None:
        """Writes the configuration. Debian's package reads it from /etc, others from conf/."""
        file = pages / "conf" / "zabbix.conf.php"
        access = {
            "TYPE": "POSTGRESQL",
            "SERVER": LOOPBACK,
            "PORT": str(database.port),
            "DATABASE": "zabbix",
            "USER": database.user,
            "PASSWORD": "",
            "SCHEMA": "",
        }
        lines = [f"$DB['{name}'] = '{value}';" for name, value in access.items()]
        lines += ["$DB['ENCRYPTION'] = false;", "$DB['DOUBLE_IEEE754'] = true;"]
        file.write_text("\n".join(["<?php", *lines, "$IMAGE_FORMAT_DEFAULT = IMAGE_FORMAT_PNG;", ""]))
        reader = pages / "include" / "classes" / "core" / "CConfigFile.php"
        reader.write_text(reader.read_text().replace("/etc/zabbix/zabbix.conf.php", str(file)))


def _version(source: Path) -> str:
    match = re.search(r"ZABBIX_VERSION',\s*'([^']+)'", (source / "include" / "defines.inc.php").read_text())
    return match[1] if match else "unknown"


def _load(server: PostgreSql) -> None:
    server.sql("CREATE DATABASE zabbix")
    [schema] = zabbix_tree().find("usr/share/zabbix-server-pgsql")
    for name in ("schema", "images", "data"):
        text = gzip.decompress((schema / f"{name}.sql.gz").read_bytes()).decode()
        server.sql(f"BEGIN;\n{text}\nCOMMIT;", database="zabbix")
