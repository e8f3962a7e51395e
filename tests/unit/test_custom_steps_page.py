"""The page on custom steps: its first example works as it stands, and its promises name what is there."""

from __future__ import annotations

import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from ec2_decommission import custom_step
from ec2_decommission.custom_step import Batch, Deadline, Instance, StepTools

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "custom-steps.md"


class Seats(BaseHTTPRequestHandler):
    """A license server in memory."""

    seats: ClassVar[dict[str, str]] = {}

    def do_GET(self) -> None:
        host = self.path.partition("host=")[2]
        ids = ", ".join(f'{{"id": "{seat}"}}' for seat, owner in self.seats.items() if owner == host)
        self._answer(f"[{ids}]")

    def do_DELETE(self) -> None:
        del self.seats[self.path.rpartition("/")[2]]
        self._answer("")

    def _answer(self, body: str) -> None:
        allowed = self.headers["Authorization"] == "Bearer x"
        self.send_response(200 if allowed else 403)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[str]:
    Seats.seats = {"1": "i-1", "2": "i-2"}
    http = ThreadingHTTPServer(("127.0.0.1", 0), Seats)
    thread = Thread(target=http.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()
    thread.join()


def licenses(url: str, token: str) -> Any:
    source = re.findall(r"```python\n(# steps/licenses.*?)```", PAGE.read_text(), re.DOTALL)[0]
    names: dict[str, Any] = {}
    exec(compile(source, str(PAGE), "exec"), names)  # noqa: S102
    return names["make_step"](StepTools("licenses", {"url": url}, {"token": token}))


def batch(*ids: str) -> Batch:
    living: Any = None
    return Batch({i: Instance(i) for i in ids}, living, Deadline.after(60))


def test_first_example_works_unchanged(server: str) -> None:
    step = licenses(server, token="x")
    findings = step.find(batch("i-1"))
    assert [(r.target, r.proof) for r in findings["i-1"].removals] == [("seat 1", "its host is i-1")]
    assert set(Seats.seats) == {"1", "2"}
    outcome = step.remove(batch("i-1"), findings)["i-1"]
    assert [removal.target for removal in outcome.removed] == ["seat 1"]
    assert set(Seats.seats) == {"2"}


def test_first_example_reports_missing_permissions(server: str) -> None:
    finding = licenses(server, token="wrong").find(batch("i-1"))["i-1"]
    assert [str(error) for error in finding.errors] == ["unexpected HTTPError: HTTP Error 403: Forbidden"]


def test_names_on_the_page_exist() -> None:
    text = PAGE.read_text()
    tools = re.findall(r"^\| `(\w+)", text.split("| of `tools` |")[1].split("\n\n")[0], re.MULTILINE)
    assert tools == ["setting", "secret", "aws", "deadline", "dry_run", "log", "name"]
    assert all(hasattr(StepTools("x"), name) for name in tools)
    rows = text.split("| of `instance` |")[1].split("\n\n")[0].splitlines()
    names = [name for row in rows for name in re.findall(r"`(\w+)[`(]", row.split(" | ")[0])]
    assert len(names) > 10
    assert all(hasattr(Instance("i-1"), name) for name in names)
    for name in re.findall(r"from ec2_decommission.custom_step import (.*)", text):
        assert all(hasattr(custom_step, one.strip()) for one in name.split(","))
    errors = re.findall(r"`(\w+(?:Error|OutOfTime))`|`(OutOfTime)`", text.split("## Errors")[1].split("##")[0])
    assert all(hasattr(custom_step, first or second) for first, second in errors)
