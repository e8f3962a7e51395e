"""Build errors, as sentences. No message may contain a secret's value."""

from collections.abc import Sequence


class BuildError(Exception):
    """The build cannot go on. `problems` are whole sentences, all that are known at that point."""

    def __init__(self, *problems: str) -> None:
        super().__init__(" ".join(problems))
        self.problems: Sequence[str] = problems


class SpecError(BuildError):
    """What was asked for cannot be understood, or contradicts itself."""


class VaultError(BuildError):
    """A secret could not be read."""


class SealError(BuildError):
    """KMS would not seal the secrets."""


class VendorError(BuildError):
    """The function's dependencies could not be had."""


class SourceError(BuildError):
    """A file that should go into the package is missing or not fit for it."""
