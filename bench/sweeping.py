"""Table 4: the sweep over a recorded fleet.

The real boto3 clients, with answers of EC2 and DynamoDB put in before anything is sent; what making the answers takes
is not counted. Each size runs in a process of its own, for its memory: this file is that process's program too.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

ROOT = Path(__file__).resolve().parent.parent
EC2_PAGE, DYNAMODB_PAGE = 1000, 900  # instances in an answer; a page of DynamoDB has up to 1 MB
GONE = 20


@dataclass(frozen=True)
class Swept:
    """What one sweep cost, over all its invocations; CPU seconds, memory in MB of the process with its stubs."""

    number: int
    invocations: int
    calls: int
    cpu_seconds: float
    longest: float
    found_gone: int
    peak_memory: float


def measure(number: int, seconds: float) -> Swept:
    """Sweeps so many recorded instances; an invocation has so many seconds of CPU."""
    done = subprocess.run(
        [sys.executable, __file__, str(number), str(seconds)],
        env={
            "PYTHONPATH": f"{ROOT / 'lambda/src'}:{ROOT}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the sweep failed: {done.stderr[-2000:]}")
    return Swept(**json.loads(done.stdout.splitlines()[-1]))


class _Raw:
    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, **_: Any) -> Iterable[bytes]:
        yield self._body

    def read(self, *_: Any) -> bytes:
        return self._body


class Stubs:
    """EC2 and DynamoDB with the same instances, but a few that EC2 has forgotten."""

    def __init__(self, number: int) -> None:
        self.ids = sorted("i-0" + hashlib.sha256(str(n).encode()).hexdigest()[:16] for n in range(number))
        self.gone = set(self.ids[:: max(1, number // GONE)][:GONE])
        self.calls: Counter[str] = Counter()
        self.seconds = 0.0

    def _page(self, prefix: str, start: int, size: int) -> tuple[list[str], int | None]:
        first, end = bisect.bisect_left(self.ids, prefix), bisect.bisect_left(self.ids, prefix + "g")
        following = start + size if first + start + size < end else None
        return self.ids[first + start : min(end, first + start + size)], following

    def ec2(self, request: Any, **_: Any) -> Any:
        begin = time.process_time()
        query = {name: values[0] for name, values in parse_qs(_text(request.body)).items()}
        self.calls["DescribeInstances"] += 1
        asked = [value for name, value in query.items() if name.startswith("InstanceId.")]
        status, body = 200, ""
        if asked:
            status = 400
            message = f"The instance IDs '{', '.join(asked)}' do not exist"
            body = (
                f"<Response><Errors><Error><Code>InvalidInstanceID.NotFound</Code><Message>{message}</Message>"
                "</Error></Errors><RequestID>r</RequestID></Response>"
            )
        else:
            prefix = next((value[:-1] for value in query.values() if value.endswith("*")), "i-")
            page, following = self._page(prefix, int(query.get("NextToken") or 0), EC2_PAGE)
            token = f"<nextToken>{following}</nextToken>" if following else ""
            body = (
                '<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r</requestId>'
                f"<reservationSet>{''.join(_xml(i) for i in page if i not in self.gone)}</reservationSet>{token}"
                "</DescribeInstancesResponse>"
            )
        return self._answer(request, status, "text/xml", body, begin)

    def dynamodb(self, request: Any, **_: Any) -> Any:
        begin = time.process_time()
        operation = _text(request.headers["X-Amz-Target"]).split(".")[1]
        self.calls[operation] += 1
        asked, answer = json.loads(_text(request.body)), {}
        if operation == "Query":
            prefix = asked["ExpressionAttributeValues"].get(":prefix", {"S": "i-"})["S"]
            start = int(asked.get("ExclusiveStartKey", {}).get("n", {}).get("N", 0))
            page, following = self._page(prefix, start, DYNAMODB_PAGE)
            answer = {"Items": [_item(i) for i in page]}
            if following:
                answer["LastEvaluatedKey"] = {"n": {"N": str(following)}}  # type: ignore[assignment]
        return self._answer(request, 200, "application/x-amz-json-1.0", json.dumps(answer), begin)

    def _answer(self, request: Any, status: int, kind: str, body: str, begin: float) -> Any:
        from botocore.awsrequest import AWSResponse  # noqa: PLC0415

        raw = body.encode()
        headers = {"Content-Type": kind, "Content-Length": str(len(raw))}
        answer = AWSResponse(request.url, status, headers, _Raw(raw))  # type: ignore[arg-type]
        self.seconds += time.process_time() - begin
        return answer


class _Queue:
    def __init__(self) -> None:
        self.sent = 0
        self.progress: list[Any] = []

    def send(self, terminations: Iterable[Any]) -> None:
        self.sent += len(list(terminations))

    def go_on(self, progress: Any) -> None:
        self.progress.append(progress)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _address(instance_id: str) -> tuple[str, str]:
    number = int(instance_id[-8:], 16)
    ip = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return ip, f"ip-{ip.replace('.', '-')}.eu-west-1.compute.internal"


def _item(instance_id: str) -> Any:
    from ec2_decommission.inventory import _typed  # noqa: PLC0415

    ip, name = _address(instance_id)
    facts = {
        "account_id": "123456789012",
        "region": "eu-west-1",
        "vpc_id": "vpc-1",
        "launch_time": "2026-01-01T00:00:00+00:00",
        "private_ips": [ip],
        "private_dns_names": [name],
        "tags": {f"t{n}": f"value-{n}" for n in range(8)},
    }
    item = {"instance_id": instance_id, "state": "running", "living": "yes", "recorded_at": "2026-01-01"}
    return _typed({**item, "facts": facts})


def _xml(instance_id: str) -> str:
    ip, name = _address(instance_id)
    tags = "".join(f"<item><key>t{n}</key><value>value-{n}</value></item>" for n in range(8))
    groups = "<groupSet><item><groupId>sg-1</groupId><groupName>default</groupName></item></groupSet>"
    address = f"<privateIpAddress>{ip}</privateIpAddress><privateDnsName>{name}</privateDnsName>"
    return (
        "<item><reservationId>r-1</reservationId><ownerId>123456789012</ownerId><groupSet/><instancesSet><item>"
        f"<instanceId>{instance_id}</instanceId><imageId>ami-1</imageId>"
        "<instanceState><code>16</code><name>running</name></instanceState><dnsName/><reason/><keyName>k</keyName>"
        "<instanceType>m5.large</instanceType><launchTime>2026-01-01T00:00:00.000Z</launchTime>"
        "<placement><availabilityZone>eu-west-1a</availabilityZone><tenancy>default</tenancy></placement>"
        f"<monitoring><state>disabled</state></monitoring><subnetId>subnet-1</subnetId><vpcId>vpc-1</vpcId>{address}"
        f"<sourceDestCheck>true</sourceDestCheck>{groups}<architecture>x86_64</architecture>"
        f"<tagSet>{tags}</tagSet><networkInterfaceSet><item><networkInterfaceId>eni-1</networkInterfaceId>"
        f"<subnetId>subnet-1</subnetId><vpcId>vpc-1</vpcId><ownerId>123456789012</ownerId><status>in-use</status>"
        f"{address}{groups}<privateIpAddressesSet><item>{address}<primary>true</primary></item>"
        "</privateIpAddressesSet><ipv6AddressesSet/></item></networkInterfaceSet></item></instancesSet></item>"
    )


def _left(spent: Callable[[], float], started: float, seconds: float) -> float:
    return seconds - (spent() - started)


def main(number: int, seconds: float) -> Swept:
    """The process's own work."""
    import boto3  # noqa: PLC0415  # in the process only

    from bench.environment import peak_memory  # noqa: PLC0415
    from ec2_decommission.adoption import Place  # noqa: PLC0415
    from ec2_decommission.clients.ec2 import BotoEc2  # noqa: PLC0415
    from ec2_decommission.config import SweepSettings  # noqa: PLC0415
    from ec2_decommission.deadline import Deadline  # noqa: PLC0415
    from ec2_decommission.inventory import DynamoInventory  # noqa: PLC0415
    from ec2_decommission.progress import Progress  # noqa: PLC0415
    from ec2_decommission.run import Clock  # noqa: PLC0415
    from ec2_decommission.sweep import Sweep  # noqa: PLC0415

    stubs, queue, clock = Stubs(number), _Queue(), Clock()
    ec2, dynamodb = (boto3.client(name, region_name="eu-west-1") for name in ("ec2", "dynamodb"))
    ec2.meta.events.register("before-send.ec2", stubs.ec2)
    dynamodb.meta.events.register("before-send.dynamodb", stubs.dynamodb)
    place = Place("eu-west-1", "123456789012")
    inventory = DynamoInventory(dynamodb, "table", 30)
    sweep = Sweep(SweepSettings(), BotoEc2(ec2), inventory, queue, lambda _: True, place, clock)

    def spent() -> float:
        return time.process_time() - stubs.seconds

    begin, longest, invocations, found = spent(), 0.0, 0, 0
    progress: Progress | None = None
    while True:
        started = spent()
        clock.deadline = Deadline(partial(_left, spent, started, seconds))
        report = sweep.run(dry_run=False, progress=progress)
        invocations += 1
        found += len(report.gone)
        longest = max(longest, spent() - started)
        if not report.goes_on:
            break
        progress = Progress.of(json.loads(json.dumps(queue.progress[-1])))
    return Swept(
        number, invocations, stubs.calls.total(), spent() - begin, longest, queue.sent or found, peak_memory()
    )


if __name__ == "__main__":
    print(json.dumps(asdict(main(int(sys.argv[1]), float(sys.argv[2])))))
