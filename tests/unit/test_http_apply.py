"""What an HTTP step reads and sends: an API on loopback that changes, refuses and misbehaves."""

from __future__ import annotations

import json
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ec2_decommission.application import _http_step
from ec2_decommission.deadline import Deadline, until
from ec2_decommission.errors import ConfigurationError, TransientError
from ec2_decommission.instance import Instance
from ec2_decommission.live import Live
from ec2_decommission.place import Place
from ec2_decommission.steps.base import Batch
from ec2_decommission.steps.http.client import Client
from ec2_decommission.steps.http.observe import _same_place
from tests.fakes.ec2 import FakeEc2
from tests.fakes.http import Answer, Request, closed_port, serving
from tests.fakes.http_step import ALIVE, DEAD, Deployment, FakeApi, document, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ec2_decommission.report import StepReport
    from tests.fakes.http import Seen

IP = "10.0.0.5"
WEB = Instance(DEAD, private_ips=(IP,), vpc_id="vpc-1", tags={"Name": "web"})


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
def server(api: FakeApi) -> Iterator[tuple[str, Seen]]:
    with serving(api) as running:
        yield running


def targets(report: StepReport) -> list[str]:
    return [action["target"] for action in report.actions]


def outcome(report: StepReport) -> tuple[str, list[str]]:
    return report.status, targets(report)


def once(answer: Callable[[Request], Answer], at: int = 1) -> Callable[[Request], Answer]:
    """Answers the ``at``-th request only."""
    calls = 0

    def before(request: Request) -> Answer:
        nonlocal calls
        calls += 1
        return answer(request) if calls == at else None

    return before


# The main job


def test_instances_item_is_removed_and_second_event_changes_nothing(api: FakeApi, server: tuple[str, Seen]) -> None:
    url, seen = server
    api.add("7", DEAD)
    deployment = Deployment(document(url))
    assert outcome(deployment.one(WEB)) == ("done", ["item 7"])
    assert seen.lines == ["GET /items", "GET /items", "DELETE /items/7"]
    assert deployment.one(WEB).status == "clean"
    assert seen.lines[3:] == ["GET /items"]


def test_a_dry_run_plans_the_same_and_sends_no_more_than_finds(api: FakeApi, server: tuple[str, Seen]) -> None:
    url, seen = server
    api.add("7", DEAD)
    api.add("8", ALIVE)
    deployment = Deployment(document(url))
    dry = deployment.one(WEB, dry_run=True)
    assert {request.method for request in seen.requests} == {"GET"}
    assert deployment.audit.kept == []
    assert deployment.one(WEB) == dry


def test_items_of_others_stay_and_are_named(api: FakeApi, server: tuple[str, Seen]) -> None:
    api.add("8", ALIVE)
    report = Deployment(document(server[0])).one(WEB)
    assert report.status == "skipped"
    assert report.reason == f"item 8 left: its instance is not {DEAD}, but {ALIVE}"
    assert list(api.items) == ["8"]


def test_a_value_that_is_not_known_skips_the_step_without_a_request(server: tuple[str, Seen]) -> None:
    url, seen = server
    report = Deployment(document(url, find={"query": {"owner": "{tag:Owner}"}})).one(WEB)
    assert report.status == "skipped"
    assert report.reason == f"items of {DEAD} left: find: the value of {{tag:Owner}} is not known"
    assert seen.lines == []


def test_equal_finds_are_sent_once_and_different_ones_in_parallel(api: FakeApi, server: tuple[str, Seen]) -> None:
    url, seen = server
    many = [Instance(f"i-{n}", tags={"Name": f"n{n % 3}"}) for n in range(30)]
    Deployment(document(url)).run(*many, dry_run=True)
    assert seen.lines == ["GET /items"]
    Deployment(document(url, find={"query": {"name": "{tag:Name}"}}, max_concurrency=2)).run(*many, dry_run=True)
    assert sorted(seen.lines[1:]) == [f"GET /items?name=n{n}" for n in range(3)]
    assert seen.connections <= 3


def test_there_are_never_more_requests_at_once_than_allowed(api: FakeApi, server: tuple[str, Seen]) -> None:
    url, seen = server
    at_once: list[int] = []
    lock = threading.Lock()
    running = 0

    def count(_: Request) -> None:
        nonlocal running
        with lock:
            running += 1
            at_once.append(running)
        time.sleep(0.02)
        with lock:
            running -= 1

    api.before = count
    many = [Instance(f"i-{n}", past_tags={"Name": tuple(f"{n}-{v}" for v in range(4))}) for n in range(4)]
    for n in range(4):
        api.add(str(n), f"i-{n}")
    step = document(url, find={"query": {"name": "{tag:Name}"}}, max_concurrency=2)
    reports = Deployment(step).run(*many)
    assert {report.status for report in reports.values()} == {"done"}
    assert len(seen.lines) == 4 * 4 * 2 + 4
    assert max(at_once) == 2


def test_every_name_that_an_instance_ever_had_is_looked_for(api: FakeApi, server: tuple[str, Seen]) -> None:
    url, seen = server
    api.add("7", DEAD)
    instance = Instance(DEAD, tags={"Name": "b"}, past_tags={"Name": ("a",)})
    report = Deployment(document(url, find={"query": {"name": "{tag:Name}"}})).one(instance)
    assert outcome(report) == ("done", ["item 7"])
    assert sorted(set(seen.lines)) == ["DELETE /items/7", "GET /items?name=a", "GET /items?name=b"]


def test_failure_affects_only_its_instance(api: FakeApi, server: tuple[str, Seen]) -> None:
    url, _ = server
    api.add("7", DEAD)
    api.add("8", ALIVE)
    api.before = lambda r: (500, "") if r.path in ("/items?i=i-3", "/items/8") else None
    deployment = Deployment(document(url, find={"query": {"i": "{instance_id}"}}))
    reports = deployment.run(WEB, Instance(ALIVE), Instance("i-3"))
    assert {i: report.status for i, report in reports.items()} == {DEAD: "done", ALIVE: "failed", "i-3": "failed"}
    assert f"item 8: rest ({url[7:]}) answers remove of item 8 with 500" in str(reports[ALIVE].reason)


# Right before the request


def test_item_with_a_new_owner_stays(api: FakeApi, server: tuple[str, Seen]) -> None:
    url, seen = server
    api.add("7", DEAD)

    def take_over(_: Request) -> None:
        api.add("7", ALIVE)

    api.before = once(take_over, at=2)
    report = Deployment(document(url)).one(WEB)
    assert report.status == "skipped"
    assert report.reason == f"item 7 left: its instance is not {DEAD}, but {ALIVE}"
    assert "7" in api.items
    assert seen.lines == ["GET /items", "GET /items"]


def test_an_item_that_is_protected_meanwhile_stays(api: FakeApi, server: tuple[str, Seen]) -> None:
    api.add("7", DEAD)
    api.before = once(lambda _: api.add("7", DEAD, protected=True), at=2)
    report = Deployment(document(server[0], keep=["protected"])).one(WEB)
    assert report.reason == "item 7 left: keep: protected is true"


def test_an_item_that_is_gone_meanwhile_is_no_failure(api: FakeApi, server: tuple[str, Seen]) -> None:
    api.add("7", DEAD)
    api.before = once(lambda _: api.items.clear(), at=2)
    assert outcome(Deployment(document(server[0])).one(WEB)) == ("clean", [])


def test_item_that_is_gone_is_not_confused_with_another(api: FakeApi, server: tuple[str, Seen]) -> None:
    api.add("7", DEAD)

    def change(_: Request) -> None:
        api.items.clear()
        api.add("9", ALIVE)

    api.before = once(change, at=2)
    report = Deployment(document(server[0])).one(WEB)
    assert (report.status, report.reason) == ("clean", None)


def test_several_items_of_one_instance_go_each_by_its_own_request(api: FakeApi, server: tuple[str, Seen]) -> None:
    url, seen = server
    for item_id in "789":
        api.add(item_id, DEAD)
    assert outcome(Deployment(document(url, max_concurrency=1)).one(WEB)) == ("done", ["item 7", "item 8", "item 9"])
    assert seen.lines[1:] == [line for n in "789" for line in ("GET /items", f"DELETE /items/{n}")]
    assert api.items == {}


def test_an_item_that_changed_is_written_to_the_audit_as_it_is_now(api: FakeApi, server: tuple[str, Seen]) -> None:
    api.add("7", DEAD, seen=1)
    api.before = once(lambda _: api.add("7", DEAD, seen=2), at=2)
    deployment = Deployment(document(server[0]))
    assert outcome(deployment.one(WEB)) == ("done", ["item 7"])
    assert [(r.kind, r.object) for r in deployment.audit.kept] == [
        ("http_item", {"id": "7", "instance": DEAD, "seen": seen}) for seen in (1, 2)
    ]


def test_an_item_that_changed_and_cannot_be_written_to_the_audit_stays(
    api: FakeApi, server: tuple[str, Seen]
) -> None:
    api.add("7", DEAD, seen=1)
    deployment = Deployment(document(server[0]))

    def change(_: Request) -> None:
        api.add("7", DEAD, seen=2)
        deployment.audit.fault = fail

    def fail() -> None:
        raise TransientError("S3 is down")

    api.before = once(change, at=2)
    report = deployment.one(WEB)
    assert (report.status, report.reason) == ("failed", "item 7: S3 is down")
    assert "7" in api.items


def test_failed_find_before_the_removal_blocks_it(api: FakeApi, server: tuple[str, Seen]) -> None:
    api.add("7", DEAD)
    api.before = once(lambda _: (503, "busy"), at=2)
    report = Deployment(document(server[0])).one(WEB)
    assert report.status == "failed"
    assert report.error_kind == "transient"
    assert "answers find with 503: busy" in str(report.reason)
    assert "7" in api.items


# Proof by address

BY_IP = {"field": "ip", "equals": "{private_ip}"}


def test_item_stays_if_its_address_gets_a_new_owner(api: FakeApi, server: tuple[str, Seen]) -> None:
    ec2 = FakeEc2()
    api.add("7", "", ip=IP)
    api.before = once(lambda _: void(ec2.launch("new", IP, vpc_id="vpc-1")), at=2)
    report = Deployment(document(server[0], prove=BY_IP), ec2=ec2).one(WEB)
    assert report.status == "skipped"
    assert f"item 7 left: {IP} now belongs to" in str(report.reason)
    assert "7" in api.items


def void(_: object) -> None:
    return None


def test_unused_address_proves_the_item(api: FakeApi, server: tuple[str, Seen]) -> None:
    ec2 = FakeEc2()
    api.add("7", "", ip=IP)
    ec2.add_interface(IP, vpc_id="vpc-2")  # somebody's of another VPC, without an instance
    assert outcome(Deployment(document(server[0], prove=BY_IP), ec2=ec2).one(WEB)) == ("done", ["item 7"])


def test_a_living_instance_of_another_place_with_the_address_keeps_the_item(
    api: FakeApi, server: tuple[str, Seen]
) -> None:
    abroad = FakeEc2(Place("222222222222", "eu-west-1"))
    abroad.launch("other", IP, vpc_id="vpc-9")
    api.add("7", "", ip=IP)
    report = Deployment(document(server[0], prove=BY_IP), others=[abroad]).one(WEB)
    assert report.status == "skipped"
    assert "222222222222/eu-west-1 (another VPC" in str(report.reason)


def test_one_answer_about_live_instances_covers_many_items(api: FakeApi, server: tuple[str, Seen]) -> None:
    ec2 = FakeEc2()
    many = [Instance(f"i-{n}", private_ips=(f"10.0.1.{n}",)) for n in range(10)]
    for n in range(10):
        api.add(str(n), "", ip=f"10.0.1.{n}")
    find = {"query": {"n": "{private_ip}"}}
    reports = Deployment(document(server[0], prove=BY_IP, find=find), ec2=ec2).run(*many)
    assert {report.status for report in reports.values()} == {"done"}
    assert ec2.calls["DescribeNetworkInterfaces"] == 2  # for the plan, and before the first removal


class Clock:
    """Jumps by ``step`` seconds, while it has ``jumps`` left, each time that it is looked at."""

    def __init__(self, step: float, jumps: int) -> None:
        self.now, self.step, self.jumps = 0.0, step, jumps

    def __call__(self) -> float:
        if self.jumps:
            self.jumps -= 1
            self.now += self.step
        return self.now


def test_outdated_answer_about_live_instances_is_refreshed(api: FakeApi, server: tuple[str, Seen]) -> None:
    url, seen = server
    api.add("7", "", ip=IP)
    clock = Clock(6, 3)
    deployment = Deployment(document(url, prove=BY_IP), now=clock)
    assert outcome(deployment.one(WEB)) == ("done", ["item 7"])
    assert seen.lines == ["GET /items"] * 3 + ["DELETE /items/7"]
    assert deployment.ec2.calls["DescribeNetworkInterfaces"] == 3


def test_persistently_outdated_answers_fail_the_step(api: FakeApi, server: tuple[str, Seen]) -> None:
    url, seen = server
    api.add("7", "", ip=IP)
    report = Deployment(document(url, prove=BY_IP), now=Clock(6, 10**6)).one(WEB)
    assert (report.status, report.error_kind) == ("failed", "transient")
    assert "(tried 3 times)" in str(report.reason)
    assert seen.lines == ["GET /items"] * 4
    assert "7" in api.items


def test_proof_by_id_needs_no_answer_about_live_instances(api: FakeApi, server: tuple[str, Seen]) -> None:
    api.add("7", DEAD)
    deployment = Deployment(document(server[0]), now=Clock(6, 10**6))
    assert outcome(deployment.one(WEB)) == ("done", ["item 7"])
    assert deployment.ec2.calls == {}


def test_unavailable_place_blocks_the_removal(api: FakeApi, server: tuple[str, Seen]) -> None:
    api.add("7", "", ip=IP)
    deployment = Deployment(document(server[0], prove=BY_IP))

    def fail(_: str) -> None:
        raise TransientError("EC2 is down")

    deployment.ec2.fault = fail
    report = deployment.one(WEB)
    assert report.status == "failed"
    assert "EC2 is down" in str(report.reason)
    assert "7" in api.items


# Statuses


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (400, "configuration", "refuses find (400): no"),
        (401, "permission", "refuses the credentials for find (401): no"),
        (403, "permission", "the credentials have no permission for find (403): no"),
        (404, "permission", "answers find with 404, which does not prove that nothing is there"),
        (405, "configuration", "refuses find (405): no"),
        (408, "transient", "answers find with 408: no"),
        (409, "transient", "answers find with 409: no"),
        (410, "permission", "answers find with 410"),
        (422, "configuration", "refuses find (422): no"),
        (423, "transient", "answers find with 423"),
        (429, "transient", "answers find with 429: no"),
        (500, "transient", "answers find with 500: no"),
        (503, "transient", "answers find with 503: no"),
        (304, "configuration", "redirects find to nowhere (304)"),
    ],
)
def test_a_find_that_is_refused_fails_the_step(
    api: FakeApi, server: tuple[str, Seen], status: int, kind: str, words: str
) -> None:
    api.before = lambda _: (status, "" if status == 304 else "no")
    report = Deployment(document(server[0])).one(WEB)
    assert (report.status, report.error_kind) == ("failed", kind)
    assert words in str(report.reason)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "configuration"),
        (401, "permission"),
        (403, "permission"),
        (409, "transient"),
        (429, "transient"),
        (500, "transient"),
    ],
)
def test_a_removal_that_is_refused_fails_the_step(
    api: FakeApi, server: tuple[str, Seen], status: int, kind: str
) -> None:
    api.add("7", DEAD)
    api.before = lambda r: (status, '{"message": "in use"}') if r.method == "DELETE" else None
    report = Deployment(document(server[0], remove={"error": "message"})).one(WEB)
    assert (report.status, report.error_kind, report.actions) == ("failed", kind, ())
    assert str(report.reason).startswith("item 7: ")
    assert "in use" in str(report.reason)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_redirect_is_not_followed(api: FakeApi, server: tuple[str, Seen], method: str, status: int) -> None:
    url, seen = server
    api.add("7", DEAD)
    to = f"{url}/elsewhere?token=x"
    api.before = lambda r: (status, "", {"Location": to}) if r.method == method else None
    report = Deployment(document(url)).one(WEB)
    assert (report.status, report.error_kind) == ("failed", "configuration")
    assert f"to {url}/elsewhere ({status}). Redirects are not followed" in str(report.reason)
    assert not any("elsewhere" in line for line in seen.lines)


def test_error_contains_the_retry_delay(api: FakeApi, server: tuple[str, Seen]) -> None:
    api.before = lambda _: (429, "", {"Retry-After": "17"})
    client = Client(read(document(server[0], secrets=["a"])), {"a": "4"}, lambda: Deadline.after(9))
    request = client.render(read(document(server[0])).find.request, WEB)
    with pytest.raises(TransientError) as error:
        client.ask(request, "find", None)
    assert error.value.retry_after_seconds == 17
    assert "429" not in str(error.value)  # hidden with the secret "4"


def test_a_server_that_is_down_is_retried() -> None:
    report = Deployment(document(closed_port())).one(WEB)
    assert (report.status, report.error_kind) == ("failed", "transient")
    assert "no connection for find" in str(report.reason)


def test_no_request_starts_without_enough_time(server: tuple[str, Seen]) -> None:
    url, seen = server
    report = Deployment(document(url), seconds=10.5).one(WEB)
    assert (report.status, report.error_kind) == ("failed", "transient")
    assert "too few to begin find on rest" in str(report.reason)
    assert seen.lines == []


# What a find answers


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "without JSON (is url the API's?): nothing"),
        ("<html>login</html>", "without JSON (is url the API's?): <html>login</html>"),
        ('{"items": [', "without JSON"),
        ('{"items": [NaN]}', "without JSON"),
        (b"\xff\xfe", "without JSON"),
        ("[" * 3000 + "]" * 3000, "with JSON of more than 100 levels"),
        ("[" * 100_000, "without JSON"),
    ],
)
def test_an_answer_that_is_no_json(api: FakeApi, server: tuple[str, Seen], body: str | bytes, words: str) -> None:
    api.before = lambda _: (200, body)
    report = Deployment(document(server[0])).one(WEB)
    assert (report.status, report.error_kind) == ("failed", "transient")
    assert f"answers find with 200 {words}" in str(report.reason)
    assert len(str(report.reason)) < 250


@pytest.mark.parametrize(
    "body", ["null", "{}", "[]", "5", '"x"', '{"items": null}', '{"items": {}}', '{"items": "x"}', '{"item": []}']
)
def test_answer_without_a_list_is_not_an_empty_list(api: FakeApi, server: tuple[str, Seen], body: str) -> None:
    api.before = lambda _: (200, body)
    report = Deployment(document(server[0])).one(WEB)
    assert (report.status, report.error_kind) == ("failed", "configuration")
    assert "find.items (items) is not a list in the answer, which does not prove that nothing is there" in str(
        report.reason
    )


def test_items_that_cannot_be_evaluated(api: FakeApi, server: tuple[str, Seen]) -> None:
    report = Deployment(document(server[0], find={"items": "length(nothing)"})).one(WEB)
    assert (report.status, report.error_kind) == ("failed", "configuration")
    assert "find.items: length(nothing) cannot be evaluated" in str(report.reason)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("Not authorized.", "permission"),
        ("Session terminated, re-login, please.", "permission"),
        ("No permissions to referred object or it does not exist!", "permission"),
        ("Database is down", "transient"),
        ({"code": 5}, "transient"),
        (0, "transient"),
    ],
)
@pytest.mark.parametrize("part", ["find", "remove"])
def test_an_error_in_a_2xx_answer_fails_the_step(
    api: FakeApi, server: tuple[str, Seen], part: str, error: Any, kind: str
) -> None:
    api.add("7", DEAD)
    method = "GET" if part == "find" else "DELETE"
    api.before = lambda r: (200, json.dumps({"items": [], "error": error})) if r.method == method else None
    report = Deployment(document(server[0], **{part: {"error": "error"}})).one(WEB)
    assert (report.status, report.error_kind, report.actions) == ("failed", kind, ())
    text = error if isinstance(error, str) else json.dumps(error)
    assert f"answers {'find' if part == 'find' else 'remove of item 7'} with an error: {text}" in str(report.reason)
    assert "7" in api.items


@pytest.mark.parametrize("error", [None, False, "", [], {}])
def test_falsy_error_is_not_an_error(api: FakeApi, server: tuple[str, Seen], error: Any) -> None:
    api.add("7", DEAD)
    api.before = lambda r: (200, json.dumps({"error": error})) if r.method == "DELETE" else None
    assert Deployment(document(server[0], remove={"error": "error"})).one(WEB).status == "done"


def test_an_error_that_cannot_be_evaluated_is_a_failure(api: FakeApi, server: tuple[str, Seen]) -> None:
    api.add("7", DEAD)
    report = Deployment(document(server[0], find={"error": "length(error)"})).one(WEB)
    assert (report.status, report.error_kind) == ("failed", "configuration")
    assert "error of find: length(error) cannot be evaluated" in str(report.reason)


@pytest.mark.parametrize(
    ("error", "body", "status"),
    [(None, "<html>", "done"), (None, "", "done"), ("error", "", "done"), ("error", "<html>", "failed")],
)
def test_removal_answer_is_ignored_unless_an_error_expression_is_set(
    api: FakeApi, server: tuple[str, Seen], error: str | None, body: str, status: str
) -> None:
    api.add("7", DEAD)
    api.before = lambda r: (200, body) if r.method == "DELETE" else None
    assert Deployment(document(server[0], remove={"error": error})).one(WEB).status == status


# Statuses that mean "gone"


def test_gone_counts_if_the_item_is_gone(api: FakeApi, server: tuple[str, Seen]) -> None:
    url, seen = server
    api.add("7", DEAD)

    def gone(request: Request) -> Answer:
        if request.method == "DELETE":
            api.items.clear()
            return 404, ""
        return None

    api.before = gone
    assert outcome(Deployment(document(url)).one(WEB)) == ("clean", [])
    assert seen.lines == ["GET /items", "GET /items", "DELETE /items/7", "GET /items"]


@pytest.mark.parametrize("shown", ["7", 7])
def test_gone_is_a_missing_permission_if_the_item_is_still_there(
    api: FakeApi, server: tuple[str, Seen], shown: Any
) -> None:
    api.add("7", DEAD)
    api.items["7"]["id"] = shown
    api.before = lambda r: (404, "") if r.method == "DELETE" else None
    report = Deployment(document(server[0])).one(WEB)
    assert (report.status, report.error_kind) == ("failed", "permission")
    assert "answers remove with 404, but the find right after it still shows the item" in str(report.reason)


def test_gone_is_a_missing_permission_even_if_the_item_changed_hands(api: FakeApi, server: tuple[str, Seen]) -> None:
    api.add("7", DEAD)

    def gone(request: Request) -> Answer:
        if request.method == "DELETE":
            api.add("7", ALIVE)
            return 404, ""
        return None

    api.before = gone
    assert Deployment(document(server[0])).one(WEB).error_kind == "permission"


def test_gone_is_not_trusted_if_the_next_find_fails(api: FakeApi, server: tuple[str, Seen]) -> None:
    api.add("7", DEAD)
    api.before = lambda r: (404, "") if r.method == "DELETE" else None
    deployment = Deployment(document(server[0]))
    refuse = once(lambda _: (500, ""), at=4)
    gone = api.before
    api.before = lambda r: refuse(r) or gone(r)
    report = deployment.one(WEB)
    assert (report.status, report.error_kind) == ("failed", "transient")
    assert "answers find with 500" in str(report.reason)


def test_a_status_that_does_not_mean_gone_is_a_failure(api: FakeApi, server: tuple[str, Seen]) -> None:
    api.add("7", DEAD)
    api.before = lambda r: (410, "") if r.method == "DELETE" else None
    report = Deployment(document(server[0], remove={"gone": [404]})).one(WEB)
    assert (report.status, report.error_kind) == ("failed", "permission")


# Pages


class Pages:
    """``pages`` by the value of the query parameter ``p``: the items' ids, and what ``next`` is."""

    def __init__(self, **pages: tuple[list[str], Any]) -> None:
        self.pages = pages

    def __call__(self, request: Request) -> Answer:
        if request.method != "GET":
            return 204, ""
        page = parse_qs(urlsplit(request.path).query).get("p", ["first"])[0]
        ids, following = self.pages[page]
        return 200, json.dumps({"items": [{"id": i, "instance": DEAD} for i in ids], "next": following})


@pytest.mark.parametrize(
    ("following", "expression"),
    [
        ("{url}/items?p=two", "next"),
        ("/items?p=two", "next"),
        ("?p=two", "next"),
        ("items?p=two", "next"),
        ({"p": "two"}, "next"),
        ("two", "next && {{p: next}}"),
        ({"after": "two"}, "{{p: next.after}}"),
    ],
)
def test_pages_are_followed(following: Any, expression: str) -> None:
    pages = Pages(first=([], None), two=(["7"], None))
    with serving(pages) as (url, seen):
        wanted = following.format(url=url) if isinstance(following, str) else following
        pages.pages["first"] = (["6"], wanted)
        find = {"next": expression.format(), "query": {"limit": "1"}}
        report = Deployment(document(url, find=find)).one(WEB, dry_run=True)
    assert targets(report) == ["item 6", "item 7"]
    assert seen.lines[0] == "GET /items?limit=1"
    assert seen.lines[1] in ("GET /items?p=two", "GET /items?limit=1&p=two")


def test_a_page_by_parameters_keeps_the_others_and_replaces_its_own() -> None:
    pages = Pages(first=(["1"], {"p": "a b&"}), **{"a b&": (["2"], {"p": 3})}, **{"3": (["3"], None)})
    with serving(pages) as (url, seen):
        find = {"next": "next", "query": {"limit": "1", "p": "first"}}
        report = Deployment(document(url, find=find)).one(WEB, dry_run=True)
    assert targets(report) == ["item 1", "item 2", "item 3"]
    assert seen.lines == [
        "GET /items?limit=1&p=first",
        "GET /items?limit=1&p=a+b%26",
        "GET /items?limit=1&p=3",
    ]


@pytest.mark.parametrize(
    "following",
    [
        "{other}/items?p=two",
        "https://{host}/items?p=two",
        "//evil.example.com/items?p=two",
        "http://127.0.0.1:1/items",
        "{url}/admin?p=two",
        "/admin?p=two",
        "/items/../admin?p=two",
        "/items/?p=two",
        "http://me@{host}/items?p=two",
        "http://[::1/items",
        "ftp://{host}/items?p=two",
        "javascript:alert(1)",
        "/items?p=t w\no",
        "/items?p=ä",
        "/items?p=\x7f",
        "two",
        5,
        True,
        ["/items?p=two"],
        {"p": ["two"]},
        {"p": "two", "q": None},
        {"p": True},
    ],
)
def test_a_page_elsewhere_is_refused(following: Any) -> None:
    pages = Pages(first=([], None), two=(["7"], None))
    with serving(pages) as (url, seen), serving(pages) as (other, strange):
        wanted = following.format(url=url, other=other, host=url[7:]) if isinstance(following, str) else following
        pages.pages["first"] = (["6"], wanted)
        report = Deployment(document(url, find={"next": "next"})).one(WEB)
        assert (report.status, report.error_kind, report.actions) == ("failed", "configuration", ())
        assert "it must be a URL of the same scheme, host, port and path" in str(report.reason)
        assert (seen.lines, strange.lines) == (["GET /items"], [])


@pytest.mark.parametrize(
    ("base", "following", "query"),
    [
        ("https://x/items", "https://x:443/items?p=2", "p=2"),
        ("https://x:443/items", "https://X/items?p=2", "p=2"),
        ("http://x/items", "http://x:80/items?p=2", "p=2"),
        ("http://x/items", "https://x/items?p=2", None),
        ("https://x/items", "https://x:80/items?p=2", None),
        ("https://x", "https://x/?p=2", "p=2"),
        ("https://x/items", "https://x/items", ""),
    ],
)
def test_the_place_of_a_page(base: str, following: str, query: str | None) -> None:
    assert _same_place(base, f"{base}?p=1", following) == query


@pytest.mark.parametrize("following", [None, False, "", [], {}, {"p": None}, {"p": ""}])
def test_the_last_page(following: Any) -> None:
    with serving(Pages(first=(["6"], following))) as (url, seen):
        report = Deployment(document(url, find={"next": "next"})).one(WEB, dry_run=True)
    assert targets(report) == ["item 6"]
    assert seen.lines == ["GET /items"]


def test_circular_pages_are_a_failure() -> None:
    pages = Pages(first=([], {"p": "two"}), two=([], {"p": "three"}), three=([], {"p": "two"}))
    with serving(pages) as (url, seen):
        report = Deployment(document(url, find={"next": "next"})).one(WEB)
    assert (report.status, report.error_kind) == ("failed", "configuration")
    assert "find.next leads to a page that was already read" in str(report.reason)
    assert len(seen.lines) == 3


def test_pages_without_end_are_a_failure() -> None:
    def answer(request: Request) -> Answer:
        page = int(parse_qs(urlsplit(request.path).query).get("p", ["0"])[0])
        return 200, json.dumps({"items": [], "next": {"p": page + 1}})

    with serving(answer) as (url, seen):
        report = Deployment(document(url, find={"next": "next"})).one(WEB)
    assert "find has more than 100 pages" in str(report.reason)
    assert len(seen.lines) == 100


def test_a_page_that_fails_fails_the_find(api: FakeApi) -> None:
    pages = Pages(first=(["6"], {"p": "two"}), two=([], None))

    def answer(request: Request) -> Answer:
        return (500, "") if "two" in request.path else pages(request)

    with serving(answer) as (url, seen):
        report = Deployment(document(url, find={"next": "next"})).one(WEB)
    assert (report.status, report.actions) == ("failed", ())
    assert not any(line.startswith("DELETE") for line in seen.lines)


def test_a_next_that_cannot_be_evaluated() -> None:
    with serving(Pages(first=([], 5))) as (url, _):
        report = Deployment(document(url, find={"next": "length(next)"})).one(WEB)
    assert "find.next: length(next) cannot be evaluated" in str(report.reason)


# Requests


def test_sent_requests(api: FakeApi) -> None:
    def answer(request: Request) -> Answer:
        if request.path == "/rpc?step=find":
            return 200, json.dumps({"result": [{"hostid": 7, "tag": DEAD, "group": "a/b"}]})
        return 200, "{}"

    with serving(answer) as (url, seen):
        find = {
            "method": "POST",
            "path": "/rpc",
            "query": {"step": "find"},
            "body": '{"tag": "{instance_id}"}',
            "items": "result",
            "id": "hostid",
        }
        remove = {
            "method": "PATCH",
            "path": "/groups/{item:group}/{id}",
            "query": {"name": "{tag:Name}"},
            "headers": {"X-Token": "{secret:token}"},
            "body": '{"id": "{id}", "token": "{secret:token}"}',
        }
        prove = {"field": "tag", "equals": "{instance_id}"}
        step = document(url, find=find, remove=remove, prove=prove, secrets=["token"])
        report = Deployment(step, {"token": 's"3'}).one(Instance(DEAD, tags={"Name": "a&b"}))
    assert report.actions == ({"action": "change", "target": "item 7", "proof": f"its tag is {DEAD}"},)
    sent = seen.requests[-1]
    assert sent.line == "PATCH /groups/a%2Fb/7?name=a%26b"
    assert sent.headers["X-Token"] == 's"3'
    assert sent.headers["Content-Type"] == "application/json"
    assert json.loads(sent.body) == {"id": "7", "token": 's"3'}


def test_the_latest_value_of_a_tag_is_sent(api: FakeApi, server: tuple[str, Seen]) -> None:
    url, seen = server
    api.add("7", DEAD)
    instance = Instance(DEAD, tags={"Name": "new"}, past_tags={"Name": ("old",)})
    Deployment(document(url, remove={"query": {"n": "{tag:Name}"}})).one(instance)
    assert seen.lines[-1] == "DELETE /items/7?n=new"


# Secrets


def test_no_secret_is_in_a_report_or_an_audit(api: FakeApi, server: tuple[str, Seen]) -> None:
    api.add("7", DEAD, note={"s3cret/x": ["the s3cret/x of s3cret%2Fx"]})
    api.add("s3cret/x", ALIVE)
    deployment = Deployment(document(server[0], secrets=["token"]), {"token": "s3cret/x"})
    report = deployment.one(WEB)
    assert "s3cret" not in json.dumps(report.document())
    [removal] = deployment.audit.kept
    assert removal.object is not None
    assert removal.object["note"] == {"***": ["the *** of ***"]}
    assert "s3cret" not in str(removal.object)


@pytest.mark.parametrize(
    "answer",
    [
        (403, "token s3cret%2Fx is bad"),
        (500, '{"error": "s3cret/x"}'),
        (200, '{"error": "s3cret/x", "items": []}'),
        (200, '{"items": "s3cret/x"}'),
        (200, '{"items": [], "next": "http://s3cret%2Fx"}'),
        (200, "s3cret/x"),
        (302, "", {"Location": "/login/s3cret/x"}),
    ],
)
def test_no_secret_is_in_an_error(api: FakeApi, server: tuple[str, Seen], answer: Answer) -> None:
    api.before = lambda _: answer
    find = {"path": "/{secret:token}", "query": {"t": "{secret:token}"}, "error": "error", "next": "next"}
    report = Deployment(document(server[0], secrets=["token"], find=find), {"token": "s3cret/x"}).one(WEB)
    assert report.status == "failed"
    assert "s3cret" not in str(report.reason)
    assert "***" in str(report.reason)


LONG_SECRET = "s3cr3t-abcdefghijklmnop"


@pytest.mark.parametrize("offset", range(0, 340, 17))
@pytest.mark.parametrize(
    "answer",
    [
        lambda text: (500, text),
        lambda text: (200, text),
        lambda text: (200, json.dumps({"error": text})),
        lambda text: (200, json.dumps({"items": text})),
        lambda text: (200, json.dumps({"items": [{"id": 7, "instance": text}]})),
        lambda text: (200, json.dumps({"items": [{"id": text, "instance": ALIVE}]})),
        lambda text: (200, json.dumps({"items": [{"id": [text], "instance": DEAD}]})),
        lambda text: (200, json.dumps({"items": [{"id": 7, "instance": DEAD, "group": [text]}]})),
        lambda text: (200, json.dumps({"items": [{"id": 7, "instance": DEAD, "odd": text}]})),
        lambda text: (200, json.dumps({"items": [], "next": [text]})),
        lambda text: (302, "", {"Location": f"/{text}"}),
    ],
)
def test_truncated_text_contains_no_part_of_a_secret(
    api: FakeApi, server: tuple[str, Seen], answer: Callable[[str], Answer], offset: int
) -> None:
    api.before = lambda _: answer("x" * offset + LONG_SECRET)
    find = {"error": "error", "next": "next"}
    keep = ["odd && length(to_number(odd))"]
    step = document(server[0], secrets=["t"], find=find, keep=keep, remove={"path": "/{id}/{item:group}"})
    report = Deployment(step, {"t": LONG_SECRET}).one(WEB)
    assert report.status in ("failed", "skipped")
    assert "s3" not in str(report.reason)
    assert len(str(report.reason)) < 600


def test_a_secret_that_cannot_be_sent_is_named_and_not_repeated(server: tuple[str, Seen]) -> None:
    step = document(server[0], secrets=["token"], headers={"X": "{secret:token}"})
    report = Deployment(step, {"token": "s3\ncret"}).one(WEB)
    assert (report.status, report.error_kind) == ("failed", "configuration")
    assert "the value of {secret:token} is not printable ASCII, as a header requires" in str(report.reason)
    assert "cret" not in str(report.reason).replace("secret", "")


class Bundle(dict[str, str]):
    """A bundle of secrets that counts how often one is opened."""

    opened = 0

    def __getitem__(self, name: str) -> str:
        self.opened += 1
        return super().__getitem__(name)


def test_the_application_opens_the_steps_own_secrets_once_and_keeps_its_connections(
    api: FakeApi, server: tuple[str, Seen]
) -> None:
    url, seen = server
    settings = read(document(url, secrets=["token"], headers={"X": "{secret:token}"}), "zabbix")
    bundle = Bundle({"http_steps.zabbix.token": "s3cret", "http_steps.other.token": "no"})
    systems = SimpleNamespace(secrets=bundle, tls=lambda: None)
    factory = _http_step(settings, systems)  # type: ignore[arg-type]  # what it takes of the systems
    assert (factory.name, bundle.opened) == ("zabbix", 0)
    batch = Batch({DEAD: WEB}, Live({}), Deadline.after(20))
    with until(Deadline.after(20)):
        for _ in range(3):
            factory.make(None).plan(batch)  # type: ignore[arg-type]  # it asks nothing of the function
    assert [request.headers["X"] for request in seen.requests] == ["s3cret"] * 3
    assert (bundle.opened, seen.connections) == (1, 1)


# Credentials


def test_basic_authentication(api: FakeApi, server: tuple[str, Seen]) -> None:
    url, seen = server
    step = document(url, secrets=["p"], auth={"basic": {"username": "me", "password": "p"}})
    api.before = lambda r: (403, f"you sent {r.headers['Authorization']}")
    report = Deployment(step, {"p": "ä:s"}).one(WEB)
    assert seen.requests[0].headers["Authorization"] == "Basic bWU6w6Q6cw=="
    assert str(report.reason).endswith("you sent Basic ***")


def test_a_password_that_is_empty() -> None:
    step = document("https://x", secrets=["p"], auth={"basic": {"username": "me", "password": "p"}})
    with pytest.raises(ConfigurationError, match=r"auth: the value of \{secret:p\} is not known"):
        Deployment(step, {"p": ""})


class Login:
    """An OAuth 2.0 token endpoint at ``/token``, beside an API that takes its tokens."""

    def __init__(self, api: FakeApi, **token: Any) -> None:
        self.api = api
        self.token = {"token_type": "bearer", "expires_in": 3600, **token}
        self.issued = 0
        self.valid: set[str] = set()
        self.takes = "body"

    def __call__(self, request: Request) -> Answer:
        if request.path != "/token":
            held = request.headers.get("Authorization", "").removeprefix("Bearer ")
            return self.api(request) if held in self.valid else (401, "")
        form = parse_qs(request.body.decode())
        assert form["grant_type"] == ["client_credentials"]
        in_body = form.get("client_id") == ["me"] and form.get("client_secret") == ["s3&cret"]
        in_header = request.headers.get("Authorization") == "Basic bWU6czMlMjZjcmV0"
        if (in_body, in_header) != (self.takes == "body", self.takes == "header"):
            return 401, '{"error": "invalid_client"}'
        self.issued += 1
        self.valid.add(f"tok{self.issued}")
        return 200, json.dumps({"access_token": f"tok{self.issued}", **self.token})


def oauth2(url: str, **options: Any) -> Deployment:
    auth = {"token_url": f"{url}/token", "client_id": "me", "client_secret": "p", "scope": "hosts:write"}
    find = {"query": {"i": "{instance_id}"}}
    return Deployment(document(url, secrets=["p"], auth={"oauth2": auth}, find=find), {"p": "s3&cret"}, **options)


@pytest.mark.parametrize("takes", ["body", "header"])
def test_a_token_is_fetched_once_and_used_until_it_expires(api: FakeApi, takes: str) -> None:
    login = Login(api)
    login.takes = takes
    api.add("7", DEAD)
    with serving(login) as (url, seen):
        deployment = oauth2(url)
        assert outcome(deployment.one(WEB)) == ("done", ["item 7"])
        assert deployment.one(WEB).status == "clean"
    assert login.issued == 1
    assert parse_qs(seen.requests[0].body.decode())["scope"] == ["hosts:write"]


def test_many_requests_at_once_fetch_one_token(api: FakeApi) -> None:
    login = Login(api)
    with serving(login) as (url, _):
        reports = oauth2(url).run(*(Instance(f"i-{n}") for n in range(20)))
    assert {report.status for report in reports.values()} == {"clean"}
    assert login.issued == 1


@pytest.mark.parametrize("seconds", [0.0, 59.0, 61.0, 10**400, -5, "3600", None, "x", []])
def test_a_token_lasts_for_the_next_request_whatever_its_server_says(api: FakeApi, seconds: Any) -> None:
    with serving(Login(api, expires_in=seconds)) as (url, _):
        assert oauth2(url).one(WEB).status == "clean"


def test_a_token_that_expired_is_fetched_again(api: FakeApi) -> None:
    login = Login(api, expires_in=100)
    now = [1000.0]
    with serving(login) as (url, _):
        deployment = oauth2(url, token_clock=lambda: now[0])
        for at, issued in ((1000.0, 1), (1049.0, 1), (1050.0, 2), (1101.0, 3)):
            now[0] = at
            deployment.one(WEB)
            assert login.issued == issued, at


def test_a_token_that_was_revoked_is_fetched_again_once(api: FakeApi) -> None:
    login = Login(api)
    api.add("7", DEAD)
    with serving(login) as (url, seen):
        deployment = oauth2(url)
        deployment.one(WEB, dry_run=True)
        login.valid.clear()
        assert outcome(deployment.one(WEB)) == ("done", ["item 7"])
        assert login.issued == 2
        login.token["access_token"] = "never-valid"
        login.valid.clear()
        before = len(seen.lines)
        report = deployment.one(WEB)
    assert (report.status, report.error_kind) == ("failed", "permission")
    assert "refuses the credentials for find (401)" in str(report.reason)
    assert [line.partition("?")[0] for line in seen.lines[before:]] == ["GET /items", "POST /token", "GET /items"]


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (
            (401, '{"error": "invalid_client"}'),
            "permission",
            "refuses the client's credentials (401): invalid_client",
        ),
        ((400, '{"error": "invalid_scope"}'), "permission", "refuses the client's credentials (400): invalid_scope"),
        ((403, "s3&cret"), "permission", "refuses the client's credentials (403)"),
        ((404, ""), "permission", "answers the request for a token with 404"),
        ((503, ""), "transient", "answers the request for a token with 503"),
        ((302, "", {"Location": "/x"}), "configuration", "redirects the request for a token to /x"),
        ((200, "<html>"), "transient", "answers the request for a token without JSON"),
        ((200, "[]"), "configuration", "the answer has no access_token"),
        ((200, '{"access_token": 5}'), "configuration", "the answer has no access_token"),
        ((200, '{"access_token": ""}'), "configuration", "the answer has no access_token"),
        ((200, '{"access_token": "a\\nb"}'), "configuration", "the answer has no access_token"),
        ((200, '{"access_token": "a", "token_type": "mac"}'), "configuration", "of a type other than Bearer"),
    ],
)
def test_token_request_fails(answer: Answer, kind: str, words: str) -> None:
    with serving(lambda _: answer) as (url, seen):
        report = oauth2(url).one(WEB)
    assert (report.status, report.error_kind) == ("failed", kind)
    assert words in str(report.reason)
    assert "s3&cret" not in str(report.reason)
    assert {request.path for request in seen.requests} == {"/token"}


def test_a_token_is_in_no_error(api: FakeApi) -> None:
    login = Login(api)
    api.before = lambda r: (500, f"you sent {r.headers['Authorization']}")
    with serving(login) as (url, _):
        report = oauth2(url).one(WEB)
    assert str(report.reason).endswith("you sent Bearer ***")
