"""AWS's errors in this package's terms, and the deadline before every attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError
from botocore.parsers import ResponseParserError

from ec2_decommission.clients.aws import AwsClients, aws_errors
from ec2_decommission.deadline import Deadline
from ec2_decommission.errors import (
    AccessError,
    ConfigurationError,
    DecommissionError,
    OutOfTime,
    PermanentError,
    TransientError,
)
from testbed.aws import Answer, Drop, Hang, StrictAws, garbage, throttled, unavailable
from testbed.inventory import make_inventory_table

if TYPE_CHECKING:
    from collections.abc import Iterator


def error(code: str, message: str = "why") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "Op")


@pytest.mark.parametrize("code", ["AccessDenied", "AccessDeniedException", "UnauthorizedOperation"])
def test_a_missing_right_names_the_right(code: str) -> None:
    with pytest.raises(AccessError) as told, aws_errors("read table t (dynamodb:GetItem)"):
        raise error(code)
    assert str(told.value) == "AWS denies the function's role the right to read table t (dynamodb:GetItem): why"


@pytest.mark.parametrize("code", ["NoSuchHostedZone", "ResourceNotFoundException", "DisabledException"])
def test_missing_resource_is_a_configuration_error(code: str) -> None:
    with pytest.raises(ConfigurationError, match=f"could not do it: .*{code}") as told, aws_errors("do it"):
        raise error(code)
    assert not isinstance(told.value, AccessError)


@pytest.mark.parametrize("what", ["Item size has exceeded", "Item size to update has exceeded"])
def test_oversized_item_is_a_permanent_error(what: str) -> None:
    with pytest.raises(PermanentError, match="maximum allowed size"), aws_errors("do it"):
        raise error("ValidationException", f"{what} the maximum allowed size")


@pytest.mark.parametrize(
    "raised",
    [
        error("ValidationException", "something else"),
        error("Throttling"),
        error("PriorRequestNotComplete"),
        error("InternalError"),
        ClientError({}, "Op"),
        EndpointConnectionError(endpoint_url="http://x"),
        ReadTimeoutError(endpoint_url="http://x"),
        ResponseParserError("half a document"),
        ConnectionResetError("reset"),
        ValueError("not JSON"),
    ],
)
def test_all_other_errors_are_transient(raised: Exception) -> None:
    with pytest.raises(TransientError, match="could not do it"), aws_errors("do it"):
        raise raised


def test_this_packages_own_errors_stay_what_they_are() -> None:
    with pytest.raises(AccessError, match=r"^no right$"), aws_errors("do it"):
        raise AccessError("no right")


def test_too_little_time_is_told_with_what_it_was_wanted_for() -> None:
    with pytest.raises(OutOfTime, match=r"^could not do it: no time$"), aws_errors("do it"):
        raise OutOfTime("no time")


@pytest.fixture(scope="module")
def aws() -> Iterator[StrictAws]:
    with StrictAws() as strict:
        make_inventory_table(strict.client("dynamodb"), "t")
        yield strict


@pytest.fixture
def environment(aws: StrictAws, monkeypatch: pytest.MonkeyPatch) -> StrictAws:
    aws.clear_faults()
    aws.reset_calls()
    for name, value in aws.environ().items():
        monkeypatch.setenv(name, value)
    return aws


def ask(clients: AwsClients) -> None:
    with aws_errors("describe instances"):
        clients("ec2").describe_instances()


def test_a_client_is_made_once(environment: StrictAws) -> None:
    clients = AwsClients(lambda: Deadline.after(60))
    assert clients("ec2") is clients("ec2")


def test_no_attempt_is_sent_that_could_outlast_the_deadline(environment: StrictAws) -> None:
    seconds = 7.9
    clients = AwsClients(lambda: Deadline.after(seconds))
    with pytest.raises(OutOfTime, match="too few to begin a call to AWS"):
        ask(clients)
    assert environment.calls.total() == 0
    seconds = 60
    ask(clients)
    assert environment.calls["ec2:DescribeInstances"] == 1


def test_changing_message_visibility_needs_less_time(environment: StrictAws) -> None:
    clients = AwsClients(lambda: Deadline.after(4))
    with aws_errors("list queues"):
        clients("sqs").list_queues()
    with pytest.raises(OutOfTime):
        ask(clients)


def test_a_retry_is_an_attempt_like_any_other(environment: StrictAws) -> None:
    left = [60.0]

    def throttle(*_: object) -> object:
        left[0] = 1.0
        return throttled("RequestLimitExceeded")

    with environment.fault(throttle, everyone=True), pytest.raises(OutOfTime):
        ask(AwsClients(lambda: Deadline(lambda: left[0])))
    assert environment.calls["ec2:DescribeInstances"] == 1


@pytest.mark.parametrize("fault", [throttled("RequestLimitExceeded"), unavailable(), Drop()])
def test_transient_errors_are_retried_immediately(environment: StrictAws, fault: object) -> None:
    faults = iter([fault])
    with environment.fault(lambda *_: next(faults, None), everyone=True):
        ask(AwsClients(lambda: Deadline.after(60)))
    assert environment.calls["ec2:DescribeInstances"] == 2


@pytest.mark.parametrize("answer", [garbage(), garbage(502)])
def test_an_answer_that_is_not_awss_is_transient(environment: StrictAws, answer: object) -> None:
    with environment.fault(lambda *_: answer, everyone=True), pytest.raises(TransientError):
        ask(AwsClients(lambda: Deadline.after(60)))


LOG_IN = Answer(200, b"<!DOCTYPE html><html><body>Please log in.</body></html>", {"Content-Type": "text/html"})


@pytest.mark.parametrize(
    ("service", "operation", "arguments"),
    [
        ("ec2", "describe_instances", {}),
        ("ec2", "describe_network_interfaces", {}),
        ("dynamodb", "batch_get_item", {"RequestItems": {"t": {"Keys": [{"k": {"S": "1"}}]}}}),
        ("dynamodb", "update_item", {"TableName": "t", "Key": {"k": {"S": "1"}}}),
        ("route53", "change_resource_record_sets", {"HostedZoneId": "Z", "ChangeBatch": {"Changes": []}}),
        ("kms", "decrypt", {"CiphertextBlob": b"x"}),
        ("sqs", "send_message_batch", {"QueueUrl": "q", "Entries": []}),
    ],
)
def test_well_formed_page_from_another_server_is_an_error(
    environment: StrictAws, service: str, operation: str, arguments: dict[str, object]
) -> None:
    """botocore takes it for an answer in which everything is left out: a write would seem done."""
    clients = AwsClients(lambda: Deadline.after(60))
    told = pytest.raises(TransientError, match=r"could not ask: ")
    with environment.fault(lambda *_: LOG_IN, everyone=True), told, aws_errors("ask"):
        getattr(clients(service), operation)(**arguments)


def test_an_answer_that_does_not_come_is_not_waited_for(
    environment: StrictAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ec2_decommission.clients.aws.READ_TIMEOUT_SECONDS", 0.3)
    left = [60.0]

    def hang(*_: object) -> object:
        left[0] = 0.0
        return Hang(2)

    with environment.fault(hang, everyone=True), pytest.raises(DecommissionError):
        ask(AwsClients(lambda: Deadline(lambda: left[0])))
