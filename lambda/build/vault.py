"""Reads the secrets from Vault: exactly the references given, in one read a path.

A login that the build made itself is revoked when the reading ends, however it ends; the user's own token
is left alone. Sentences here name references, and Vault's own words for an error; values never.

Measured on OpenBao 2.7 (KV versions 1 and 2, namespaces, AppRole, JWT).
"""

import base64
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.exceptions
import hvac
import hvac.exceptions
import requests
import urllib3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from requests.adapters import HTTPAdapter
from urllib3.exceptions import InsecureRequestWarning
from urllib3.util.retry import Retry

from errors import VaultError
from progress import say, warn
from spec import Reference, VaultAuth, VaultSettings, address_problem

TIMEOUT = (5, 20)  # seconds to connect, and for each answer
_HEADER_SAFE = re.compile(r"[\x21-\x7e]+")
_TRUE = ("1", "t", "true")  # as Vault's own command reads its switches


@dataclass(frozen=True)
class Connection:
    """Where Vault is and how to reach it, with the standard variables applied."""

    address: str
    namespace: str | None
    verify: bool | str
    certificate: tuple[str, str] | None = None


def connection(settings: VaultSettings, environ: Mapping[str, str]) -> Connection:
    """Raises VaultError where the address or a file is missing."""
    address = settings.address or environ.get("VAULT_ADDR", "")
    if not address:
        raise VaultError(
            "There are secrets to read, and no Vault address: set vault.address, or the variable VAULT_ADDR."
        )
    problem = address_problem(address)
    if problem:
        raise VaultError(f"Vault's address (vault.address or VAULT_ADDR) {problem}.")
    verify: bool | str = True
    authority = settings.ca_certificate_file or environ.get("VAULT_CACERT") or environ.get("VAULT_CAPATH")
    if authority:
        verify = str(Path(authority).expanduser())
        if not Path(verify).exists():
            raise VaultError(
                f"The CA certificate for Vault, {authority}, does not exist (ca_certificate_file, VAULT_CACERT)."
            )
    if environ.get("VAULT_SKIP_VERIFY", "").lower() in _TRUE:
        warn("VAULT_SKIP_VERIFY is set: Vault's certificate is not checked, and whoever answers gets the login.")
        urllib3.disable_warnings(InsecureRequestWarning)  # it would come once a request
        verify = False
    if environ.get("VAULT_TLS_SERVER_NAME"):
        warn("VAULT_TLS_SERVER_NAME is set and has no effect here; vault.address must bear the certificate's name.")
    host = urlsplit(address).hostname or ""
    if address.startswith("http://") and host not in ("localhost", "::1") and not host.startswith("127."):
        warn(f"Vault is reached without encryption ({address}).")
    certificate = None
    if environ.get("VAULT_CLIENT_CERT") and environ.get("VAULT_CLIENT_KEY"):
        certificate = (environ["VAULT_CLIENT_CERT"], environ["VAULT_CLIENT_KEY"])
        for path in certificate:
            if not Path(path).is_file():
                raise VaultError(f"The client certificate or key for Vault, {path}, does not exist.")
    namespace = settings.namespace or environ.get("VAULT_NAMESPACE") or None
    return Connection(address.rstrip("/"), namespace.strip("/") if namespace else None, verify, certificate)


@dataclass
class Login:
    """A client with a token, and what the token is for the messages."""

    client: Any
    where: Connection
    described: str
    own: bool  # made by this build, so this build revokes it
    credentials: list[str] = field(default_factory=list)  # scrubbed from Vault's words for an error


@contextmanager
def login(
    settings: VaultSettings, environ: Mapping[str, str] | None = None, home: Path | None = None
) -> Iterator[Login]:
    """A login for the length of a `with`. Raises VaultError where it is refused."""
    environ = os.environ if environ is None else environ
    where = connection(settings, environ)
    # A replica that has not caught up answers 412, a busy one 429: worth another try, unlike the rest.
    retry = Retry(total=3, status_forcelist=(412, 429, 502), backoff_factor=0.5, raise_on_status=False, redirect=None)
    with requests.Session() as session:
        session.verify = where.verify
        session.cert = where.certificate
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        client = hvac.Client(  # type: ignore[no-untyped-call]
            url=where.address,
            token="",  # hvac would pick up the user's own
            namespace=where.namespace,
            verify=where.verify,
            cert=where.certificate,
            timeout=TIMEOUT,
            session=session,
        )
        made = Login(client, where, "", own=False)
        _METHODS[settings.auth.method](made, settings.auth, environ, home or Path.home())
        try:
            yield made
        finally:
            if made.own:
                _revoke(made)


def _revoke(made: Login) -> None:
    try:
        made.client.auth.token.revoke_self()
        say("vault: own login revoked")
    except (hvac.exceptions.VaultError, requests.RequestException):
        warn("the build's own Vault login could not be revoked; it lives until its time to live ends.")


def _token_login(made: Login, _auth: VaultAuth, environ: Mapping[str, str], home: Path) -> None:
    source, token = "VAULT_TOKEN", environ.get("VAULT_TOKEN", "").strip()
    if not token:
        source = "~/.vault-token"
        try:
            token = (home / ".vault-token").read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            token = ""
    if not token:
        raise VaultError(
            "There is no Vault token: set VAULT_TOKEN, or log in with `vault login` (which writes ~/.vault-token), "
            "or choose another vault.auth.method."
        )
    if not _HEADER_SAFE.fullmatch(token):
        raise VaultError(
            f"What {source} holds is not a Vault token: there is a space, a line break or a foreign letter in it."
        )
    made.client.token = token
    made.credentials.append(token)
    made.described = f"the token of {source}"


def _approle_login(made: Login, auth: VaultAuth, environ: Mapping[str, str], _home: Path) -> None:
    role_id = _credential("AppRole role id", auth.role_id_file, "role_id_file", "VAULT_ROLE_ID", environ)
    secret_id = _credential("AppRole secret id", auth.secret_id_file, "secret_id_file", "VAULT_SECRET_ID", environ)
    _log_in(
        made,
        f"AppRole at auth/{auth.mount or 'approle'}",
        [role_id, secret_id],
        auth.mount or "approle",
        {"role_id": role_id, "secret_id": secret_id},
    )


def _jwt_login(made: Login, auth: VaultAuth, environ: Mapping[str, str], _home: Path) -> None:
    variable = auth.jwt_env or "VAULT_JWT"
    token = _credential("JSON web token", auth.jwt_file, "jwt_file", variable, environ)
    mount = auth.mount or "jwt"
    body = {"jwt": token} | ({"role": auth.role} if auth.role else {})
    _log_in(made, f"JWT at auth/{mount}, role {auth.role or '(the default)'}", [token], mount, body)


def _aws_login(made: Login, auth: VaultAuth, _environ: Mapping[str, str], _home: Path) -> None:
    region = auth.aws_region or "us-east-1"
    try:
        session = boto3.session.Session()
        found = session.get_credentials()
        if found is None:
            raise VaultError(
                f"The Vault login by AWS IAM needs AWS credentials, and there are none. {NO_AWS_CREDENTIALS}"
            )
        credentials = found.get_frozen_credentials()
    except botocore.exceptions.BotoCoreError as error:
        raise VaultError(
            f"The Vault login by AWS IAM needs AWS credentials, and they could not be had ({type(error).__name__}). "
            f"{NO_AWS_CREDENTIALS}"
        ) from None
    # Vault sends this signed request on to STS, to learn who signed it. Without a region it is the global
    # endpoint, which is what Vault expects unless its sts_endpoint is set. hvac's helper knows only that one.
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


_METHODS: dict[str, Callable[[Login, VaultAuth, Mapping[str, str], Path], None]] = {
    "token": _token_login,
    "approle": _approle_login,
    "jwt": _jwt_login,
    "aws": _aws_login,
}

NO_AWS_CREDENTIALS = (
    "The build takes them from the environment of `terraform apply` (AWS_PROFILE, AWS_ACCESS_KEY_ID and so on); "
    "a role that the AWS provider assumes is not passed on to it."
)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _credential(what: str, file: str | None, key: str, variable: str, environ: Mapping[str, str]) -> str:
    """From the file where one is named, else from the variable."""
    if file is not None:
        source = f"the file {file} (vault.auth.{key})"
        try:
            value = Path(file).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise VaultError(f"The {what} for Vault cannot be read from {source}.") from None
    else:
        source = f"the environment variable {variable}"
        value = environ.get(variable, "").strip()
    if not value:
        raise VaultError(f"The {what} for Vault is missing: {source} is empty or not set.")
    return value


def _log_in(made: Login, described: str, credentials: list[str], mount: str, body: Mapping[str, str]) -> None:
    made.credentials.extend(credentials)
    made.described = f"the login by {described}"
    try:
        answer = made.client.login(f"/v1/auth/{mount}/login", json=body)
        auth = answer["auth"]
        made.client.token = auth["client_token"]
    except (hvac.exceptions.InvalidRequest, hvac.exceptions.Forbidden, hvac.exceptions.Unauthorized) as error:
        raise VaultError(
            f"Vault refused {made.described}{_words(error, made)}. Check the credentials, the role and the mount "
            f"(vault.auth.role, vault.auth.mount).{_namespace_hint(made)}"
        ) from None
    except hvac.exceptions.InvalidPath as error:
        if "namespace not found" in _text(error):
            raise VaultError(
                f"Vault has no namespace {made.where.namespace} (vault.namespace or VAULT_NAMESPACE)."
            ) from None
        raise VaultError(
            f"Vault knows no login at auth/{mount}{_words(error, made)}; set vault.auth.mount.{_namespace_hint(made)}"
        ) from None
    except (hvac.exceptions.VaultError, requests.RequestException) as error:
        raise _unavailable(error, made) from None
    except (KeyError, TypeError, ValueError):
        raise VaultError(
            f"What answers at {made.where.address} is not Vault: its answer to the login has no token."
        ) from None
    made.credentials.append(made.client.token)
    # A batch token has no entry of its own to revoke; it ends with its (short) time to live.
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
    """One path could not be read; the others are still worth a try."""


def _detect(made: Login, mount: str) -> int | None:
    """The version of a key-value engine, or None where the token may not ask.

    Any token with a right below the mount may read this path, the `vault` command relies on it too.
    https://developer.hashicorp.com/vault/api-docs/system/internal-ui-mounts
    """
    try:
        answer = made.client.read(f"sys/internal/ui/mounts/{mount}")
    except (hvac.exceptions.Forbidden, hvac.exceptions.InvalidPath, hvac.exceptions.InvalidRequest):
        return None
    except (hvac.exceptions.VaultError, requests.RequestException) as error:
        raise _unavailable(error, made) from None
    if answer is None:  # hvac's answer to 404
        return None
    data = answer.get("data") or {}
    if data.get("type") not in ("kv", "generic", "cubbyhole"):
        raise VaultError(
            f"The engine mounted at {mount} in Vault is of the type {data.get('type')!r}; the secrets are read "
            "from a key-value engine (kv)."
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
        # Not allowed to ask which version it is: what version 2 refuses may yet be there in version 1.
        try:
            return _read_v1(made, reference)
        except _Refused:
            raise second from None


def _read_v2(made: Login, reference: Reference) -> Mapping[str, Any]:
    with _explained(made, reference, f"{reference.mount}/data/{reference.path}"):
        answer = made.client.secrets.kv.v2.read_secret_version(
            path=reference.path,
            version=reference.version,
            mount_point=reference.mount,
            raise_on_deleted_version=True,
        )
        return dict(answer["data"]["data"])


def _read_v1(made: Login, reference: Reference) -> Mapping[str, Any]:
    if reference.version is not None:
        raise _Refused(
            f"{reference.mount} is a key-value engine of version 1, which keeps no versions; leave the version out."
        )
    with _explained(made, reference, f"{reference.mount}/{reference.path}"):
        answer = made.client.secrets.kv.v1.read_secret(path=reference.path, mount_point=reference.mount)
        return dict(answer["data"])


@contextmanager
def _explained(made: Login, reference: Reference, path: str) -> Iterator[None]:
    """Turns what Vault and the network answer to a read into sentences."""
    try:
        yield
    except hvac.exceptions.InvalidPath as error:
        raise _Refused(_not_found(made, reference, error)) from None
    except (hvac.exceptions.Forbidden, hvac.exceptions.Unauthorized) as error:
        if not _token_is_known(error):
            raise VaultError(
                f"Vault does not accept {made.described} (any more): it has expired, was revoked, or belongs to "
                f"another Vault or namespace{_words(error, made)}.{_namespace_hint(made)} "
                f"The secret {reference.name} was to be read from {reference}."
            ) from None
        raise _Refused(
            f"{made.described} has no right to read {path}. Its policy needs: "
            f'path "{path}" {{ capabilities = ["read"] }}.{_namespace_hint(made)}'
        ) from None
    except hvac.exceptions.InvalidRequest as error:
        raise _Refused(f"Vault refused the read{_words(error, made)}.") from None
    except (hvac.exceptions.VaultError, requests.RequestException) as error:
        raise _unavailable(error, made) from None
    except (KeyError, TypeError, ValueError):
        raise _Refused(f"what answers at {made.where.address} is not Vault's key-value engine.") from None


def _not_found(made: Login, reference: Reference, error: Any) -> str:
    metadata: Mapping[str, Any] = {}
    if isinstance(error.json, dict) and isinstance(error.json.get("data"), dict):
        metadata = error.json["data"].get("metadata") or {}
    at = f"version {metadata.get('version')}"
    if metadata.get("destroyed"):
        return f"{at} was destroyed."
    if metadata.get("deletion_time"):
        return f"{at} was deleted on {metadata['deletion_time']}."
    if "namespace not found" in _text(error):
        raise VaultError(
            f"Vault has no namespace {made.where.namespace} (vault.namespace or VAULT_NAMESPACE)."
        ) from None
    if "no handler for route" in _text(error) or "unsupported path" in _text(error):
        return f"nothing is mounted at {reference.mount} that reads such a path.{_namespace_hint(made)}"
    hint = ""
    if reference.path.startswith("data/"):
        hint = " The path is written without data/."
    version = "" if reference.version is None else f", or it has no version {reference.version}"
    return f"there is no such path{version}.{hint}{_namespace_hint(made)}"


def _token_is_known(error: Any) -> bool:
    """Tells a token without a right from one that Vault does not know; both are answered with 403.

    The words differ: a policy's refusal is a list ("1 error occurred: * permission denied"), the other is the
    bare "permission denied" (OpenBao 2.7, old Vaults) or has "invalid token" in the list (Vault).
    """
    words = _text(error)
    if "invalid token" in words or "bad token" in words:
        return False
    return "occurred" in words


def _value(reference: Reference, data: Mapping[str, Any]) -> str:
    if reference.field not in data:
        # The names of a secret's fields are no secret to somebody who may read it, but logs go further.
        raise VaultError(f"there is no field {reference.field} ({len(data)} other fields are there).")
    value = data[reference.field]
    if not isinstance(value, str):
        raise VaultError(f"the field {reference.field} is not text.")
    if not value.strip():
        raise VaultError(f"the field {reference.field} is empty.")
    return value


def _namespace_hint(made: Login) -> str:
    if made.where.namespace:
        return f" The namespace asked was {made.where.namespace}."
    return " No namespace was asked for (vault.namespace or VAULT_NAMESPACE)."


def _text(error: Any) -> str:
    return "; ".join(" ".join(str(word).split()) for word in error.errors or [])


def _words(error: Any, made: Login) -> str:
    """Vault's own words for an error, with whatever was sent to it taken out."""
    words = _text(error)
    for credential in made.credentials:
        words = words.replace(credential, "***")
    return f" ({words[:300]})" if words else ""


def _unavailable(error: Exception, made: Login) -> VaultError:
    address = made.where.address
    if isinstance(error, hvac.exceptions.VaultNotInitialized):
        return VaultError(f"The Vault at {address} is not initialized.")
    if isinstance(error, hvac.exceptions.VaultDown):
        if "sealed" in _text(error):
            return VaultError(f"The Vault at {address} is sealed; unseal it, then build again.")
        return VaultError(f"The Vault at {address} cannot serve now (503){_words(error, made)}.")
    if isinstance(error, hvac.exceptions.RateLimitExceeded):
        return VaultError(f"The Vault at {address} refused: too many requests (429). Build again later.")
    if isinstance(error, hvac.exceptions.VaultError):
        return VaultError(f"The Vault at {address} answered with an error{_words(error, made)}.")
    if isinstance(error, requests.exceptions.SSLError):
        return VaultError(
            f"The certificate of the Vault at {address} is not trusted; give its CA in vault.ca_certificate_file or "
            "VAULT_CACERT."
        )
    if isinstance(error, requests.exceptions.Timeout):
        return VaultError(f"The Vault at {address} did not answer in {TIMEOUT[1]} seconds.")
    if isinstance(error, requests.exceptions.ConnectionError):
        return VaultError(
            f"There is no Vault to be reached at {address}: check the address, the network and proxies."
        )
    return VaultError(f"The Vault at {address} cannot be asked ({type(error).__name__}).")
