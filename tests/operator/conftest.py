"""The real function with one step, deployed without Terraform on the strict AWS, and the command as users run it."""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.metadata import files
from pathlib import Path
from typing import Any

import pytest
from moto.ec2.models import ec2_backends

from testbed.aws import Credentials, LaunchedInstance, StrictAws
from testbed.inventory import make_inventory_table
from testbed.lambda_service import EventSourcePoller, LambdaService
from testbed.runtime import Packages, runtime_python

ROOT = Path(__file__).resolve().parent.parent.parent
CLI = ROOT / "cli"
NAME = "ec2-decommission"
REGION = "eu-west-1"
PYTHON = "3.13"
TABLE = f"{NAME}-inventory"
BUCKET = f"{NAME}-audit"
EVERYTHING = [{"Effect": "Allow", "Action": "*", "Resource": "*"}]


@dataclass(frozen=True)
class Ran:
    """What came of one run of the command."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def words(self) -> str:
        """The output without its line breaks, to look for a sentence in it."""
        return " ".join(self.out.split())

    @property
    def said(self) -> str:
        """The same of what was written for a person beside the output."""
        return " ".join(self.err.split())


def run_cli(arguments: Sequence[str], environment: Mapping[str, str], *, stdin: str = "", cwd: Path = ROOT) -> Ran:
    """`python3 cli ...` in a terminal of 80 columns, its standard input no terminal."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TF_", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "cli" if cwd == ROOT else str(CLI), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**inherited, "COLUMNS": "80", **environment},
        timeout=60,
    )
    ran = Ran(done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in ran.err, ran.err
    for line in f"{ran.out}\n{ran.err}".splitlines():
        machine = {"--json", "--csv", "--html", "plan"} & set(arguments) or "python3 " in line or "aws sqs" in line
        assert len(line) <= 80 or len(line.split()) == 1 or machine, f"wider than 80 columns: {line}"
    return ran


@dataclass
class Site:
    """The deployment, and the fleet that leaves records in its zone."""

    aws: StrictAws
    functions: LambdaService
    zone_id: str
    queue_url: str
    dead_letter_queue_url: str
    config: dict[str, Any]
    arguments: list[str] = field(default_factory=lambda: ["--function-name", NAME])
    credentials: Credentials | None = None

    @property
    def poller(self) -> EventSourcePoller:
        return EventSourcePoller(self.functions)

    def cli(self, command: str, *arguments: str, stdin: str = "", **environment: str) -> Ran:
        return run_cli(
            [command, *arguments, *self.arguments], {**self.aws.environ(self.credentials), **environment}, stdin=stdin
        )

    def launch(self, name: str) -> LaunchedInstance:
        """An instance with a record in the zone, an hour old and in the inventory."""
        instance = self.aws.launch(name, emit=False)
        launched = datetime.now(UTC) - timedelta(hours=1)
        ec2_backends[self.aws.account][self.aws.region].get_instance(instance.id).launch_time = launched
        record = {
            "Name": f"{name}.example.internal",
            "Type": "A",
            "TTL": 60,
            "ResourceRecords": [{"Value": instance.private_ip}],
        }
        self.aws.client("route53").change_resource_record_sets(
            HostedZoneId=self.zone_id,
            ChangeBatch={"Changes": [{"Action": "CREATE", "ResourceRecordSet": record}]},
        )
        self.send(json.dumps(self.aws.state_change(instance.id, "running")))
        self.poller.drain()
        return instance

    def dead(self, name: str) -> str:
        """One that has ended, and of whose end nobody told the function."""
        instance = self.launch(name)
        self.aws.terminate(instance.id, emit=False)
        return instance.id

    def end(self, instance_id: str) -> None:
        """EC2's event, delivered and handled."""
        self.send(json.dumps(self.aws.state_change(instance_id, "terminated")))
        self.poller.drain()

    def names(self) -> list[str]:
        """The names that have an A record."""
        answer = self.aws.client("route53").list_resource_record_sets(HostedZoneId=self.zone_id)
        return [record["Name"].split(".")[0] for record in answer["ResourceRecordSets"] if record["Type"] == "A"]

    def send(self, *bodies: str, to: str | None = None, **more: Any) -> list[str]:
        sqs = self.aws.client("sqs")
        return [
            sqs.send_message(QueueUrl=to or self.queue_url, MessageBody=body, **more)["MessageId"] for body in bodies
        ]

    def configure(self, **config: Any) -> None:
        """Changes the function's configuration, as an apply does."""
        self.config = {**self.config, **config}
        self.aws.client("lambda").update_function_configuration(
            FunctionName=NAME, Environment={"Variables": {"DECOMMISSION_CONFIG": json.dumps(self.config)}}
        )


@functools.cache
def package() -> bytes:
    """The function with its dependencies and its bytecode, as the build packages them. Without bytecode, each
    execution environment would compile everything it imports."""
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory)
        shutil.copytree(ROOT / "lambda" / "src", target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.pyc"))
        for distribution in ("aws-lambda-powertools", "jmespath", "typing-extensions"):
            for file in files(distribution) or ():
                if file.suffix == ".py" and ".." not in file.parts:
                    (target / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(str(file.locate()), target / file)
        compileall = [str(runtime_python(PYTHON)), "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
        subprocess.run([*compileall, "-s", directory, directory], check=True)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for path in sorted(target.rglob("*.py*")):
                archive.write(path, path.relative_to(target))
        return buffer.getvalue()


@pytest.fixture(scope="module")
def aws() -> Iterator[StrictAws]:
    with StrictAws(REGION) as started:
        yield started


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Packages]:
    made = Packages(tmp_path_factory.mktemp("packages"))
    yield made
    made.close()


@pytest.fixture
def site(aws: StrictAws, packages: Packages, tmp_path: Path) -> Iterator[Site]:
    aws.reset()
    with LambdaService(aws, run_directory=tmp_path, packages=packages) as functions:
        yield deploy(aws, functions)


def deploy(aws: StrictAws, functions: LambdaService) -> Site:
    """What the module deploys, as far as the command sees it, by the module's names."""
    sqs, iam = aws.client("sqs"), aws.client("iam")
    zone = aws.client("route53").create_hosted_zone(Name="example.internal", CallerReference="1")["HostedZone"]
    dead = sqs.create_queue(QueueName=f"{NAME}-dead-letters", Attributes={"MessageRetentionPeriod": "1209600"})
    dead_arn = f"arn:aws:sqs:{aws.region}:{aws.account}:{NAME}-dead-letters"
    redrive = json.dumps({"deadLetterTargetArn": dead_arn, "maxReceiveCount": 2})
    queue = sqs.create_queue(QueueName=NAME, Attributes={"RedrivePolicy": redrive, "VisibilityTimeout": "720"})
    aws.client("logs").create_log_group(logGroupName=f"/aws/lambda/{NAME}")
    make_inventory_table(aws.client("dynamodb"), TABLE)
    trust = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    role = iam.create_role(
        RoleName=NAME, AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    )["Role"]["Arn"]
    iam.put_role_policy(
        RoleName=NAME,
        PolicyName="all",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": EVERYTHING}),
    )
    aws.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": aws.region})
    zone_id = zone["Id"].rpartition("/")[2]
    config = {
        "name": NAME,
        "account_id": aws.account,
        "region": aws.region,
        "route53": {"zones": [{"id": zone_id}], "record_names": ["{tag:Name}.example.internal"]},
        "audit": {"bucket": BUCKET, "prefix": "kept/"},
        "inventory": {"table_name": TABLE, "retention_days": 30},
        "sweep": {"max_instances": 2, "max_fraction": 0.25},
        "queue": {"url": queue["QueueUrl"], "max_receive_count": 2},
    }
    aws.client("lambda").create_function(
        FunctionName=NAME,
        Role=role,
        Runtime=f"python{PYTHON}",
        Handler="ec2_decommission.entry.handle",
        Code={"ZipFile": package()},
        Timeout=120,
        Environment={"Variables": {"DECOMMISSION_CONFIG": json.dumps(config)}},
    )
    aws.client("lambda").create_event_source_mapping(
        EventSourceArn=f"arn:aws:sqs:{aws.region}:{aws.account}:{NAME}",
        FunctionName=NAME,
        BatchSize=10,
        FunctionResponseTypes=["ReportBatchItemFailures"],
    )
    return Site(aws, functions, zone["Id"], queue["QueueUrl"], dead["QueueUrl"], config)


def documented_policy() -> dict[str, Any]:
    """The policy that docs/operator.md gives."""
    text = (ROOT / "docs" / "operator.md").read_text().split("```json\n")[1].split("```")[0]
    policy: dict[str, Any] = json.loads(text)
    return policy


def user_with(aws: StrictAws, policy: Mapping[str, Any], name: str = "operator") -> Credentials:
    """The credentials of a user with just that policy."""
    iam = aws.client("iam")
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return Credentials(key["AccessKeyId"], key["SecretAccessKey"])
