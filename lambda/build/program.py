"""Runs the build: reads the specification, seals the secrets, collects dependencies, compiles, writes the zip."""

import argparse
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

import archive
import bootstrap
import spec
from errors import BuildError, SpecError
from progress import say, size, warn

FUNCTION = bootstrap.HERE.parent / "src" / "ec2_decommission"

LAYER_DIRECTORY = "ec2-decommission"  # below /opt in the function

DESCRIPTION = """\
Builds the function's deployment package (kind "package"), or only its sealed secrets and settings as a Lambda
layer (kind "bundle"). The specification is a JSON object in the environment variable BUILD_SPEC or in a file. It
contains references to secrets (Vault mount, path, field), never a secret.
For Vault, the build uses the settings in the specification. Where they are missing, it uses VAULT_ADDR,
VAULT_NAMESPACE, VAULT_CACERT and a login from the environment. For KMS, it uses the AWS credentials of the
environment. The build creates its own Python environment once (20 to 80 MB) and keeps it next to the output, or
in the directory that BUILD_CACHE names."""


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status: 0 if built, 1 if the build failed, 2 if the specification is wrong."""
    parser = argparse.ArgumentParser(
        prog="python3 lambda/build", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spec", metavar="FILE", type=Path, help="the specification (default: $BUILD_SPEC)")
    options = parser.parse_args(arguments)
    # Terraform and pipelines stop a build with SIGTERM. Raising an exception lets the build revoke its Vault login.
    signal.signal(signal.SIGTERM, _terminated)
    try:
        wanted = spec.parse(*_specification(options.spec))
        locks = _locks(wanted)
        if locks:
            bootstrap.enter(wanted.cache, arguments, locks)
        build(wanted)
    except BuildError as error:
        for problem in error.problems:
            print(f"Error: {problem}", file=sys.stderr)
        print("Nothing was built.", file=sys.stderr)
        return 2 if isinstance(error, SpecError) else 1
    except KeyboardInterrupt:
        print("Error: the build was interrupted. Nothing was built.", file=sys.stderr)
        return 130
    except Exception as error:
        # The message of an unexpected error could quote a secret, so print only its location.
        place = traceback.extract_tb(error.__traceback__)[-1]
        print(
            f"Error: the build failed unexpectedly ({type(error).__name__} at {Path(place.filename).name} "
            f"line {place.lineno}). Nothing was built. Please report this.",
            file=sys.stderr,
        )
        return 1
    return 0


def _locks(wanted: spec.Spec) -> list[str]:
    """The lock files that this build itself needs. A bundle without secrets needs only the standard library."""
    return [*(["build"] if wanted.kind == "package" else []), *(["seal"] if wanted.secrets else [])]


def build(wanted: spec.Spec) -> None:
    """Runs in the build environment. Raises BuildError."""
    bundle: dict[str, bytes] = {}
    if wanted.settings is not None:
        bundle["settings.json"] = json.dumps(wanted.settings, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    if wanted.ca_bundle_file is not None:
        bundle["ca_bundle.pem"] = archive.ca_bundle(wanted.ca_bundle_file)
    if wanted.kind == "bundle":
        say(f"bundle {wanted.name}")
        if wanted.secrets:
            bundle["sealed_secrets.json"], _ = _sealed_secrets(wanted)
        files = {f"{LAYER_DIRECTORY}/{name}": content for name, content in bundle.items()}
    else:
        files = _package(wanted, bundle)
    digest = archive.write(files, wanted.output)
    written = wanted.output.stat().st_size
    if written > archive.UPLOAD_LIMIT:
        warn(f"the zip has {size(written)}; Lambda accepts zips of this size only from S3, not by direct upload.")
    say(f"wrote {wanted.output}: {size(written)}, {len(files)} files, code sha256 {digest}")


def _package(wanted: spec.Spec, bundle: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of a package: the function, its dependencies, custom steps, bytecode and the bundle."""
    # These modules import packages that only the build environment has.
    import bytecode  # noqa: PLC0415
    import step_check  # noqa: PLC0415
    import vendor  # noqa: PLC0415

    features = ", ".join(wanted.features) or "no step"
    say(f"package {wanted.name}: {wanted.runtime} on {wanted.architecture}, {features}")
    # Read local files first: a mistake in them should not cost a Vault login.
    own = archive.function_files(FUNCTION)
    steps = [archive.custom_step_files(step) for step in wanted.custom_steps]
    target = vendor.Target(wanted.runtime, wanted.architecture)
    theirs: dict[str, vendor.Pin] = {}
    for step in wanted.custom_steps:
        if step.requirements_file is not None:
            pins = vendor.read_lock(step.requirements_file, target)
            theirs = vendor.merge(theirs, pins, f"The requirements file of the custom step {step.name}")

    sealed: dict[str, bytes] = {}
    # A package without secrets may be used with a layer whose secrets need a data key.
    with_data_key = wanted.features != ("route53",) or bool(steps)
    if wanted.secrets:
        sealed["sealed_secrets.json"], with_data_key = _sealed_secrets(wanted)

    locks = vendor.requirement_files(bootstrap.REQUIREMENTS, wanted.features, with_data_key=with_data_key)
    pins = {}
    for lock in locks:
        pins = vendor.merge(pins, vendor.read_lock(lock, target), lock.name)
    pins = vendor.merge(pins, theirs, "The requirements of the custom steps")
    wanted.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="work-", dir=wanted.cache) as work:
        vendored = vendor.collect(pins, theirs, target, Path(work))
        say(f"dependencies: {', '.join(vendored.packages)}")
        files = archive.combine(own, *steps, bundle, sealed, vendored.files)
        for step in wanted.custom_steps:
            for warning in step_check.check(step.name, files, wanted.runtime):
                warn(warning)
        compiled = bytecode.compiled(files, target.python, Path(work))
    if compiled is None:
        say(f"bytecode: none, because Python {target.python} was not found to compile it; cold starts take longer")
    else:
        say(f"bytecode: {len(compiled.files)} modules, by Python {compiled.version}")
        files = archive.combine(files, compiled.files)
    return archive.combine(files, {"build_info.json": _build_info(wanted, with_bytecode=compiled is not None)})


def _sealed_secrets(wanted: spec.Spec) -> tuple[bytes, bool]:
    """The sealed document, and whether a data key was used. The secrets' values exist only during this call."""
    import seal  # noqa: PLC0415
    import vault  # noqa: PLC0415

    if wanted.kms is None:  # spec.parse has already checked this
        raise SpecError("There are secrets but no KMS key.")
    with vault.login(wanted.vault) as login:
        values = vault.read(login, wanted.secrets, wanted.vault.kv_version)
    seal.check(values, {reference.name: str(reference) for reference in wanted.secrets})
    sealed = seal.seal(values, wanted.kms)
    how = "under a data key of " if sealed.with_data_key else "with "
    say(f"sealed {len(values)} secret{'s' if len(values) > 1 else ''} {how}{wanted.kms.key_arn}")
    return sealed.document, sealed.with_data_key


def _build_info(wanted: spec.Spec, *, with_bytecode: bool) -> bytes:
    """Describes what the package was built for. The function compares its configuration with it."""
    info = {
        "features": list(wanted.features),
        "runtime": wanted.runtime,
        "architecture": wanted.architecture,
        "bytecode": with_bytecode,
        "secrets": [reference.name for reference in wanted.secrets],
        "custom_steps": [step.name for step in wanted.custom_steps],
    }
    return json.dumps(info, indent=1, sort_keys=True).encode() + b"\n"


def _specification(path: Path | None) -> tuple[str, str]:
    if path is None:
        text = os.environ.get("BUILD_SPEC", "")
        if not text:
            raise SpecError(
                "There is no specification: set the environment variable BUILD_SPEC, or give --spec FILE."
            )
        return text, "BUILD_SPEC"
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except (OSError, UnicodeDecodeError):
        raise SpecError(f"The specification {path} cannot be read.") from None


def _terminated(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
