"""A Vault server on loopback: OpenBao, or Vault if it is on PATH, in development mode, in memory.

Unlike Vault, OpenBao has namespaces (Vault: Enterprise only) and no AWS auth method.
"""

from __future__ import annotations

import base64
import json as jsonlib
import re
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import requests
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

from testbed.certificates import Identity
from testbed.processes import LOOPBACK, Part, Server, free_port, port_answers, wait_until
from testbed.tools import bao_binary

_REQUEST_TIMEOUT_SECONDS = 10

JsonObject = dict[str, Any]


class VaultApiError(RuntimeError):
    """The server did not answer 2xx. `status` is the HTTP status."""

    def __init__(self, method: str, path: str, status: int, text: str) -> None:
        super().__init__(f"Vault: {method} {path}: {status} {text.strip()}")
        self.status = status


class AppRole(NamedTuple):
    role_id: str
    secret_id: str


class Listener(NamedTuple):
    """An additional TLS listener with its own certificate. `client_authority` makes client certificates required."""

    identity: Identity
    client_authority: Path | None = None


class JwtIssuer:
    """Signs JWTs as a CI identity provider does, with a new key."""

    def __init__(self, issuer: str = "https://issuer.example") -> None:
        self.issuer = issuer
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @property
    def public_key(self) -> str:
        """PEM."""
        return (
            self._key.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode()
        )

    def sign(self, *, subject: str, audience: str, lifetime_seconds: int = 300) -> str:
        """An RS256 token. With a negative lifetime, it has expired."""
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": subject,
            "aud": audience,
            "iat": now - 1,
            "nbf": now - 1,
            "exp": now + lifetime_seconds,
        }
        text = f"{_base64url({'alg': 'RS256', 'typ': 'JWT'})}.{_base64url(claims)}"
        signature = self._key.sign(text.encode(), PKCS1v15(), hashes.SHA256())
        return f"{text}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


class VaultServer(Part):
    """An initialized and unsealed server, with a KV version 2 engine mounted at `secret`.

    With `tls`, it has a certificate signed by `ca_certificate`. `addresses` holds the addresses of `listeners`. The
    methods take API paths, as in policies: `secret/data/apps/chef` for a KV version 2 secret.
    """

    def __init__(
        self,
        *,
        tls: bool = False,
        listeners: Mapping[str, Listener] | None = None,
        run_directory: Path | None = None,
    ) -> None:
        super().__init__("vault", run_directory)
        self._listeners = {
            f"{LOOPBACK}:{free_port(consecutive=2)}": (name, listener) for name, listener in (listeners or {}).items()
        }
        self.addresses = {name: f"https://{listen}" for listen, (name, _) in self._listeners.items()}
        self.root_token = f"root-{uuid.uuid4()}"
        self.ca_certificate = self.run_directory / "vault-ca.pem" if tls else None
        # The next port is the cluster port.
        self._listen = f"{LOOPBACK}:{free_port(consecutive=2)}"
        self.address = f"{'https' if tls else 'http'}://{self._listen}"
        self._http = requests.Session()
        # Ignore the user's proxy and .netrc settings: everything is on loopback.
        self._http.trust_env = False
        if self.ca_certificate:
            self._http.verify = str(self.ca_certificate)
        self.server: Server | None = None

    def _start(self) -> None:
        tls = ["-dev-tls", f"-dev-tls-cert-dir={self.run_directory}"] if self.ca_certificate else []
        more = self.run_directory / "listeners.hcl"
        more.write_text("".join(_listener(listen, listener) for listen, (_, listener) in self._listeners.items()))
        self.server = Server(
            "vault",
            [
                bao_binary(),
                *("server", "-dev", f"-dev-listen-address={self._listen}", "-dev-no-store-token"),
                *([f"-config={more}"] if self._listeners else []),
                *tls,
            ],
            run_directory=self.run_directory,
            ready=self._ready,
            # The token goes through the environment, because argument lists are public.
            environment={
                "PATH": "/usr/bin:/bin",
                "HOME": str(self.run_directory),
                "BAO_DEV_ROOT_TOKEN_ID": self.root_token,
                "VAULT_DEV_ROOT_TOKEN_ID": self.root_token,
            },
        )
        self.server.start()

    def _stop(self) -> None:
        if self.server:
            self.server.stop()

    # Secrets

    def mount_kv(self, mount: str, version: int, *, namespace: str | None = None) -> None:
        """Mounts a KV engine, unless the path is in use."""
        mounts = self.api("GET", "/v1/sys/mounts", namespace=namespace)
        if f"{mount}/" not in mounts["data"]:
            body = {"type": "kv", "options": {"version": str(version)}}
            self.api("POST", f"/v1/sys/mounts/{mount}", json=body, namespace=namespace)

    def write_kv1(self, mount: str, path: str, data: Mapping[str, Any], *, namespace: str | None = None) -> None:
        """Writes a KV version 1 secret. Mounts the engine if needed."""
        self.mount_kv(mount, 1, namespace=namespace)
        self.api("POST", f"/v1/{mount}/{path}", json=dict(data), namespace=namespace)

    def write_kv2(self, mount: str, path: str, data: Mapping[str, Any], *, namespace: str | None = None) -> int:
        """Writes a KV version 2 secret and returns its version. Mounts the engine if needed."""
        self.mount_kv(mount, 2, namespace=namespace)
        body = {"data": dict(data)}

        written: list[int] = []

        def write() -> bool:
            # A new mount briefly answers 400 ("Upgrading from non-versioned to versioned data").
            try:
                answer = self.api("POST", f"/v1/{mount}/data/{path}", json=body, namespace=namespace)
            except VaultApiError as error:
                if error.status == requests.codes.bad_request:
                    return False
                raise
            written.append(answer["data"]["version"])
            return True

        wait_until(write, timeout=10, what=f"a write to the KV engine {mount}")
        return written[0]

    def delete_kv2(self, mount: str, path: str) -> None:
        """Deletes the newest version. Reading it then returns 404 with metadata."""
        self.api("DELETE", f"/v1/{mount}/data/{path}")

    # Access

    def create_policy(self, *paths: str, namespace: str | None = None) -> str:
        """Creates a policy that allows reading exactly these paths. Returns its name."""
        name = f"read-{uuid.uuid4()}"
        rules = "\n".join(f'path "{path}" {{ capabilities = ["read"] }}' for path in paths)
        self.api("PUT", f"/v1/sys/policies/acl/{name}", json={"policy": rules}, namespace=namespace)
        return name

    def create_token(self, *paths: str, ttl: str = "1h", namespace: str | None = None) -> str:
        """Creates a token that can read exactly these paths."""
        body = {"policies": [self.create_policy(*paths, namespace=namespace)], "ttl": ttl, "renewable": False}
        answer = self.api("POST", "/v1/auth/token/create-orphan", json=body, namespace=namespace)
        token: str = answer["auth"]["client_token"]
        return token

    def revoke_token(self, token: str) -> None:
        self.api("POST", "/v1/auth/token/revoke", json={"token": token})

    def expired_token(self, *paths: str) -> str:
        """An expired token for these paths."""
        token = self.create_token(*paths, ttl="1s")
        wait_until(lambda: not self.token_is_valid(token), timeout=10, what="a token's expiry")
        return token

    def token_is_valid(self, token: str) -> bool:
        try:
            self.api("POST", "/v1/auth/token/lookup", json={"token": token})
        except VaultApiError:
            return False
        return True

    def token_accessors(self) -> set[str]:
        """The accessors of all valid tokens. A revoked login leaves none."""
        answer = self.api("LIST", "/v1/auth/token/accessors")
        return set(answer["data"]["keys"])

    def create_approle(self, role: str, *paths: str, mount: str = "approle", bind_secret_id: bool = True) -> AppRole:
        """Creates an AppRole whose tokens can read exactly these paths. Without `bind_secret_id`, its id is ""."""
        self._enable_auth(mount, "approle")
        body: JsonObject = {"token_policies": [self.create_policy(*paths)], "token_ttl": "10m"}
        if not bind_secret_id:  # an AppRole needs a constraint
            body |= {"bind_secret_id": False, "token_bound_cidrs": [f"{LOOPBACK}/32"]}
        self.api("POST", f"/v1/auth/{mount}/role/{role}", json=body)
        role_id = self.api("GET", f"/v1/auth/{mount}/role/{role}/role-id")["data"]["role_id"]
        if not bind_secret_id:
            return AppRole(role_id, "")
        secret_id = self.api("POST", f"/v1/auth/{mount}/role/{role}/secret-id")["data"]["secret_id"]
        return AppRole(role_id, secret_id)

    def wrapped_secret_id(self, role: str, *, mount: str = "approle", ttl: str = "60s") -> str:
        """Creates a wrapped secret id for the role. Returns the token that unwraps it once."""
        answer = self._http.request(
            "POST",
            f"{self.address}/v1/auth/{mount}/role/{role}/secret-id",
            headers={"X-Vault-Token": self.root_token, "X-Vault-Wrap-TTL": ttl},
            timeout=_REQUEST_TIMEOUT_SECONDS,
        )
        return str(answer.json()["wrap_info"]["token"])

    def create_jwt_role(
        self, role: str, *paths: str, issuer: JwtIssuer, subject: str, audience: str, mount: str = "jwt"
    ) -> None:
        """Creates a role for the issuer's JWTs with this subject and audience. Its tokens can read these paths."""
        self._enable_auth(mount, "jwt")
        configuration = {"jwt_validation_pubkeys": [issuer.public_key], "bound_issuer": issuer.issuer}
        self.api("POST", f"/v1/auth/{mount}/config", json=configuration)
        body = {
            "role_type": "jwt",
            "user_claim": "sub",
            "bound_subject": subject,
            "bound_audiences": [audience],
            "token_policies": [self.create_policy(*paths)],
            "token_ttl": "10m",
        }
        self.api("POST", f"/v1/auth/{mount}/role/{role}", json=body)

    def create_namespace(self, name: str) -> None:
        """Creates a namespace. Requires OpenBao 2.3 or Vault Enterprise."""
        self.api("POST", f"/v1/sys/namespaces/{name}")

    # State

    def seal(self) -> None:
        """Seals the server: every request returns 503."""
        self.api("POST", "/v1/sys/seal")

    def unseal(self) -> None:
        self.api("POST", "/v1/sys/unseal", json={"key": self._unseal_key()})
        wait_until(self._ready, timeout=10, what="the unsealed Vault's answer")

    def api(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        namespace: str | None = None,
        json: JsonObject | None = None,
    ) -> Any:
        """Sends a request, by default with the root token. Returns the parsed answer, or None if it is empty.

        Raises VaultApiError for any status other than 2xx.
        """
        headers = {"X-Vault-Token": self.root_token if token is None else token}
        if namespace:
            headers["X-Vault-Namespace"] = namespace
        answer = self._http.request(
            method, self.address + path, json=json, headers=headers, timeout=_REQUEST_TIMEOUT_SECONDS
        )
        if not answer.ok:
            raise VaultApiError(method, path, answer.status_code, answer.text)
        return answer.json() if answer.content else None

    def _enable_auth(self, mount: str, kind: str) -> None:
        if f"{mount}/" not in self.api("GET", "/v1/sys/auth")["data"]:
            self.api("POST", f"/v1/sys/auth/{mount}", json={"type": kind})

    def _unseal_key(self) -> str:
        assert self.server is not None
        keys = re.findall(r"^Unseal Key: (\S+)$", self.server.log.read_text(), flags=re.MULTILINE)
        if not keys:
            raise RuntimeError(f"no unseal key in the log: {self.server.log}")
        return str(keys[-1])

    def _ready(self) -> bool:
        try:
            mounts = self.api("GET", "/v1/sys/mounts")
        except VaultApiError:
            return False
        # The development server mounts this last.
        return "secret/" in mounts["data"]


class VaultAgent(Part):
    """A Vault agent in front of the server, logged in with an AppRole. It accepts requests without a token."""

    def __init__(self, server: VaultServer, role: AppRole, run_directory: Path | None = None) -> None:
        super().__init__("vault-agent", run_directory)
        self._vault = server
        self._role = role
        self._port = free_port()
        self.address = f"http://{LOOPBACK}:{self._port}"
        self.server: Server | None = None

    def _start(self) -> None:
        files = {name: self.run_directory / name for name in ("role_id", "secret_id", "token")}
        files["role_id"].write_text(self._role.role_id)
        files["secret_id"].write_text(self._role.secret_id)
        configuration = self.run_directory / "agent.hcl"
        configuration.write_text(f"""
vault {{
  address = "{self._vault.address}"
}}
auto_auth {{
  method "approle" {{
    config = {{
      role_id_file_path = "{files["role_id"]}"
      secret_id_file_path = "{files["secret_id"]}"
      remove_secret_id_file_after_reading = false
    }}
  }}
  sink "file" {{
    config = {{ path = "{files["token"]}" }}
  }}
}}
api_proxy {{
  use_auto_auth_token = true
}}
listener "tcp" {{
  address = "{LOOPBACK}:{self._port}"
  tls_disable = true
  require_request_header = true
}}
""")
        self.server = Server(
            "vault-agent",
            [bao_binary(), "agent", f"-config={configuration}"],
            run_directory=self.run_directory,
            ready=lambda: files["token"].exists() and port_answers(self._port),
            environment={"PATH": "/usr/bin:/bin", "HOME": str(self.run_directory)},
        )
        self.server.start()

    def _stop(self) -> None:
        if self.server:
            self.server.stop()


def _listener(listen: str, listener: Listener) -> str:
    clients = (
        f'tls_require_and_verify_client_cert = true\n  tls_client_ca_file = "{listener.client_authority}"'
        if listener.client_authority
        else ""
    )
    return f"""
listener "tcp" {{
  address = "{listen}"
  tls_cert_file = "{listener.identity.certificate}"
  tls_key_file = "{listener.identity.key}"
  {clients}
}}
"""


def _base64url(value: JsonObject) -> str:
    return base64.urlsafe_b64encode(jsonlib.dumps(value).encode()).rstrip(b"=").decode()
