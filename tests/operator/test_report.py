"""`report`: removals, leftovers and failures, as text, JSON, CSV and a page in a real browser."""

from __future__ import annotations

import csv
import io
import json
import re
import struct
import subprocess
import zlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from boto3.dynamodb.types import TypeSerializer

from ec2_decommission_cli import history
from ec2_decommission_cli.page import page
from testbed import tools
from testbed.aws import StrictAws
from testbed.inventory import make_inventory_table
from tests.operator.conftest import TABLE, Ran, run_cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = datetime.now(UTC)
EVIL = '"><script>document.title="owned"</script><img src=x onerror=alert(1)>'


def ago(**delta: float) -> str:
    return (NOW - timedelta(**delta)).isoformat()


def record(instance_id: str, name: str, ended: str, **more: Any) -> dict[str, Any]:
    facts = {"account_id": "111111111111", "region": "eu-west-1", "tags": {"Name": name}, **more.pop("facts", {})}
    end = {"finished": True} if more.pop("finished", True) else {"sweep": "111111111111/eu-west-1/unfinished"}
    request = f"request of {instance_id}"
    common = {"state": "terminated", "terminated_at": ended, "facts": facts, "request_id": request}
    return {"instance_id": instance_id, **common, **end, **more}


def removal(at: str, target: str, proof: str = "it has its id", action: str = "delete") -> dict[str, str]:
    return {"at": at, "step": "route53", "action": action, "target": target, "proof": proof, "request_id": "r-1"}


LEFT = {"status": "done", "reason": "A web-1.example. 10.0.0.6 left: it is eni-1's now", "settled_at": ago(hours=5)}
FAILED = {"status": "failed", "error_kind": "transient", "reason": "no connection"}
BACK = [removal(ago(hours=1), "=HYPERLINK(1)", action="create")]
RECORDS = [
    record(
        "i-0000000a",
        "web-1",
        ago(hours=5),
        removed=[removal(ago(hours=5), "A web-1.example. 10.0.0.5")],
        steps={"route53": LEFT},
    ),
    record("i-0000000b", EVIL, ago(days=2), removed=[removal(ago(days=2), f"A {EVIL}", EVIL)]),
    record(
        "i-0000000c",
        "db-1",
        ago(days=3),
        finished=False,
        facts={"account_id": "222222222222"},
        steps={"chef": FAILED},
    ),
    record("i-0000000d", "=cmd()", ago(days=1), removed=[removal(ago(days=1), "=HYPERLINK(1)")], restored=BACK),
    record("i-0000000e", "old", ago(days=20), removed=[removal(ago(days=20), "A old.example. 10.0.0.9")]),
    {"instance_id": "i-0000000f", "state": "running", "facts": {"tags": {"Name": "lives"}}},
]


@pytest.fixture(scope="module")
def aws() -> Iterator[StrictAws]:
    with StrictAws("eu-west-1") as started:
        client = started.client("dynamodb")
        make_inventory_table(client, TABLE)
        for one in RECORDS:
            item = {key: TypeSerializer().serialize(value) for key, value in one.items()}
            client.put_item(TableName=TABLE, Item=item)
        yield started


def report(aws: StrictAws, *arguments: str) -> Ran:
    """Runs the command with the names of function and table. The deployment has nothing else."""
    outputs = json.dumps({"function_name": "ec2-decommission", "inventory_table_name": TABLE})
    return run_cli(["report", *arguments, "--outputs", "-"], aws.environ(), stdin=outputs)


def ids(ran: Ran) -> list[str]:
    return [one["instance_id"][-1] for one in ran.document["instances"]]


def test_the_period_and_the_place_choose_the_instances(aws: StrictAws) -> None:
    assert ids(report(aws, "--json")) == ["a", "d", "b", "c"]
    assert ids(report(aws, "--json", "--since", "6h")) == [
        "a",
        "d",
        "c",
    ]  # what was restored, and what is not finished
    assert ids(report(aws, "--json", "--since", "30d")) == ["a", "d", "b", "c", "e"]
    assert ids(report(aws, "--json", "--account", "222222222222")) == ["c"]
    assert ids(report(aws, "--json", "--region", "us-east-1")) == []
    ran = report(aws, "--since", "yesterday")
    assert (ran.status, "expected a period such as 7d" in ran.said) == (2, True)


def test_the_text_names_proofs_reasons_and_failures(aws: StrictAws) -> None:
    ran = report(aws)
    assert ran.words.startswith(f"Since {history.since('7d').strftime('%Y-%m-%d')}")
    assert "route53 delete A web-1.example. 10.0.0.5 it has its id" in ran.words
    assert "route53: done: A web-1.example. 10.0.0.6 left: it is eni-1's now" in ran.words
    assert "chef: failed: no connection" in ran.words
    assert "not finished" in ran.words


def test_csv_has_a_row_for_each_thing_and_no_formula(aws: StrictAws) -> None:
    rows = list(csv.DictReader(io.StringIO(report(aws, "--csv").out)))
    assert [(row["event"], row["instance_id"][-1]) for row in rows] == [
        ("removed", "a"),
        ("left", "a"),
        ("removed", "d"),
        ("restored", "d"),
        ("removed", "b"),
        ("failed", "c"),
    ]
    assert (rows[2]["name"], rows[2]["target"]) == ("'=cmd()", "'=HYPERLINK(1)")
    assert rows[0]["why"] == "it has its id"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7d", "2026-02-22T12:00:00+00:00"),
        ("36h", "2026-02-28T00:00:00+00:00"),
        ("30m", "2026-03-01T11:30:00+00:00"),
        ("2w", "2026-02-15T12:00:00+00:00"),
        ("2026-02-01", "2026-02-01T00:00:00+00:00"),
        ("2026-02-01T10:00:00+02:00", "2026-02-01T10:00:00+02:00"),
    ],
)
def test_since(text: str, expected: str) -> None:
    assert history.since(text, datetime(2026, 3, 1, 12, tzinfo=UTC)).isoformat() == expected


# The page


@pytest.fixture(scope="module")
def html(aws: StrictAws) -> str:
    return report(aws, "--html").out


def test_the_page_needs_no_network_and_escapes_every_value(html: str) -> None:
    assert not re.search(r"https?:|//[a-z]|@import|url\(", html)
    assert EVIL not in html
    assert html.count("<script") == html.count("</script") == 1
    assert "default-src 'none'" in html


@pytest.fixture(scope="module")
def browser() -> list[str]:
    try:
        command = tools.chromium_command()
    except tools.ToolMissing as error:
        pytest.skip(str(error))
    return [*command, "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND"]


def dom(browser: list[str], html: str, tmp_path: Path, search: str = "", *flags: str) -> str:
    """The page after its script has run. The URL fragment is the search, as in a link."""
    file = tmp_path / "report.html"
    file.write_text(html)
    command = [*browser, f"--user-data-dir={tmp_path / 'profile'}", *flags, "--dump-dom", f"file://{file}{search}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def shown(page_dom: str) -> list[str]:
    """The visible instances."""
    cards = re.findall(r"<details([^>]*)>", page_dom)
    return [found[1][-1] for card in cards if "hidden" not in card and (found := re.search(r'id="([^"]*)"', card))]


@pytest.mark.servers
def test_the_page_shows_all_and_searches_by_id_and_name(browser: list[str], html: str, tmp_path: Path) -> None:
    whole = dom(browser, html, tmp_path)
    assert shown(whole) == ["a", "d", "b", "c"]
    assert "4 of 4 instances" in whole
    assert "<title>Decommissioned instances" in whole  # the script in a name did not run
    assert whole.count("<rect") == 4  # three bars of removals and one of failures
    for search, expected in (("#web-1", ["a"]), ("#I-0000000C", ["c"]), ("#eu-west-1%20db", ["c"]), ("#nobody", [])):
        assert shown(dom(browser, html, tmp_path, search)) == expected, search


def pixel(browser: list[str], html: str, tmp_path: Path, scheme: int) -> tuple[int, ...]:
    """The color of the page's corner. A PNG stores its first pixel unchanged, whatever the filter."""
    picture = tmp_path / f"{scheme}.png"
    dom(browser, html, tmp_path, "", f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={picture}")
    data, position, packed = picture.read_bytes(), 8, b""
    while position < len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        if data[position + 4 : position + 8] == b"IDAT":
            packed += data[position + 8 : position + 8 + length]
        position += 12 + length
    return tuple(zlib.decompress(packed)[1:4])


@pytest.mark.servers
def test_the_page_is_light_or_dark_as_the_reader_wants(browser: list[str], html: str, tmp_path: Path) -> None:
    assert pixel(browser, html, tmp_path, 1) == (0xFF, 0xFF, 0xFF)
    assert pixel(browser, html, tmp_path, 0) == (0x0D, 0x11, 0x17)


def test_a_page_without_instances_says_so() -> None:
    empty = {"function_name": "f", "since": ago(days=7), "until": NOW.isoformat(), "instances": []}
    assert "Nothing was removed in this period" in page(empty)
