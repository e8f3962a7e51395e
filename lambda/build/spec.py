"""The build specification: one JSON document that holds references to secrets, never a secret.

Parsed once, strictly: unknown keys are refused, and all problems are told at once.
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

RUNTIMES = ("python3.11", "python3.12", "python3.13")
ARCHITECTURES = ("arm64", "x86_64")
FEATURES = ("route53", "chef", "consul")
AUTH_METHODS = ("token", "approle", "jwt", "aws")
SECRETS = ("chef_client_key", "consul_token")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]{0,63}")
_ENVIRONMENT_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KMS_ARN = re.compile(r"arn:aws[a-z-]*:kms:(?P<region>[a-z0-9-]+):\d{12}:(key|alias)/\S+")


@dataclass(frozen=True)
class Reference:
    """Where one secret lies in Vault's key-value engine."""

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
    """What is None here is taken from the standard VAULT_* variables."""

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
    """A user's step. The names of its secrets are those in the bundle: ``custom_steps.<step>.<name>``."""

    name: str
    source_dir: Path
    requirements_file: Path | None = None
    secrets: tuple[Reference, ...] = ()


@dataclass(frozen=True)
class Spec:
    output: Path
    name: str
    runtime: str
    architecture: str
    features: tuple[str, ...]
    secrets: tuple[Reference, ...] = ()
    vault: VaultSettings = VaultSettings()
    kms: KmsSettings | None = None
    ca_bundle_file: Path | None = None
    custom_steps: tuple[CustomStep, ...] = ()

    @property
    def all_secrets(self) -> tuple[Reference, ...]:
        """Those of the module's steps and those of the user's."""
        return self.secrets + tuple(reference for step in self.custom_steps for reference in step.secrets)

    @property
    def cache(self) -> Path:
        """Beside the output, so that several packages of one root module share it; or where BUILD_CACHE says, so
        that several root modules, or the runs of a pipeline, do."""
        chosen = os.environ.get("BUILD_CACHE")
        return Path(chosen).expanduser() if chosen else self.output.parent / ".build-cache"


def parse(text: str, source: str) -> Spec:
    """Reads a specification. `source` says where the text came from, for the messages.

    Raises SpecError with every problem found.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise SpecError(f"{source} is not JSON: {error}.") from None
    if not isinstance(document, dict):
        raise SpecError(f"{source} must hold a JSON object.")
    problems: list[str] = []
    spec = _spec(_Object(document, source, "", problems))
    if problems:
        raise SpecError(*problems)
    return spec


class _Object:
    """One JSON object under reading. Notes what is wrong and goes on with a harmless value."""

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
            self.wrong(key, f"is not known here; the keys are {known}")

    def value(self, key: str) -> Any:
        self._read.add(key)
        return self._document.get(key)

    def text(self, key: str, pattern: re.Pattern[str] | None = None, rule: str = "") -> str:
        value = self.value(key)
        if not isinstance(value, str) or not value.strip():
            self.wrong(key, "must be a string that is not empty" if value is not None else "is missing")
            return ""
        if pattern is not None and not pattern.fullmatch(value):
            self.wrong(key, rule)
        return value

    def optional_text(self, key: str) -> str | None:
        return None if self.value(key) is None else self.text(key)

    def optional_path(self, key: str) -> Path | None:
        value = self.optional_text(key)
        return None if value is None else Path(value).expanduser()

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

    def object(self, key: str) -> "_Object | None":
        value = self.value(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.wrong(key, "must be an object")
            return None
        return _Object(value, self._source, self.name_of(key), self.problems)


def _spec(top: _Object) -> Spec:
    output = Path(top.text("output", re.compile(r".+\.zip"), "must end in .zip")).expanduser()
    name = top.text("name", _NAME, "must be letters, digits, - and _, at most 64")
    runtime = top.one_of("runtime", RUNTIMES)
    architecture = top.one_of("architecture", ARCHITECTURES)
    features = _features(top)
    steps = _custom_steps(top)
    secrets = _secrets(top, SECRETS)
    spec = Spec(
        output=output,
        name=name,
        runtime=runtime,
        architecture=architecture,
        features=features,
        secrets=secrets,
        vault=_vault(top),
        kms=_kms(top),
        ca_bundle_file=top.optional_path("ca_bundle_file"),
        custom_steps=steps,
    )
    top.finish()
    if spec.all_secrets and top.value("kms") is None:
        top.wrong("kms", "is missing: secrets go into the package sealed with a KMS key, or not at all")
    if "chef" in features and not any(reference.name == "chef_client_key" for reference in secrets):
        top.wrong("secrets.chef_client_key", "is missing: the chef step is on, and signs its requests with that key")
    return spec


def _features(top: _Object) -> tuple[str, ...]:
    value = top.value("features")
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        top.wrong("features", f"must be a list of some of {', '.join(FEATURES)}")
        return ()
    for item in value:
        if item not in FEATURES:
            top.wrong("features", f"holds {json.dumps(item)}; the features are {', '.join(FEATURES)}")
    return tuple(sorted(set(value)))


def _secrets(owner: _Object, known: Sequence[str] = (), prefix: str = "") -> tuple[Reference, ...]:
    """The references under ``secrets``. Without ``known`` names any name of the right form is one."""
    references = []
    # A part of dots only would be resolved on the way, and read something else.
    segments = re.compile(r"(?!\.+(/|$))[^/\s]+(/(?!\.+(/|$))[^/\s]+)*")
    rule = "must be written as a/b/c: no / at either end, no empty part, no space, and no . or .. as a part"
    for name, item in sorted(owner.objects("secrets").items()):
        if known and name not in known:
            owner.wrong(f"secrets.{name}", f"is not known; the secrets are {', '.join(known)}")
        elif not _IDENTIFIER.fullmatch(name):
            owner.wrong(f"secrets.{name}", "must be named in lower-case letters, digits and _")
        version = item.value("version")
        if version is not None and (not isinstance(version, int) or isinstance(version, bool) or version < 1):
            item.wrong("version", "must be a whole number from 1, or null for the latest")
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
        item.wrong("kv_version", "must be 1 or 2, or null to find out")
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


# The keys that mean something to each method; another one's key that is set is a mistake worth telling.
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
            item.wrong(key, f'is set, but the method "{method}" has no use for it')
    if values["jwt_env"] is not None and not _ENVIRONMENT_VARIABLE.fullmatch(values["jwt_env"]):
        # Somebody may have put the token itself here, so the value is not repeated.
        item.wrong("jwt_env", "must be the name of an environment variable, not the token itself")
    if values["jwt_env"] is not None and values["jwt_file"] is not None:
        item.wrong("jwt_file", "and jwt_env are both set; give one")
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


def _custom_steps(top: _Object) -> tuple[CustomStep, ...]:
    steps = []
    for name, item in sorted(top.objects("custom_steps").items()):
        if not _IDENTIFIER.fullmatch(name) or name in FEATURES:
            top.wrong(
                f"custom_steps.{name}",
                f"must be named in lower-case letters, digits and _, and not {', '.join(FEATURES)}",
            )
        steps.append(
            CustomStep(
                name=name,
                source_dir=Path(item.text("source_dir")).expanduser(),
                requirements_file=item.optional_path("requirements_file"),
                secrets=_secrets(item, prefix=f"custom_steps.{name}."),
            )
        )
        item.finish()
    return tuple(steps)


def address_problem(address: str) -> str | None:
    """What is wrong with a Vault address, or None. It never repeats the address, which might hold a password."""
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme not in ("http", "https") or not host:
        return "must be a URL such as https://vault.example.com:8200"
    if parts.username or parts.password:
        return "must not hold a user name or password"
    return None
