"""A Chef server on loopback: goiardi, in memory, with signed requests required.

This module signs its requests with its own code, not with the function's library, to test that library independently.

Measured differences between goiardi 0.11.10 and Chef Infra Server:

- It has no organizations: the server's URL is its root. An unknown path returns 200 with an empty body.
- `total` of a search is the number of rows on the page, not of all matches. Without `rows`, a search returns all.
- Search finds a node shortly after it is written (`wait_for_index`). Chef Infra Server lags by a few seconds.
- A client that is not an administrator can read everything, and delete its own node and client. Any other delete
  returns 403, even for a missing node, but 404 for a missing client.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import requests
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from testbed.processes import LOOPBACK, Part, Server, ServerError, free_port
from testbed.tools import goiardi_binary

_REQUEST_TIMEOUT_SECONDS = 10
_INDEX_SECONDS = 10
_SIGNATURE_LINE = 60

Protocol = Literal["1.0", "1.3"]
JsonObject = dict[str, Any]


class ChefApiError(RuntimeError):
    """The Chef server did not answer 2xx. `status` is the HTTP status."""

    def __init__(self, method: str, path: str, status: int, text: str) -> None:
        super().__init__(f"Chef server: {method} {path}: {status} {text.strip()}")
        self.status = status


def signed_headers(
    method: str, path: str, body: bytes, *, name: str, key: rsa.RSAPrivateKey, protocol: Protocol = "1.3"
) -> dict[str, str]:
    """The X-Ops headers of a request, as the "Authentication" page of Chef's server API documents them.

    `path` is the URL's path without the query.
    """
    timestamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if protocol == "1.3":
        content_hash = _digest("sha256", body)
        sign = "version=1.3"
        canonical = (
            f"Method:{method}\nPath:{path}\nX-Ops-Content-Hash:{content_hash}\nX-Ops-Sign:{sign}\n"
            f"X-Ops-Timestamp:{timestamp}\nX-Ops-UserId:{name}\nX-Ops-Server-API-Version:0"
        )
        signature = key.sign(canonical.encode(), PKCS1v15(), hashes.SHA256())
    else:
        content_hash = _digest("sha1", body)
        sign = "algorithm=sha1;version=1.0;"
        canonical = (
            f"Method:{method}\nHashed Path:{_digest('sha1', path.encode())}\n"
            f"X-Ops-Content-Hash:{content_hash}\nX-Ops-Timestamp:{timestamp}\nX-Ops-UserId:{name}"
        )
        # Version 1.0 encrypts the text with the private key, not a hash of it.
        signature = key.sign(canonical.encode(), PKCS1v15(), NoDigestInfo())
    encoded = base64.b64encode(signature).decode()
    lines = [encoded[start : start + _SIGNATURE_LINE] for start in range(0, len(encoded), _SIGNATURE_LINE)]
    return {
        "X-Ops-Sign": sign,
        "X-Ops-UserId": name,
        "X-Ops-Timestamp": timestamp,
        "X-Ops-Content-Hash": content_hash,
        "X-Ops-Server-API-Version": "0",
        "X-Chef-Version": "14.0.0",
        **{f"X-Ops-Authorization-{number}": line for number, line in enumerate(lines, start=1)},
    }


class ChefApi:
    """Signed requests as one client or user."""

    def __init__(self, url: str, name: str, key: bytes, protocol: Protocol = "1.3") -> None:
        """`key` is the private key in PEM."""
        self.url = url
        self.name = name
        self._protocol = protocol
        private_key = load_pem_private_key(key, password=None)
        if not isinstance(private_key, rsa.RSAPrivateKey):
            raise TypeError("a Chef key is an RSA key")
        self._key = private_key
        self._http = requests.Session()
        # Ignore the user's proxy and .netrc settings: everything is on loopback.
        self._http.trust_env = False

    def request(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, json: JsonObject | None = None
    ) -> Any:
        """Returns the parsed answer. Raises ChefApiError for any status other than 2xx."""
        request = requests.Request(method, self.url + path, params=params, json=json)
        prepared = self._http.prepare_request(request)
        body = prepared.body or b""
        prepared.headers.update(
            signed_headers(
                method,
                urlsplit(self.url + path).path,
                body if isinstance(body, bytes) else body.encode(),
                name=self.name,
                key=self._key,
                protocol=self._protocol,
            )
        )
        prepared.headers["Accept"] = "application/json"
        answer = self._http.send(prepared, timeout=_REQUEST_TIMEOUT_SECONDS)
        if not answer.ok:
            raise ChefApiError(method, path, answer.status_code, answer.text)
        return answer.json()


class ChefServer(Part):
    """A Chef server in memory. It loses its data when it stops."""

    admin_name = "admin"

    def __init__(self, *, run_directory: Path | None = None) -> None:
        super().__init__("chef", run_directory)
        self._port = free_port()
        self.url = f"http://{LOOPBACK}:{self._port}"
        self.server: Server | None = None
        self._api: ChefApi | None = None

    def _start(self) -> None:
        arguments = [
            *("--use-auth", f"--ipaddress={LOOPBACK}", f"--hostname={LOOPBACK}", f"--port={self._port}"),
            f"--conf-root={self.run_directory}",
            "--log-level=info",
        ]
        self.server = Server(
            "goiardi",
            [goiardi_binary(), *arguments],
            run_directory=self.run_directory,
            ready=self._ready,
            environment={"PATH": "/usr/bin:/bin", "HOME": str(self.run_directory)},
        )
        self.server.start()

    def _stop(self) -> None:
        if self.server:
            self.server.stop()

    @property
    def admin_key(self) -> bytes:
        """The private key of the user `admin` (PEM). The server writes it on startup."""
        return (self.run_directory / "admin.pem").read_bytes()

    @property
    def api(self) -> ChefApi:
        """Requests signed as the administrator."""
        if self._api is None:
            self._api = ChefApi(self.url, self.admin_name, self.admin_key)
        return self._api

    def api_as(self, name: str, key: bytes, protocol: Protocol = "1.3") -> ChefApi:
        """Requests signed as another client."""
        return ChefApi(self.url, name, key, protocol)

    def create_client(self, name: str, *, admin: bool = False) -> bytes:
        """Creates a client and returns its private key (PEM). Only an `admin` can delete other clients."""
        answer = self.api.request("POST", "/clients", json={"name": name, "admin": admin})
        key: str = answer["private_key"]
        return key.encode()

    def create_node(
        self,
        name: str,
        *,
        ec2: Mapping[str, Any] | None = None,
        automatic: Mapping[str, Any] | None = None,
        run_list: Sequence[str] = (),
    ) -> None:
        """Creates a node as Chef Infra Client saves it.

        `ec2` holds Ohai's data about the instance (`instance_id`, `local_ipv4`, …). A node that never converged has
        none. `automatic` holds further Ohai attributes (`ipaddress`, `fqdn`, …).
        """
        attributes = dict(automatic or {})
        if ec2 is not None:
            attributes["ec2"] = dict(ec2)
        node = {
            "name": name,
            "chef_type": "node",
            "json_class": "Chef::Node",
            "chef_environment": "_default",
            "run_list": list(run_list),
            "automatic": attributes,
            "normal": {},
            "default": {},
            "override": {},
        }
        self.api.request("POST", "/nodes", json=node)

    def wait_for_index(self, name: str) -> None:
        """Waits until the search finds the node: goiardi indexes nodes after it answers."""
        end = time.monotonic() + _INDEX_SECONDS
        while name not in self.search_nodes("*:*"):
            if time.monotonic() > end:
                raise ServerError(f"goiardi did not index node {name} within {_INDEX_SECONDS} s")
            time.sleep(0.02)

    def nodes(self) -> list[str]:
        """The names of all nodes."""
        return sorted(self.api.request("GET", "/nodes"))

    def clients(self) -> list[str]:
        """The names of all clients, including goiardi's own: chef-validator and chef-webui."""
        return sorted(self.api.request("GET", "/clients"))

    def node(self, name: str) -> JsonObject | None:
        return self._get(f"/nodes/{name}")

    def client(self, name: str) -> JsonObject | None:
        return self._get(f"/clients/{name}")

    def delete_node(self, name: str) -> None:
        self.api.request("DELETE", f"/nodes/{name}")

    def delete_client(self, name: str) -> None:
        self.api.request("DELETE", f"/clients/{name}")

    def search_nodes(self, query: str) -> list[str]:
        """The names of the nodes that match the query."""
        answer = self.api.request("GET", "/search/node", params={"q": query, "rows": "1000"})
        return sorted(row["name"] for row in answer["rows"])

    def search_node_attributes(
        self, query: str, keys: Mapping[str, Sequence[str]], *, start: int = 0, rows: int = 1000
    ) -> JsonObject:
        """Makes a partial search. `keys` maps names in the answer to attribute paths."""
        answer: JsonObject = self.api.request(
            "POST",
            "/search/node",
            params={"q": query, "start": str(start), "rows": str(rows)},
            json={name: list(path) for name, path in keys.items()},
        )
        return answer

    def _get(self, path: str) -> JsonObject | None:
        try:
            found: JsonObject = self.api.request("GET", path)
        except ChefApiError as error:
            if error.status == requests.codes.not_found:
                return None
            raise
        return found

    def _ready(self) -> bool:
        # Each start writes a new key. Until then, the old file is still there.
        self._api = None
        try:
            self.api.request("GET", "/nodes")
        except (ValueError, ChefApiError):
            return False
        return True


def _digest(algorithm: Literal["sha1", "sha256"], data: bytes) -> str:
    return base64.b64encode(hashlib.new(algorithm, data).digest()).decode()
