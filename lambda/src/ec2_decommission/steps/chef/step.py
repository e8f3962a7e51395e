"""The phases of the step, using ``observe``, ``plan`` and ``apply``."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from .apply import apply
from .identify import identify
from .observe import documents, observe, with_documents
from .plan import plan, question

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...clients.chef import ChefServer, NodeSearch
    from ...config import ChefSettings
    from ...instance import Facts
    from ..base import Batch, Finding, Outcome


class ChefStep:
    """Finds and deletes Chef nodes and clients.

    Args:
        settings: the names to look for, and whether to delete clients too.
        server: the Chef server.
        audit: whether to read complete nodes before they are deleted, so that they can be restored.
    """

    name: ClassVar[str] = "chef"

    def __init__(self, settings: ChefSettings, server: ChefServer, *, audit: bool = False) -> None:
        self._settings = settings
        self._server = server
        self._audit = audit
        self._found: NodeSearch | None = None

    def identify(self, batch: Batch) -> Mapping[str, Facts]:
        self._found = self._server.search_nodes_by_instance_id(batch.instances)
        return identify(self._settings, batch.instances, self._found)

    def plan(self, batch: Batch) -> Mapping[str, Finding]:
        snapshot = observe(self._server, self._settings, batch.instances, self._found, with_keys=self._audit)
        asked = question(self._settings, batch.instances, snapshot)
        living = batch.live.ask(asked, gone=batch.instances).living
        findings = plan(self._settings, batch.instances, snapshot, living)
        if not self._audit:
            return findings
        found = documents(self._server, (r for finding in findings.values() for r in finding.removals))
        return {instance_id: with_documents(finding, found) for instance_id, finding in findings.items()}

    def apply(self, batch: Batch, findings: Mapping[str, Finding]) -> Mapping[str, Outcome]:
        return apply(self._server, self._settings, batch, findings, audit=self._audit)
