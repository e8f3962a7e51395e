"""What the module writes is what the function and the build read: no key more, none missing.

One `terraform test` with mock values writes the documents out; the function's and the build's own parsers read them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ec2_decommission.config import Config
from testbed import tools

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.append(str(ROOT / "lambda" / "build"))  # the build's modules are a program's, not a package's

CALL = Path(__file__).resolve().parent / "everything_on.tftest.hcl"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The documents: `config`, `settings`, and the specifications of the build, `bundle` and `package`."""
    root = tmp_path_factory.mktemp("module")
    for path in [*ROOT.glob("*.tf"), ROOT / "mocks", ROOT / "lambda", ROOT / "LICENSE"]:
        (root / path.name).symlink_to(path)
    (root / "tests").mkdir()
    (root / "tests" / CALL.name).symlink_to(CALL)
    mirror = tools.terraform_mirror()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TF_")}
    plugins = [f"-plugin-dir={mirror}"] if mirror else []
    for arguments in (["init", "-backend=false", *plugins], ["test", "-json"]):
        done = subprocess.run(
            [tools.terraform_binary(), *arguments],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    details = [json.loads(line).get("diagnostic", {}).get("detail", "") for line in done.stdout.splitlines()]
    found = [match[1] for detail in details if (match := re.search("<<<(.*)>>>", detail, re.DOTALL))]
    assert len(found) == 1, details
    documents: dict[str, Any] = json.loads(found[0])
    return documents


@pytest.mark.servers
def test_the_function_reads_its_configuration(written: dict[str, Any], tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(written["settings"]))
    config = Config.parse(json.dumps(written["config"]), settings)
    assert config.organization is not None
    assert dict(config.organization.members) == {"123456789012": ("us-east-1",), "222222222222": ("eu-west-1",)}
    assert list(config.http_steps) == ["Basic-1", "oauth2"]
    assert config.audit is not None
    assert config.result_events is not None
    assert config.route53 is not None
    assert [zone.zone_id for zone in config.route53.zones] == ["Z1", "Z2"]


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["bundle", "package"])
def test_the_build_reads_its_specification(written: dict[str, Any], kind: str) -> None:
    import spec  # noqa: PLC0415

    wanted = spec.parse(json.dumps(written[kind]), kind)
    assert wanted.kind == kind
    assert [reference.name for reference in wanted.secrets] == [
        *("chef_client_key", "consul_client_certificate", "consul_client_key"),
        "custom_steps.mine.token",
        *("http_steps.Basic-1.p", "http_steps.Basic-1.u", "http_steps.oauth2.p"),
    ]
    assert wanted.settings == written["settings"]
