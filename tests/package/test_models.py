"""The descriptions of AWS in the package: what the function calls, as botocore has it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore import xform_name
from botocore.exceptions import HTTPClientError
from botocore.loaders import Loader
from botocore.utils import parse_timestamp

import models
from ec2_decommission.clients.aws import AwsClients, _timestamp
from ec2_decommission.clients.ec2 import BotoEc2
from ec2_decommission.deadline import Deadline
from testbed.aws import StrictAws
from testbed.aws_models import lay_out
from tests.package.conftest import REPOSITORY, Builder

SOURCE = REPOSITORY / "lambda" / "src" / "ec2_decommission"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out(tmp_path_factory.mktemp("package"))


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Services of which a client was made as boto3 makes it."""
    made = []

    class Session(boto3.Session):
        def client(self, service: str, **more: Any) -> Any:  # type: ignore[override]
            made.append(service)
            return super().client(service, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(boto3, "Session", Session)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return made


def operation(called: str) -> str:
    return called.title().replace("_", "")


def test_it_has_what_the_function_calls() -> None:
    source = "".join(path.read_text() for path in SOURCE.rglob("*.py"))
    called = set(re.findall(r"client\.([a-z]+_[a-z0-9_]+)\(", source)) | set(
        re.findall(r"get_paginator\(\"(\w+)\"\)", source)
    )
    called |= set(re.findall(r"kms\(\)\.(\w+)\(", source)) | set(re.findall(r"\(\"sqs\"\)\.(\w+)\(", source))
    described = {name for names in models.OPERATIONS.values() for name in names}
    assert {operation(name) for name in called} - {"GetPaginator"} == described


# The role has these beside: Lambda itself takes from the queue, and makes the interfaces of a function in a VPC.
LAMBDAS_OWN = {
    "sqs": {"DeleteMessage", "GetQueueAttributes", "ReceiveMessage"},
    "ec2": {
        "AssignPrivateIpAddresses",
        "CreateNetworkInterface",
        "DeleteNetworkInterface",
        "DescribeSubnets",
        "UnassignPrivateIpAddresses",
    },
}


@pytest.mark.parametrize("service", models.OPERATIONS)
def test_the_functions_role_is_given_what_is_described_and_no_more(service: str) -> None:
    policy = (REPOSITORY / "iam.tf").read_text()
    # A right may serve several operations.
    rights = {
        {"TransactWriteItems": "UpdateItem"}.get(name, name.removesuffix("Batch"))
        for name in models.OPERATIONS[service]
    }
    assert set(re.findall(rf"\"{service}:(\w+)\"", policy)) == rights | LAMBDAS_OWN.get(service, set())


def test_what_the_role_is_given_of_ec2_for_the_function_itself() -> None:
    policy = (REPOSITORY / "iam.tf").read_text()
    (given,) = re.findall(r'actions\s+= \[("ec2:[^\]]+)\]\n\s+resources = \["\*"\]', policy)
    assert set(re.findall(r"ec2:(\w+)", given)) == set(models.OPERATIONS["ec2"])


@pytest.mark.parametrize("service", models.OPERATIONS)
def test_requests_answers_and_errors_are_described_as_botocore_does(directory: Path, service: str) -> None:
    (file,) = (directory / service).rglob("service-2.json")
    own = json.loads(file.read_text())
    theirs = Loader().load_service_model(service, "service-2", file.parent.name)
    assert own["metadata"] == theirs["metadata"]
    assert set(own["operations"]) == set(models.OPERATIONS[service])
    for name, shape in own["shapes"].items():
        members = theirs["shapes"][name].get("members", {})
        assert set(shape.get("members", {})) == models.MEMBERS.get(service, {}).get(name, set(members)), name
        assert all(
            shape["members"][member]["shape"] == members[member]["shape"] for member in shape.get("members", {})
        )
        assert shape["type"] == theirs["shapes"][name]["type"]
        assert shape.get("error") == theirs["shapes"][name].get("error")


REGIONS = ["us-east-1", "eu-central-1", "us-gov-west-1", "cn-north-1", "mars-north-1"]  # the last is newer than all


@pytest.mark.parametrize("variant", ["", "AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"])
@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("service", models.OPERATIONS)
def test_a_client_asks_where_boto3s_asks(
    directory: Path, whole: list[str], service: str, region: str, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variant:
        monkeypatch.setenv(variant, "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    sent: list[Any] = []
    for own in (directory, None):
        client = AwsClients(lambda: Deadline.after(60), models=own, check_parameters=False)(service)

        def keep(request: Any, **_: Any) -> Any:
            scope = request.headers["Authorization"].decode().split("Credential=")[1].split(",")[0].split("/")
            sent.append((request.url, scope[2:]))
            raise InterruptedError

        client.meta.events.register_first("before-send", keep)
        # Without its parameters no request of Route 53's can be made.
        name = "decrypt" if service == "kms" else xform_name(models.OPERATIONS[service][-1])
        parameters = {"HostedZoneId": "Z"} if service == "route53" else {}
        with pytest.raises((InterruptedError, HTTPClientError)):
            getattr(client, name)(**parameters)
    assert whole == [service]
    assert sent[0] == sent[1]


def test_a_client_is_made_of_it_and_reads_ec2_as_with_the_whole(
    directory: Path, whole: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with StrictAws() as aws:
        for name, value in aws.environ().items():
            monkeypatch.setenv(name, value)
        launched = aws.launch("web-1", "10.0.0.15", emit=False)
        seen = []
        for own in (directory, None):
            client = AwsClients(lambda: Deadline.after(60), models=own)("ec2")
            assert hasattr(client, "create_tags") is (own is None)
            ec2 = BotoEc2(client)
            living = list(ec2.living({"private-ip-address": ["10.0.0.15"]}))
            seen.append((ec2.describe([launched.id]), living, ec2.interfaces(["10.0.0.15"])))
        assert whole == ["ec2"]
        assert seen[0] == seen[1]
        assert seen[0][0][launched.id].lives


def test_what_it_does_not_describe_is_boto3s(directory: Path, whole: list[str]) -> None:
    clients = AwsClients(lambda: Deadline.after(60), models=directory)
    assert hasattr(clients("cloudwatch"), "put_metric_data")
    assert not hasattr(clients("sqs"), "create_queue")
    assert whole == ["cloudwatch"]


@pytest.mark.parametrize("fault", ["too little", "unreadable"])
def test_a_botocore_that_cannot_use_it_uses_its_own(
    directory: Path, whole: list[str], tmp_path: Path, fault: str
) -> None:
    """As 1.34 cannot: it does not know the type stringArray of a parameter."""
    shutil.copytree(directory, tmp_path / "models")
    (version,) = (tmp_path / "models" / "dynamodb").iterdir()
    if fault == "too little":
        (version / "service-2.json").unlink()
    else:
        rules = version / "endpoint-rule-set-1.json"
        rules.write_text(rules.read_text().replace('"stringArray"', '"newType"'))
    clients = AwsClients(lambda: Deadline.after(60), models=tmp_path / "models")
    assert hasattr(clients("dynamodb"), "create_table")
    assert not hasattr(clients("sqs"), "create_queue")
    assert whole == ["dynamodb"]


@pytest.mark.servers
def test_it_is_in_the_package_where_there_is_no_custom_step(
    builder: Builder, full: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "__init__.py").write_text("def make_step(tools): ...\n")
    with zipfile.ZipFile(full()) as archive:
        found = {name: archive.read(name) for name in archive.namelist() if name.startswith(f"{models.DIRECTORY}/")}
    assert found == models.files()
    with_step = builder.build(builder.spec("model", custom_steps={"mine": {"source_dir": str(tmp_path)}}))
    with zipfile.ZipFile(with_step) as archive:
        assert not [name for name in archive.namelist() if name.startswith(models.DIRECTORY)]


_START = """
import json, os, sys
task, runtime = sys.argv[1:]
data, theirs = os.path.join(runtime, "botocore", "data"), []

def watch(event, arguments):
    if event in ("open", "os.listdir") and str(arguments[0]).startswith(data):
        theirs.append(str(arguments[0]))

sys.addaudithook(watch)
sys.path[:0] = sys.argv[1:]
from ec2_decommission import entry, wiring
from ec2_decommission.clients.aws import AwsClients

clients = AwsClients(lambda: None, models=wiring._models())
for service in ("dynamodb", "ec2", "kms", "route53", "sqs"):
    clients(service)
print(json.dumps([entry._application is not None, "boto3" in sys.modules, theirs]))
"""


@pytest.mark.servers
def test_the_deployed_function_makes_its_clients_of_nothing_else(full: Callable[..., Path], tmp_path: Path) -> None:
    task, runtime = tmp_path / "task", tmp_path / "runtime"
    with zipfile.ZipFile(full()) as archive:
        archive.extractall(task)
    runtime.mkdir()
    for name in ("boto3", "botocore", "s3transfer", "dateutil"):
        (runtime / name).symlink_to(Path(pytest.__file__).parents[1] / name)
    config = {
        "name": "x",
        "route53": {"zone_ids": ["Z0FORWARD"], "record_names": ["{tag:Name}.example.internal"]},
        "inventory": {"table_name": "t"},
    }
    environ = {
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "DECOMMISSION_CONFIG": json.dumps(config),
    }
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", _START, str(task), str(runtime)],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [True, False, []]


@pytest.mark.parametrize(
    "told",
    [
        "2026-03-01T12:00:00.000Z",
        "2026-03-01T12:00:00Z",
        "2026-03-01T12:00:00+01:00",
        "20260301T120000Z",
        1772366400.5,
        "1772366400",
        "Sun, 01 Mar 2026 12:00:00 GMT",
    ],
)
def test_a_time_is_read_as_botocore_reads_it(told: Any) -> None:
    own, theirs = _timestamp(told), parse_timestamp(told)
    assert (own, own.isoformat()) == (theirs, theirs.isoformat())
