"""Errors of the build. Messages are sentences and must not contain a secret's value."""

from collections.abc import Sequence


class BuildError(Exception):
    """The build cannot continue. `problems` has one sentence for each problem found so far."""

    def __init__(self, *problems: str) -> None:
        super().__init__(" ".join(problems))
        self.problems: Sequence[str] = problems


class SpecError(BuildError):
    """The specification is malformed or contradictory."""


class VaultError(BuildError):
    """A secret could not be read."""


class SealError(BuildError):
    """The secrets are unusable, or KMS did not seal them."""


class VendorError(BuildError):
    """The function's dependencies could not be collected."""


class SourceError(BuildError):
    """A file for the package is missing or not allowed."""
