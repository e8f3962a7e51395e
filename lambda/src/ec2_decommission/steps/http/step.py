"""The phases of the step."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from ..base import Left
from .apply import Applier
from .expression import cut
from .observe import observe
from .plan import in_question, plan, question, unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ...instance import Facts, Instance
    from ...live import Living
    from ..base import Batch, Finding, Outcome, Removal
    from .client import Client
    from .observe import Snapshot
    from .settings import HttpStepSettings

_LONGEST_TARGET, _LONGEST_REASON = 100, 300  # characters in a report


class HttpStep:
    """The step for one batch. Reports show its name in ``http_steps``.

    Args:
        settings: what to look for.
        client: the API.
    """

    name: ClassVar[str] = "http"

    def __init__(self, settings: HttpStepSettings, client: Client) -> None:
        self._settings = settings
        self._client = client

    def identify(self, batch: Batch) -> Mapping[str, Facts]:  # noqa: ARG002
        """Returns nothing: the step understands only the proof in an item."""
        return {}

    def plan(self, batch: Batch) -> Mapping[str, Finding]:
        snapshot = self._observe(batch.instances)
        asked = question(self._settings, in_question(self._settings, batch.instances, snapshot))
        return self._plan(batch.instances, snapshot, batch.live.ask(asked, gone=batch.instances).living)

    def apply(self, batch: Batch, findings: Mapping[str, Finding]) -> Mapping[str, Outcome]:
        return Applier(self._client, self._settings, self._observe, self._plan, batch, findings).apply()

    def _observe(self, instances: Mapping[str, Instance]) -> Snapshot:
        askable = {i: instance for i, instance in instances.items() if not unknown(self._settings, instance)}
        return observe(self._client, self._settings, askable)

    def _plan(self, instances: Mapping[str, Instance], snapshot: Snapshot, living: Living) -> Mapping[str, Finding]:
        findings = plan(self._settings, instances, snapshot, living)
        return {i: _without_secrets(finding, self._client) for i, finding in findings.items()}


def _without_secrets(finding: Finding, client: Client) -> Finding:
    """Prepares the finding for a report and the audit: masks secrets and shortens texts that come from items."""
    hide = client.hide
    return replace(
        finding,
        removals=tuple(_removal(removal, hide) for removal in finding.removals),
        left=tuple(
            Left(cut(hide(left.target), _LONGEST_TARGET), cut(hide(left.reason), _LONGEST_REASON))
            for left in finding.left
        ),
        errors=tuple(map(client.clean, finding.errors)),
    )


def _removal(removal: Removal, hide: Callable[[str], str]) -> Removal:
    return replace(
        removal,
        target=cut(hide(removal.target), _LONGEST_TARGET),
        proof=hide(removal.proof),
        object=_hidden(removal.object, hide),
    )


def _hidden(value: Any, hide: Callable[[str], str]) -> Any:
    """Masks secrets in all texts of a JSON value."""
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, dict):
        return {hide(key): _hidden(inner, hide) for key, inner in value.items()}
    if isinstance(value, list):
        return [_hidden(inner, hide) for inner in value]
    return value
