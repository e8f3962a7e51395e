"""Each system fails in each way, at the first try and at the retry: nothing is lost, nothing of the living goes."""

from __future__ import annotations

import pytest

from tests.deployed.conftest import Deployed
from tests.deployed.faults.faults import FAULTS
from tests.deployed.faults.findings import Findings
from tests.deployed.faults.lane import SYSTEMS
from tests.deployed.faults.matrix import TRIES, Cell, Key, Matrix

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cells(deployed: Deployed, findings: Findings) -> dict[Key, Cell]:
    found = Matrix(deployed).run()
    findings.cells = found
    return found


@pytest.mark.parametrize("attempt", TRIES)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_cell(cells: dict[Key, Cell], system: str, fault: str, attempt: str) -> None:
    cell = cells[system, fault, attempt]
    assert not cell.problems, "\n".join(cell.problems)
