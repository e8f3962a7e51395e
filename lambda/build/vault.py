"""Reads the referenced secrets from Vault, with one read per path.

The build revokes its own login afterwards, even after an error. It never revokes the user's token. Messages contain
references and Vault's error texts, never a secret's value.

Tested with OpenBao 2.7 (KV versions 1 and 2, namespaces, AppRole, JWT, agent).
"""

import base64
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import boto3
import botocore.exceptions
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

from errors import VaultError
from home import expanded, home
from progress import say, warn
from spec import Reference, VaultAuth, VaultSettings
from vault_http import Answer, Client, connection

_HEADER_SAFE = re.compile(r"[\x21-\x7e]+")
# Service, batch, recovery and wrapping tokens. A secret id is a UUID by default, so it does not match.
_TOKEN = re.compile(r"(hv[sbr]|[sbr])\.\S{20,}")


@dataclass
class Login:
    """A client, and a description of its login for messages."""

    client: Client
    described: str = ""
    own: bool = False  # made by this build, so this build revokes it


@contextmanager
def login(settings: VaultSettings, environ: Mapping[str, str] | None = None) -> Iterator[Login]:
    """Logs in for the duration of a `with` block. Raises VaultError if Vault refuses the login."""
    environ = os.environ if environ is None else environ
    made = Login(Client(connection(settings, environ)))
    _METHODS[settings.auth.method](made, settings.auth, environ)
    try:
        yield made
    finally:
        if made.own:
            _revoke(made)


def _revoke(made: Login) -> None:
    try:
        revoked = made.client.ask("POST", "auth/token/revoke-self").status < 400
    except VaultError:
        revoked = False
    if revoked:
        say("vault: own login revoked")
    else:
        warn("the build's own Vault login could not be revoked; it expires with its TTL.")


def _token_login(made: Login, _auth: VaultAuth, environ: Mapping[str, str]) -> None:
    source, token = "VAULT_TOKEN", environ.get("VAULT_TOKEN", "").strip()
    own = home(environ)
    if not token and own is not None:
        source = "~/.vault-token"
        try:
            token = (own / ".vault-token").read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            token = ""
    if not token:
        made.described = "the agent's token"  # an agent with auto-auth adds its token to requests without one
        return
    if not _HEADER_SAFE.fullmatch(token):
        raise VaultError(
            f"The value of {source} is not a Vault token: it contains a space, a line break or a non-ASCII character."
        )
    made.client.token = token
    made.client.credentials.append(token)
    made.described = f"the token of {source}"


def _approle_login(made: Login, auth: VaultAuth, environ: Mapping[str, str]) -> None:
    mount = auth.mount or "approle"
    role_id = _credential("AppRole role id", auth.role_id_file, "role_id_file", "VAULT_ROLE_ID", environ)
    body = {"role_id": role_id}
    hint = ""
    if auth.secret_id_file is not None or environ.get("VAULT_SECRET_ID", "").strip():
        secret_id = _credential(
            "AppRole secret id", auth.secret_id_file, "secret_id_file", "VAULT_SECRET_ID", environ
        )
        body["secret_id"] = _unwrapped(made, secret_id) if _TOKEN.fullmatch(secret_id) else secret_id
    else:  # a role with bind_secret_id=false needs none
        hint = " No secret id was given (vault.auth.secret_id_file or VAULT_SECRET_ID)."
    _log_in(made, f"AppRole at auth/{mount}", list(body.values()), mount, body, hint)


def _unwrapped(made: Login, token: str) -> str:
    """Unwraps a secret id. https://developer.hashicorp.com/vault/docs/concepts/response-wrapping"""
    made.client.credentials.append(token)
    answer = made.client.ask("POST", "sys/wrapping/unwrap", token=token)
    if answer.status >= 400:
        raise VaultError(
            f"The wrapped AppRole secret id cannot be unwrapped{made.client.words(answer)}. It can be "
            "unwrapped only once and for a limited time. If neither you nor an earlier build unwrapped it, somebody "
            "else may have the secret id: revoke it and wrap a new one."
        )
    secret_id = (answer.document.get("data") or {}).get("secret_id")
    if not isinstance(secret_id, str):
        raise VaultError("The wrapped response given as the AppRole secret id contains no secret id.")
    return secret_id


def _jwt_login(made: Login, auth: VaultAuth, environ: Mapping[str, str]) -> None:
    variable = auth.jwt_env or "VAULT_JWT"
    token = _credential("JSON web token", auth.jwt_file, "jwt_file", variable, environ)
    mount = auth.mount or "jwt"
    body = {"jwt": token} | ({"role": auth.role} if auth.role else {})
    _log_in(made, f"JWT at auth/{mount}, role {auth.role or '(the default)'}", [token], mount, body)


def _aws_login(made: Login, auth: VaultAuth, _environ: Mapping[str, str]) -> None:
    region = auth.aws_region or "us-east-1"
    try:
        session = boto3.session.Session()
        found = session.get_credentials()
        if found is None:
            raise VaultError(
                f"The Vault login by AWS IAM needs AWS credentials, but there are none. {NO_AWS_CREDENTIALS}"
            )
        credentials = found.get_frozen_credentials()
    except botocore.exceptions.BotoCoreError as error:
        raise VaultError(
            f"The Vault login by AWS IAM needs AWS credentials, but loading them failed ({type(error).__name__}). "
            f"{NO_AWS_CREDENTIALS}"
        ) from None
    # Vault forwards this signed request to STS, which identifies the signer. Without a region, the request is for the
    # global endpoint, which Vault uses unless its sts_endpoint is set.
    partition = session.get_partition_for_region(region)
    suffix = "amazonaws.com.cn" if partition == "aws-cn" else "amazonaws.com"
    host = f"sts.{region}.{suffix}" if auth.aws_region else "sts.amazonaws.com"
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8", "Host": host}
    if auth.aws_header_value:
        headers["X-Vault-AWS-IAM-Server-ID"] = auth.aws_header_value
    url, data = f"https://{host}/", "Action=GetCallerIdentity&Version=2011-06-15"
    request = AWSRequest(method="POST", url=url, headers=headers, data=data)
    SigV4Auth(credentials, "sts", region).add_auth(request)
    mount = auth.mount or "aws"
    body = {
        "iam_http_request_method": "POST",
        "iam_request_url": _base64(url),
        "iam_request_headers": _base64(json.dumps({key: [value] for key, value in request.headers.items()})),
        "iam_request_body": _base64(data),
    } | ({"role": auth.role} if auth.role else {})
    secrets = [value for value in (credentials.secret_key, credentials.token) if value]
    _log_in(made, f"AWS IAM at auth/{mount}, role {auth.role or '(the default)'}", secrets, mount, body)


_METHODS: dict[str, Callable[[Login, VaultAuth, Mapping[str, str]], None]] = {
    "token": _token_login,
    "approle": _approle_login,
    "jwt": _jwt_login,
    "aws": _aws_login,
}

NO_AWS_CREDENTIALS = (
    "The build uses the credentials in the environment of `terraform apply` (AWS_PROFILE, AWS_ACCESS_KEY_ID and so "
    "on), not a role that the AWS provider assumes."
)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _credential(what: str, file: str | None, key: str, variable: str, environ: Mapping[str, str]) -> str:
    """Reads the file if one is named, otherwise the variable."""
    if file is not None:
        source = f"the file {file} (vault.auth.{key})"
        try:
            value = expanded(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise VaultError(f"The {what} for Vault cannot be read from {source}.") from None
    else:
        source = f"the environment variable {variable}"
        value = environ.get(variable, "").strip()
    if not value:
        raise VaultError(f"The {what} for Vault is missing: {source} is empty or not set.")
    return value


def _log_in(
    made: Login, described: str, credentials: list[str], mount: str, body: Mapping[str, str], hint: str = ""
) -> None:
    made.client.credentials.extend(credentials)
    made.described = f"the login by {described}"
    answer = made.client.ask("POST", f"auth/{mount}/login", body)
    _check_namespace(made, answer)
    if answer.status in (404, 405):
        raise VaultError(
            f"Vault has no login at auth/{mount}{made.client.words(answer)}; set vault.auth.mount."
            f"{_namespace_hint(made)}"
        )
    if answer.status >= 400:
        raise VaultError(
            f"Vault refused {made.described}{made.client.words(answer)}.{hint} Check the credentials, the role and "
            f"the mount (vault.auth.role, vault.auth.mount).{_namespace_hint(made)}"
        )
    auth = answer.document.get("auth")
    if not isinstance(auth, dict) or not isinstance(auth.get("client_token"), str):
        raise VaultError(f"The server at {made.client.where.address} is not Vault: its login returned no token.")
    made.client.token = auth["client_token"]
    made.client.credentials.append(made.client.token)
    # A batch token cannot be revoked; it expires with its (short) TTL.
    made.own = auth.get("token_type") != "batch"


def read(made: Login, references: Sequence[Reference], kv_version: int | None) -> dict[str, str]:
    """The values by secret name. Raises VaultError with a sentence for each reference that fails."""
    versions: dict[str, int | None] = {}
    answers: dict[tuple[str, str, int | None], Mapping[str, Any] | VaultError] = {}
    values: dict[str, str] = {}
    problems: list[str] = []
    for reference in references:
        if reference.mount not in versions:
            versions[reference.mount] = kv_version or _detect(made, reference.mount)
        key = (reference.mount, reference.path, reference.version)
        if key not in answers:
            try:
                answers[key] = _read_path(made, reference, versions[reference.mount])
            except _Refused as error:
                answers[key] = error
        answer = answers[key]
        try:
            if isinstance(answer, VaultError):
                raise answer
            values[reference.name] = _value(reference, answer)
            say(f"vault: read {reference.name} from {reference}")
        except VaultError as error:
            problems.append(f"The secret {reference.name} cannot be read from {reference}: {error}")
    if problems:
        raise VaultError(*problems)
    return values


class _Refused(VaultError):
    """One path could not be read. Other paths may still be readable."""


def _detect(made: Login, mount: str) -> int | None:
    """The version of a KV engine, or None if the token may not ask for it.

    Any token with a permission below the mount can read this path. The `vault` command relies on it too.
    https://developer.hashicorp.com/vault/api-docs/system/internal-ui-mounts
    """
    answer = made.client.ask("GET", f"sys/internal/ui/mounts/{quote(mount)}")
    data = answer.document.get("data")
    if answer.status >= 400 or not isinstance(data, dict):
        return None
    if data.get("type") not in ("kv", "generic", "cubbyhole"):
        raise VaultError(
            f"The engine mounted at {mount} in Vault has the type {data.get('type')!r}; secrets can be read only "
            "from a KV engine (kv)."
        )
    return 2 if str((data.get("options") or {}).get("version")) == "2" else 1


def _read_path(made: Login, reference: Reference, version: int | None) -> Mapping[str, Any]:
    if version == 2:
        return _read_v2(made, reference)
    if version == 1:
        return _read_v1(made, reference)
    try:
        return _read_v2(made, reference)
    except _Refused as second:
        # The version is unknown, and a path that fails with version 2 may exist in version 1.
        try:
            return _read_v1(made, reference)
        except _Refused:
            raise second from None


def _read_v2(made: Login, reference: Reference) -> Mapping[str, Any]:
    query = "" if reference.version is None else f"?version={reference.version}"
    data = _read(made, reference, f"{reference.mount}/data/{reference.path}", query)
    inner = data.get("data")
    if not isinstance(inner, dict):
        raise _Refused("the answer is not from a KV engine of version 2.")
    return inner


def _read_v1(made: Login, reference: Reference) -> Mapping[str, Any]:
    if reference.version is not None:
        raise _Refused(
            f"{reference.mount} is a KV engine of version 1, which stores no versions; leave out the version."
        )
    return _read(made, reference, f"{reference.mount}/{reference.path}")


def _read(made: Login, reference: Reference, path: str, query: str = "") -> Mapping[str, Any]:
    """The `data` of one path. Raises _Refused if the problem is this path, otherwise VaultError."""
    answer = made.client.ask("GET", quote(path) + query)
    _check_namespace(made, answer)
    if answer.status in (401, 403) or "missing client token" in answer.errors:
        if not made.client.token and not _token_is_known(answer):
            raise VaultError(
                f"There is no Vault token, and {made.client.where.address} is not an agent with auto-auth: set "
                "VAULT_TOKEN, log in with `vault login` (which writes ~/.vault-token), or choose another "
                "vault.auth.method."
            )
        if not _token_is_known(answer):
            raise VaultError(
                f"Vault does not accept {made.described}: it has expired, was revoked, or belongs to another Vault "
                f"or namespace{made.client.words(answer)}.{_namespace_hint(made)} "
                f"The build needs it to read the secret {reference.name} from {reference}."
            )
        raise _Refused(
            f"{made.described} has no permission to read {path}. Its policy needs: "
            f'path "{path}" {{ capabilities = ["read"] }}.{_namespace_hint(made)}'
        )
    if answer.status == 404:
        raise _Refused(_not_found(made, reference, answer))
    if answer.status >= 400:
        raise _Refused(f"Vault refused the read{made.client.words(answer)}.")
    data = answer.document.get("data")
    if not isinstance(data, dict):
        raise _Refused(f"the server at {made.client.where.address} is not Vault's KV engine.")
    return data


def _not_found(made: Login, reference: Reference, answer: Answer) -> str:
    data = answer.document.get("data")
    metadata = (data.get("metadata") if isinstance(data, dict) else None) or {}
    at = f"version {metadata.get('version')}"
    if metadata.get("destroyed"):
        return f"{at} was destroyed."
    if metadata.get("deletion_time"):
        return f"{at} was deleted on {metadata['deletion_time']}."
    if "no handler for route" in answer.errors or "unsupported path" in answer.errors:
        return f"no engine mounted at {reference.mount} can read such a path.{_namespace_hint(made)}"
    hint = ""
    if reference.path.startswith("data/"):
        hint = " Write the path without data/."
    version = "" if reference.version is None else f", or it has no version {reference.version}"
    return f"there is no such path{version}.{hint}{_namespace_hint(made)}"


def _token_is_known(answer: Answer) -> bool:
    """Whether Vault knows the token, so that only a permission is missing. Both cases have the status 403.

    For a missing permission, the text is a list ("1 error occurred: * permission denied"). For an unknown token, it
    is the bare "permission denied" (OpenBao 2.7, old Vaults), or the list contains "invalid token" (Vault).
    """
    words = answer.errors
    if "invalid token" in words or "bad token" in words:
        return False
    return "occurred" in words


def _value(reference: Reference, data: Mapping[str, Any]) -> str:
    if reference.field not in data:
        # Logs have more readers than the secret, so the message does not name its other fields.
        raise VaultError(f"there is no field {reference.field} (number of other fields: {len(data)}).")
    value = data[reference.field]
    if not isinstance(value, str):
        raise VaultError(f"the field {reference.field} is not text.")
    if not value.strip():
        raise VaultError(f"the field {reference.field} is empty.")
    return value


def _check_namespace(made: Login, answer: Answer) -> None:
    if answer.status == 404 and "namespace not found" in answer.errors:
        raise VaultError(
            f"Vault has no namespace {made.client.where.namespace} (vault.namespace or VAULT_NAMESPACE)."
        )


def _namespace_hint(made: Login) -> str:
    if made.client.where.namespace:
        return f" The namespace is {made.client.where.namespace}."
    return " No namespace is set (vault.namespace or VAULT_NAMESPACE)."
