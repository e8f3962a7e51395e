"""The build specification: one JSON document that contains references to secrets, never a secret.

The parser is strict: it refuses unknown keys and reports all problems together.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from errors import SpecError
from home import expanded

KINDS = ("package", "bundle")
RUNTIMES = ("python3.11", "python3.12", "python3.13", "python3.14")
ARCHITECTURES = ("arm64", "x86_64")
STEPS = ("route53", "chef", "consul")  # the module's own
FEATURES = (*STEPS, "http")  # "http" is for all HTTP steps together
AUTH_METHODS = ("token", "approle", "jwt", "aws")
SECRETS = ("chef_client_key", "consul_token", "consul_client_certificate", "consul_client_key")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]{0,63}")
_HTTP_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")  # of an HTTP step, and of its secrets
_ENVIRONMENT_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KMS_ARN = re.compile(r"arn:aws[a-z-]*:kms:(?P<region>[a-z0-9-]+):\d{12}:(key|alias)/\S+")


@dataclass(frozen=True)
class Reference:
    """The location of one secret in Vault's KV engine."""

    name: str
    mount: str
    path: str
    field: str
    version: int | None = None

    def __str__(self) -> str:
        at = "" if self.version is None else f"@{self.version}"
        return f"{self.mount}/{self.path}#{self.field}{at}"


@dataclass(frozen=True)
class VaultAuth:
    method: str = "token"
    mount: str | None = None
    role: str | None = None
    role_id_file: str | None = None
    secret_id_file: str | None = None
    jwt_file: str | None = None
    jwt_env: str | None = None
    aws_header_value: str | None = None
    aws_region: str | None = None


@dataclass(frozen=True)
class VaultSettings:
    """A field that is None falls back to the standard VAULT_* variables."""

    address: str | None = None
    namespace: str | None = None
    kv_version: int | None = None
    ca_certificate_file: str | None = None
    auth: VaultAuth = VaultAuth()


@dataclass(frozen=True)
class KmsSettings:
    key_arn: str
    region: str
    encryption_context: Mapping[str, str]
    role_arn: str | None = None


@dataclass(frozen=True)
class CustomStep:
    """The code of a user's step."""

    name: str
    source_dir: Path
    requirements_file: Path | None = None


@dataclass(frozen=True)
class Spec:
    """One zip: the function's code and its bundle (kind "package"), or the bundle alone for a layer ("bundle").

    The bundle contains the sealed secrets and the settings, if there are any. `secrets` lists those of the module's
    own steps, then `custom_steps.<step>.<name>`, then `http_steps.<step>.<name>`. A bundle contains no code, so it
    has no runtime ("") and no custom steps.
    """

    kind: str
    output: Path
    name: str
    runtime: str = ""
    architecture: str = ""
    features: tuple[str, ...] = ()
    secrets: tuple[Reference, ...] = ()
    vault: VaultSettings = VaultSettings()
    kms: KmsSettings | None = None
    settings: Mapping[str, Any] | None = None
    ca_bundle_file: Path | None = None
    custom_steps: tuple[CustomStep, ...] = ()

    @property
    def cache(self) -> Path:
        """The directory for the build's own environments.

        The default is next to the output, so that all packages of a root module share it. With BUILD_CACHE, several
        root modules or pipeline runs can share it too.
        """
        chosen = os.environ.get("BUILD_CACHE")
        return expanded(chosen) if chosen else self.output.parent / ".build-cache"


def parse(text: str, source: str) -> Spec:
    """Reads a specification. `source` is the origin of the text, for messages.

    Raises SpecError with every problem found.
    """
    try:
        document = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{source} is not JSON: {error}.") from None
    if not isinstance(document, dict):
        raise SpecError(f"{source} must be a JSON object.")
    problems: list[str] = []
    spec = _spec(_Object(document, source, "", problems))
    if problems:
        raise SpecError(*problems)
    return spec


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


class _Object:
    """Reads one JSON object. Records problems and continues with a harmless value."""

    def __init__(self, document: Mapping[str, Any], source: str, where: str, problems: list[str]) -> None:
        self._document = document
        self._source = source
        self._where = where
        self._read: set[str] = set()
        self.problems = problems

    def name_of(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key

    def wrong(self, key: str, rule: str) -> None:
        self.problems.append(f'{self._source}: "{self.name_of(key)}" {rule}.')

    def finish(self) -> None:
        unknown = sorted(set(self._document) - self._read)
        for key in unknown:
            known = ", ".join(sorted(self._read))
            self.wrong(key, f"is not a known key; the known keys are {known}")

    def value(self, key: str) -> Any:
        self._read.add(key)
        return self._document.get(key)

    def text(self, key: str, pattern: re.Pattern[str] | None = None, rule: str = "") -> str:
        value = self.value(key)
        if not isinstance(value, str) or not value.strip():
            self.wrong(key, "must be a non-empty string" if value is not None else "is missing")
            return ""
        if pattern is not None and not pattern.fullmatch(value):
            self.wrong(key, rule)
        return value

    def optional_text(self, key: str) -> str | None:
        return None if self.value(key) is None else self.text(key)

    def optional_path(self, key: str) -> Path | None:
        value = self.optional_text(key)
        return None if value is None else expanded(value)

    def one_of(self, key: str, allowed: Sequence[str], default: str | None = None) -> str:
        value = self.value(key)
        if value is None and default is not None:
            return default
        if value not in allowed:
            found = "is missing" if value is None else f"is {json.dumps(value)}"
            self.wrong(key, f"{found}; it must be one of {', '.join(allowed)}")
            return allowed[0]
        return str(value)

    def objects(self, key: str) -> dict[str, "_Object"]:
        value = self.value(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.wrong(key, "must be an object")
            return {}
        found = {}
        for name, item in value.items():
            if isinstance(item, dict):
                found[name] = _Object(item, self._source, f"{self.name_of(key)}.{name}", self.problems)
            else:
                self.wrong(f"{key}.{name}", "must be an object")
        return found

    def mapping(self, key: str) -> Mapping[str, Any] | None:
        """An object whose content is not checked."""
        value = self.value(key)
        if value is None or isinstance(value, dict):
            return value
        self.wrong(key, "must be an object")
        return None

    def object(self, key: str) -> "_Object | None":
        value = self.mapping(key)
        return None if value is None else _Object(value, self._source, self.name_of(key), self.problems)


def _spec(top: _Object) -> Spec:
    kind = top.one_of("kind", KINDS, default="package")
    code = kind == "package"
    output = expanded(top.text("output", re.compile(r".+\.zip"), "must end in .zip"))
    name = top.text("name", _NAME, "must have at most 64 letters, digits, - and _")
    # One document can describe both kinds, so a bundle accepts keys that it does not use.
    runtime = top.one_of("runtime", RUNTIMES, default=None if code else "")
    architecture = top.one_of("architecture", ARCHITECTURES, default=None if code else "")
    features = _features(top, required=code)
    secrets = _secrets(top, SECRETS)
    steps, theirs = _custom_steps(top, code=code)
    spec = Spec(
        kind=kind,
        output=output,
        name=name,
        runtime=runtime,
        architecture=architecture,
        features=features,
        secrets=(*secrets, *theirs, *_http_steps(top)),
        vault=_vault(top),
        kms=_kms(top),
        settings=top.mapping("settings"),
        ca_bundle_file=top.optional_path("ca_bundle_file"),
        custom_steps=steps,
    )
    top.finish()
    names = {reference.name for reference in secrets}
    if spec.secrets and top.value("kms") is None:
        top.wrong("kms", "is missing: secrets are sealed with a KMS key")
    if spec.secrets and "chef" in features and "chef_client_key" not in names:
        top.wrong("secrets.chef_client_key", "is missing: the chef step is on and signs its requests with this key")
    pair = {"consul_client_certificate", "consul_client_key"}
    for missing in sorted(pair - names) if pair & names else ():
        top.wrong(f"secrets.{missing}", "is missing: Consul needs the client certificate and its key")
    if not code and not spec.secrets and spec.settings is None and spec.ca_bundle_file is None:
        top.wrong("kind", 'is "bundle", but there are no secrets, settings or ca_bundle_file to put into it')
    return spec


def _features(top: _Object, *, required: bool) -> tuple[str, ...]:
    value = top.value("features")
    if value is None and not required:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        top.wrong("features", f"must be a list with values from {', '.join(FEATURES)}")
        return ()
    for item in value:
        if item not in FEATURES:
            top.wrong("features", f"contains {json.dumps(item)}; the features are {', '.join(FEATURES)}")
    return tuple(sorted(set(value)))


def _secrets(
    owner: _Object, known: Sequence[str] = (), prefix: str = "", form: re.Pattern[str] = _IDENTIFIER
) -> tuple[Reference, ...]:
    """The references under `secrets`. Without `known`, any name that matches `form` is accepted."""
    references = []
    # HTTP clients resolve a part such as "..", so the request would read another path.
    segments = re.compile(r"(?!\.+(/|$))[^/\s]+(/(?!\.+(/|$))[^/\s]+)*")
    rule = "must be written as a/b/c: no / at either end, no empty part, no space, and no . or .. as a part"
    for name, item in sorted(owner.objects("secrets").items()):
        if known and name not in known:
            owner.wrong(f"secrets.{name}", f"is not known; the secrets are {', '.join(known)}")
        elif not form.fullmatch(name):
            owner.wrong(f"secrets.{name}", f"has an invalid name; a name must match {form.pattern}")
        version = item.value("version")
        if version is not None and (not isinstance(version, int) or isinstance(version, bool) or version < 1):
            item.wrong("version", "must be a whole number of at least 1, or null for the latest version")
            version = None
        references.append(
            Reference(
                name=prefix + name,
                mount=item.text("mount", segments, rule),
                path=item.text("path", segments, rule),
                field=item.text("field"),
                version=version,
            )
        )
        item.finish()
    return tuple(references)


def _vault(top: _Object) -> VaultSettings:
    item = top.object("vault")
    if item is None:
        return VaultSettings()
    address = item.optional_text("address")
    if address is not None:
        problem = address_problem(address)
        if problem:
            item.wrong("address", problem)
    kv_version = item.value("kv_version")
    if kv_version is not None and (kv_version not in (1, 2) or isinstance(kv_version, bool)):
        item.wrong("kv_version", "must be 1 or 2, or null to ask the server")
        kv_version = None
    settings = VaultSettings(
        address=address,
        namespace=item.optional_text("namespace"),
        kv_version=kv_version,
        ca_certificate_file=item.optional_text("ca_certificate_file"),
        auth=_auth(item),
    )
    item.finish()
    return settings


# The keys that each method uses. Setting a key of another method is an error.
_AUTH_KEYS = {
    "token": (),
    "approle": ("mount", "role_id_file", "secret_id_file"),
    "jwt": ("mount", "role", "jwt_file", "jwt_env"),
    "aws": ("mount", "role", "aws_header_value", "aws_region"),
}


def _auth(vault: _Object) -> VaultAuth:
    item = vault.object("auth")
    if item is None:
        return VaultAuth()
    method = item.one_of("method", AUTH_METHODS, default="token")
    keys = sorted({key for keys in _AUTH_KEYS.values() for key in keys})
    values = {key: item.optional_text(key) for key in keys}
    for key in keys:
        if values[key] is not None and key not in _AUTH_KEYS[method]:
            item.wrong(key, f'is set, but the method "{method}" does not use it')
    if values["jwt_env"] is not None and not _ENVIRONMENT_VARIABLE.fullmatch(values["jwt_env"]):
        # The value could be the token itself, so the message does not repeat it.
        item.wrong("jwt_env", "must be the name of an environment variable, not the token itself")
    if values["jwt_env"] is not None and values["jwt_file"] is not None:
        item.wrong("jwt_file", "and jwt_env are both set; set only one")
    item.finish()
    return VaultAuth(method=method, **values)


def _kms(top: _Object) -> KmsSettings | None:
    item = top.object("kms")
    if item is None:
        return None
    key_arn = item.text(
        "key_arn", _KMS_ARN, "must be the ARN of a KMS key or alias (arn:aws:kms:REGION:ACCOUNT:key/ID)"
    )
    match = _KMS_ARN.fullmatch(key_arn)
    region = item.optional_text("region") or (match["region"] if match else "")
    context = item.value("encryption_context")
    if (
        not isinstance(context, dict)
        or not context
        or not all(isinstance(value, str) and value for value in context.values())
    ):
        item.wrong("encryption_context", "must be an object of strings with at least one entry")
        context = {}
    role_arn = item.optional_text("role_arn")
    item.finish()
    return KmsSettings(key_arn=key_arn, region=region, encryption_context=dict(context), role_arn=role_arn)


def _custom_steps(top: _Object, *, code: bool) -> tuple[tuple[CustomStep, ...], tuple[Reference, ...]]:
    steps: list[CustomStep] = []
    secrets: list[Reference] = []
    for name, item in sorted(top.objects("custom_steps").items()):
        if not _IDENTIFIER.fullmatch(name) or name in STEPS:
            top.wrong(
                f"custom_steps.{name}",
                f"must have a name of lowercase letters, digits and _, other than {', '.join(STEPS)}",
            )
        source = item.text("source_dir") if code else item.value("source_dir")
        requirements = item.optional_path("requirements_file")
        secrets += _secrets(item, prefix=f"custom_steps.{name}.")
        if code:
            steps.append(CustomStep(name, expanded(source), requirements))
        item.finish()
    return tuple(steps), tuple(secrets)


def _http_steps(top: _Object) -> tuple[Reference, ...]:
    """The secrets of HTTP steps. The rest of a step is configuration and is in `settings`."""
    secrets: list[Reference] = []
    for name, item in sorted(top.objects("http_steps").items()):
        if not _HTTP_NAME.fullmatch(name):
            top.wrong(f"http_steps.{name}", "must have a name of at most 64 letters, digits, - and _")
        secrets += _secrets(item, prefix=f"http_steps.{name}.", form=_HTTP_NAME)
        item.finish()
    return tuple(secrets)


def address_problem(address: str) -> str | None:
    """What is wrong with a Vault address, or None. Never quotes the address, which could contain a password.

    >>> address_problem("https://vault.example.com/ui/")
    'has a path with /ui, as a browser shows it; leave the path out (https://vault.example.com:8200)'
    """
    example = "https://vault.example.com:8200"
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme not in ("http", "https") or not host:
        return f"must be a URL such as {example}"
    if parts.username or parts.password:
        return "must not contain a user name or password"
    for segment, seen in {"ui": "as a browser shows it", "v1": "as the HTTP API has it"}.items():
        if segment in parts.path.split("/"):
            return f"has a path with /{segment}, {seen}; leave the path out ({example})"
    if parts.query or parts.fragment:
        return f"must be a URL without ? and #, such as {example}"
    return None
