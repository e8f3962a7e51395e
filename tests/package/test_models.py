"""The description of EC2 in the package: what the function calls, as botocore has it."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from botocore.loaders import Loader

import models
from ec2_decommission.clients.aws import AwsClients
from ec2_decommission.clients.ec2 import BotoEc2
from ec2_decommission.deadline import Deadline
from testbed.aws import StrictAws
from tests.package.conftest import REPOSITORY, Builder


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("package")
    for name, content in models.ec2().items():
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(content)
    return root / models.DIRECTORY


def test_it_has_what_the_function_calls_and_its_role_is_given() -> None:
    source = (REPOSITORY / "lambda" / "src" / "ec2_decommission" / "clients" / "ec2.py").read_text()
    called = set(re.findall(r"_client\.(\w+)\(", source)) | set(re.findall(r"get_paginator\(\"(\w+)\"\)", source))
    names = {name.title().replace("_", "") for name in called - {"get_paginator"}}
    assert names == set(models.EC2_OPERATIONS)
    policy = (REPOSITORY / "iam.tf").read_text()
    (given,) = re.findall(r'actions\s+= \[("ec2:[^\]]+)\]\n\s+resources = \["\*"\]', policy)
    assert set(re.findall(r"ec2:(\w+)", given)) == set(models.EC2_OPERATIONS)


def test_requests_and_answers_are_described_as_botocore_does(directory: Path) -> None:
    (file,) = directory.rglob("service-2.json")
    own = json.loads(file.read_text())
    whole = Loader().load_service_model("ec2", "service-2", file.parent.name)
    assert own["metadata"] == whole["metadata"]
    for name, shape in own["shapes"].items():
        assert set(shape.get("members", {})) == set(whole["shapes"][name].get("members", {})), name
        assert shape["type"] == whole["shapes"][name]["type"]


def test_a_client_is_made_of_it_and_reads_ec2_as_with_the_whole(
    directory: Path, monkeypatch: pytest.MonkeyPatch
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
            answer = client.describe_network_interfaces()["NetworkInterfaces"]
            seen.append((ec2.describe([launched.id]), living, answer))
        assert seen[0] == seen[1]
        assert seen[0][0][launched.id].lives


def test_a_newer_version_of_the_api_goes_before_it(directory: Path, tmp_path: Path) -> None:
    newer = tmp_path / "ec2" / "2999-01-01"
    newer.mkdir(parents=True)
    (newer / "service-2.json").write_text("{}")
    loader = Loader([str(directory), str(tmp_path)])
    assert loader.determine_latest_version("ec2", "service-2") == "2999-01-01"


@pytest.mark.servers
def test_it_is_in_the_package_where_there_is_no_custom_step(
    builder: Builder, full: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "__init__.py").write_text("def make_step(tools): ...\n")
    with zipfile.ZipFile(full()) as archive:
        found = {name: archive.read(name) for name in archive.namelist() if name.startswith(f"{models.DIRECTORY}/")}
    assert found == models.ec2()
    with_step = builder.build(builder.spec("model", custom_steps={"mine": {"source_dir": str(tmp_path)}}))
    with zipfile.ZipFile(with_step) as archive:
        assert not [name for name in archive.namelist() if name.startswith(models.DIRECTORY)]
