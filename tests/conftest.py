"""What holds for every test."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is slow to make examples; that says nothing about the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# Of few tests that take long, for they wait for Terraform and pip: begun last, one of them would be waited for alone.
_FIRST = ("testbed/test_terraform.py", "operator", "package", "testbed")
_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that take long before the others."""

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(_HERE).as_posix() if item.path.is_relative_to(_HERE) else ""
        return next((n for n, first in enumerate(_FIRST) if name.startswith(first)), len(_FIRST))

    items.sort(key=place)
