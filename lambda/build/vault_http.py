"""Sends requests to Vault. Address, TLS and proxies follow the standard VAULT_* variables.

https://developer.hashicorp.com/vault/docs/commands#configure-environment-variables
"""

import ipaddress
import json
import re
import ssl
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import certifi
import urllib3
from urllib3.exceptions import HTTPError, InsecureRequestWarning, ProxyError
from urllib3.util.retry import Retry

from errors import VaultError
from home import expanded
from progress import say, warn
from spec import VaultSettings, address_problem

TIMEOUT = urllib3.Timeout(connect=5, read=20)  # seconds
_REDIRECTS = 2  # a standby redirects to the active node
_TRUE = ("1", "t", "true")  # the values that the vault command accepts


@dataclass(frozen=True)
class Connection:
    """Where Vault is and how to reach it."""

    address: str
    namespace: str | None
    tls: ssl.SSLContext
    server_name: str | None = None  # the name that the certificate must have; None: the address's host
    proxy: str | None = None  # URL


@dataclass(frozen=True)
class Answer:
    status: int
    document: Mapping[str, Any]

    @property
    def errors(self) -> str:
        """Vault's error texts; empty if there are none."""
        errors = self.document.get("errors")
        return "; ".join(" ".join(str(word).split()) for word in errors) if isinstance(errors, list) else ""


def connection(settings: VaultSettings, environ: Mapping[str, str]) -> Connection:
    """Reads settings and variables. Raises VaultError if the address is missing or wrong, or a file is unusable."""
    address = _address(settings, environ)
    host = urlsplit(address).hostname or ""
    proxy = environ.get("VAULT_PROXY_ADDR") or environ.get("VAULT_HTTP_PROXY") or None
    if address.startswith("http://") and not _is_loopback(host):
        warn(f"The connection to Vault is without encryption ({address}).")
    if proxy is None and not _is_loopback(host) and not urllib.request.proxy_bypass(host):
        proxies = urllib.request.getproxies()
        proxy = proxies.get(urlsplit(address).scheme) or proxies.get("all")
    namespace = settings.namespace or environ.get("VAULT_NAMESPACE") or None
    return Connection(
        address,
        namespace.strip("/") if namespace else None,
        _tls(settings, environ),
        environ.get("VAULT_TLS_SERVER_NAME") or None,
        None if proxy and proxy.rstrip("/") == address else proxy,
    )


def _address(settings: VaultSettings, environ: Mapping[str, str]) -> str:
    """The agent's address if there is one, as with the vault command. Otherwise the server's."""
    given = {
        "VAULT_AGENT_ADDR": environ.get("VAULT_AGENT_ADDR", "").strip(),
        "vault.address": settings.address or "",
        "VAULT_ADDR": environ.get("VAULT_ADDR", "").strip(),
        # An HTTP proxy between the build and Vault. If it is the only address, it must be a Vault Proxy.
        "VAULT_PROXY_ADDR": environ.get("VAULT_PROXY_ADDR", "").strip(),
    }
    source, address = next(((source, address) for source, address in given.items() if address), ("", ""))
    if not address:
        raise VaultError(
            "There are secrets to read, but no Vault address: set vault.address or the variable VAULT_ADDR."
        )
    problem = address_problem(address)
    if problem:
        raise VaultError(f"The Vault address in {source} {problem}.")
    if source == "VAULT_AGENT_ADDR":
        say(f"vault: using the agent at {address} (VAULT_AGENT_ADDR)")
    return address.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tls(settings: VaultSettings, environ: Mapping[str, str]) -> ssl.SSLContext:
    """A TLS context that trusts the public authorities, this machine's, and those that the user names."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    named = {"vault.ca_certificate_file": settings.ca_certificate_file}
    named |= {name: environ.get(name) for name in ("VAULT_CACERT", "VAULT_CAPATH")}
    named |= {name: environ.get(name) for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")}
    if named["vault.ca_certificate_file"]:
        named["VAULT_CACERT"] = named["VAULT_CAPATH"] = None  # the setting overrides the variables
    for source, path in named.items():
        if path:
            _trust(context, expanded(path), source)
    if environ.get("VAULT_CACERT_BYTES"):
        try:
            context.load_verify_locations(cadata=environ["VAULT_CACERT_BYTES"])
        except (ssl.SSLError, ValueError):
            raise VaultError("VAULT_CACERT_BYTES contains no certificate in PEM format.") from None
    own = [*named.values(), *(environ.get(name) for name in ("VAULT_CACERT_BYTES", "SSL_CERT_FILE", "SSL_CERT_DIR"))]
    if any(own):
        # Other clients trust a named authority even if it is not a root. By default, Python 3.13 is stricter: it also
        # refuses an authority without a key identifier.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    _client_certificate(context, environ)
    if environ.get("VAULT_SKIP_VERIFY", "").lower() in _TRUE:
        warn("VAULT_SKIP_VERIFY is set: Vault's certificate is not checked, so any server can get the login.")
        urllib3.disable_warnings(InsecureRequestWarning)  # one warning per request
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _trust(context: ssl.SSLContext, path: Path, source: str) -> None:
    """Trusts the certificates in a file, or in all files of a directory (OpenSSL itself needs hashed names there)."""
    what = f"The CA certificate for Vault, {path} ({source}),"
    if not path.exists():
        raise VaultError(f"{what} does not exist.")
    found = False
    for file in sorted(inner for inner in path.iterdir() if inner.is_file()) if path.is_dir() else [path]:
        try:
            context.load_verify_locations(file)
            found = True
        except ssl.SSLError:
            continue  # not a certificate: a directory may contain other files
        except OSError as error:
            raise VaultError(f"{what} cannot be read: {error.strerror}.") from None
    if not found:
        raise VaultError(f"{what} contains no certificate in PEM format.")


def _client_certificate(context: ssl.SSLContext, environ: Mapping[str, str]) -> None:
    certificate, key = environ.get("VAULT_CLIENT_CERT"), environ.get("VAULT_CLIENT_KEY")
    if not certificate and not key:
        return
    if not certificate or not key:
        raise VaultError("VAULT_CLIENT_CERT and VAULT_CLIENT_KEY belong together, but only one of them is set.")
    for path in (certificate, key):
        if not Path(path).is_file():
            raise VaultError(f"The client certificate or key for Vault, {path}, does not exist.")
    try:
        context.load_cert_chain(certificate, key, password="")  # without it, OpenSSL prompts for a passphrase
    except (ssl.SSLError, OSError):
        raise VaultError(
            f"The client certificate and key for Vault ({certificate}, {key}) cannot be used: one is damaged, they "
            "do not belong together, or the key has a passphrase."
        ) from None


class Client:
    """Sends requests to one Vault, with a token if there is one.

    Messages that quote Vault's error texts mask the values in `credentials`.
    """

    def __init__(self, where: Connection) -> None:
        self.where = where
        self.token = ""
        self.credentials: list[str] = []
        # 412 comes from a replica that has not caught up, 429 from a busy server: only these are retried, and 502.
        retry = Retry(total=3, other=0, status_forcelist=(412, 429, 502), backoff_factor=0.5, raise_on_status=False)
        self._pool = _pool(where, retry)

    def ask(self, method: str, path: str, body: Any = None, *, token: str | None = None) -> Answer:
        """Sends one request below /v1/, by default with the client's own token.

        Returns answers with a 2xx or 4xx status. Raises VaultError if there is no answer, Vault cannot serve, or the
        answer is not from Vault.
        """
        headers = {"X-Vault-Request": "true", "Accept": "application/json"}  # agents can require the first
        if token or self.token:
            headers["X-Vault-Token"] = token or self.token
        if self.where.namespace:
            headers["X-Vault-Namespace"] = self.where.namespace
        content = None if body is None else json.dumps(body).encode()
        url = f"{self.where.address}/v1/{path}"
        for _ in range(_REDIRECTS + 1):
            try:
                response = self._pool.urlopen(method, url, body=content, headers=headers, redirect=False)
            except HTTPError as error:
                raise VaultError(_unreachable(error, self.where)) from None
            location = response.get_redirect_location()
            if not location:
                return self._answer(response)
            target = urljoin(url, location)
            if url.startswith("https:") and not target.startswith("https:"):
                raise VaultError(f"The Vault at {self.where.address} redirects to an unencrypted address.")
            url = target
        raise VaultError(f"The Vault at {self.where.address} redirects too many times.")

    def words(self, answer: Answer) -> str:
        """Vault's error texts in parentheses, with the credentials masked."""
        words = answer.errors
        for credential in self.credentials:
            words = words.replace(credential, "***")
        return f" ({words[:300]})" if words else ""

    def _answer(self, response: urllib3.BaseHTTPResponse) -> Answer:
        address = self.where.address
        text = response.data.decode(errors="replace")
        try:
            document = json.loads(text) if text.strip() else {}
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            if "HTTP request to an HTTPS server" in text:
                raise VaultError(f"The Vault at {address} needs TLS: give its address with https://.")
            raise VaultError(
                f"The server at {address} is not Vault: it answered with status {response.status} and no JSON. Check "
                "vault.address or VAULT_ADDR."
            )
        answer = Answer(response.status, document)
        if answer.status == 501:
            raise VaultError(f"The Vault at {address} is not initialized.")
        if answer.status == 503 and "sealed" in answer.errors:
            raise VaultError(f"The Vault at {address} is sealed; unseal it, then build again.")
        if answer.status == 503:
            raise VaultError(f"The Vault at {address} is unavailable (503){self.words(answer)}.")
        if answer.status == 429:
            raise VaultError(f"The Vault at {address} has too many requests (429). Build again later.")
        if answer.status >= 500:
            raise VaultError(f"The Vault at {address} answered with an error{self.words(answer)}.")
        return answer


def _pool(where: Connection, retry: Retry) -> urllib3.PoolManager:
    options: dict[str, Any] = {"retries": retry, "timeout": TIMEOUT, "ssl_context": where.tls}
    if where.server_name:
        options["server_hostname"] = where.server_name
    if where.proxy is None:
        return urllib3.PoolManager(**options)
    proxy = where.proxy if "://" in where.proxy else f"http://{where.proxy}"
    parts = urlsplit(proxy)
    if parts.scheme in ("socks5", "socks5h"):
        from urllib3.contrib.socks import SOCKSProxyManager  # noqa: PLC0415  # rarely needed

        # socks5h: the proxy resolves the name, as with the vault command.
        return SOCKSProxyManager(proxy.replace("socks5://", "socks5h://", 1), **options)
    if parts.scheme not in ("http", "https"):
        raise VaultError("The proxy for Vault must be a URL with the scheme http, https or socks5.")
    if parts.username:
        account = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        options["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=account)
    return urllib3.ProxyManager(proxy, **options)


def _unreachable(error: HTTPError, where: Connection) -> str:
    """A sentence that says why no request reached Vault."""
    causes = list(_causes(error))
    through = " through the proxy" if where.proxy else ""
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _certificate_problem(cause, where)
        if isinstance(cause, ssl.SSLError):
            return _tls_problem(cause, where)
    if any(isinstance(cause, ProxyError) for cause in causes):
        return f"The proxy for the Vault at {where.address} refused the connection or cannot be reached."
    if any(isinstance(cause, urllib3.exceptions.ReadTimeoutError) for cause in causes):
        return f"The Vault at {where.address} did not answer in {TIMEOUT.read_timeout} seconds."
    reason = next((cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror), None)
    return (
        f"Vault cannot be reached at {where.address}{through}{f' ({reason})' if reason else ''}: check the address, "
        "the network and the proxies."
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and the errors that it wraps. urllib3 keeps them in `reason`, in the arguments, or as the cause."""
    waiting, seen = [error], set[int]()
    while waiting:
        found = waiting.pop(0)
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        inner = [getattr(found, "reason", None), getattr(found, "original_error", None), *found.args]
        waiting += [item for item in (*inner, found.__cause__, found.__context__) if isinstance(item, BaseException)]


# https://docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error/
_UNKNOWN_AUTHORITY = {2, 18, 19, 20, 21}
_HOST = {62, 64}
_EXPIRED, _TOO_EARLY = 10, 9


def _certificate_problem(error: ssl.SSLCertVerificationError, where: Connection) -> str:
    what = f"The certificate of the Vault at {where.address}"
    reason = error.verify_message.rstrip(".")
    name = "name it in vault.ca_certificate_file or VAULT_CACERT"
    if error.verify_code in _UNKNOWN_AUTHORITY:
        return f"{what} is not trusted: this machine does not know its authority ({reason}); {name}."
    if error.verify_code in _HOST:
        return (
            f"{what} is for another name ({reason}): use an address with the certificate's name, or set "
            "VAULT_TLS_SERVER_NAME to that name."
        )
    if error.verify_code == _EXPIRED:
        return f"{what}, or an authority in its chain, has expired ({reason}); renew it."
    if error.verify_code == _TOO_EARLY:
        return f"{what} is not valid yet ({reason}): check this machine's clock."
    if where.tls.verify_flags & ssl.VERIFY_X509_STRICT:
        return (
            f"{what} fails a strict check of Python ({reason}). Python skips these checks for an authority that you "
            f"name: {name}."
        )
    return f"{what} is not accepted: {reason}."


def _tls_problem(error: ssl.SSLError, where: Connection) -> str:
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if re.search("wrong version number|record layer failure|packet length", reason):
        return f"The server at {where.address} does not use TLS: check the port, or use http:// if Vault has no TLS."
    if re.search("certificate required|handshake failure|bad certificate|unknown ca", reason):
        return (
            f"The Vault at {where.address} refused the TLS handshake ({reason}): it may require a client certificate "
            "(VAULT_CLIENT_CERT, VAULT_CLIENT_KEY)."
        )
    return f"TLS with the Vault at {where.address} failed: {reason}."
