"""What the function needs of botocore's descriptions of AWS, by itself.

To make a client, botocore reads what each of AWS's services offers at which addresses, and looks into each of its
400 directories of descriptions. The function calls thirteen operations of five services: to read the rest takes a
third of its start, and 17 MB of memory. So the package brings these, in botocore's own form, and the function makes
its clients of them (``clients/aws.py``).
https://botocore.amazonaws.com/v1/documentation/api/latest/reference/loaders.html
"""

import json
from collections.abc import Iterator, Set
from typing import Any

from botocore.loaders import Loader

DIRECTORY = "aws_models"  # in the package; wiring.py looks for it there

# All that the function asks of AWS, as its role is given it (iam.tf).
OPERATIONS = {
    "dynamodb": ("BatchGetItem", "Query", "TransactWriteItems", "UpdateItem"),
    "ec2": ("DescribeInstances", "DescribeNetworkInterfaces"),
    "kms": ("Decrypt",),
    "route53": ("ChangeResourceRecordSets", "GetHostedZone", "ListResourceRecordSets"),
    "sqs": ("ChangeMessageVisibilityBatch", "SendMessage", "SendMessageBatch"),
}


# Of EC2's answers so much is read (clients/ec2.py). In each answer botocore looks for every member that is described,
# and passes over what is not.
MEMBERS = {
    "ec2": {
        "Instance": {
            "InstanceId", "LaunchTime", "NetworkInterfaces", "PrivateDnsName", "PrivateIpAddress", "PublicDnsName",
            "PublicIpAddress", "State", "Tags", "VpcId",
        },
        "InstanceNetworkInterface": {"Attachment", "Ipv6Addresses", "PrivateDnsName", "PrivateIpAddresses"},
        "InstanceNetworkInterfaceAttachment": {"DeviceIndex"},
        "NetworkInterface": {
            "Association", "Attachment", "Description", "Ipv6Addresses", "NetworkInterfaceId", "PrivateIpAddress",
            "PrivateIpAddresses", "VpcId",
        },
    },
}  # fmt: skip


def files() -> dict[str, bytes]:
    """The files for the package, from the botocore that the build is locked to."""
    loader = Loader([Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
    described = {name: loader.load_data(name) for name in ("partitions", "sdk-default-configuration")}
    described["endpoints"] = _endpoints(loader.load_data("endpoints"))
    for service in OPERATIONS:
        version = loader.determine_latest_version(service, "service-2")
        for name, content in _service(loader, service, version):
            described[f"{service}/{version}/{name}"] = content
    return {
        f"{DIRECTORY}/{name}.json": json.dumps(content, separators=(",", ":"), sort_keys=True).encode()
        for name, content in described.items()
    }


def _endpoints(whole: Any) -> Any:
    """All partitions with their regions, and of the services those that are asked.

    A region that is newer than the description is known by its partition's pattern.
    """
    partitions = [
        {**partition, "services": {s: of for s, of in partition["services"].items() if s in OPERATIONS}}
        for partition in whole["partitions"]
    ]
    return {**whole, "partitions": partitions}


def _service(loader: Loader, service: str, version: str) -> Iterator[tuple[str, Any]]:
    yield "service-2", _without_documentation(_model(loader, service, version))
    yield "endpoint-rule-set-1", loader.load_service_model(service, "endpoint-rule-set-1", version)
    pages = loader.load_service_model(service, "paginators-1", version)["pagination"]
    yield "paginators-1", {"pagination": {name: pages[name] for name in OPERATIONS[service] if name in pages}}


def _model(loader: Loader, service: str, version: str) -> Any:
    model = loader.load_service_model(service, "service-2", version)
    operations = {name: model["operations"][name] for name in OPERATIONS[service]}
    shapes: dict[str, Any] = {}
    waiting = [operation[end] for operation in operations.values() for end in ("input", "output") if end in operation]
    waiting += [error for operation in operations.values() for error in operation.get("errors", ())]
    while waiting:
        name = waiting.pop()["shape"]
        if name not in shapes:
            shape = shapes[name] = _cut(model["shapes"][name], MEMBERS.get(service, {}).get(name))
            waiting += [*shape.get("members", {}).values()]
            waiting += [shape[key] for key in ("member", "key", "value") if key in shape]
    return {"version": model["version"], "metadata": model["metadata"], "operations": operations, "shapes": shapes}


def _cut(shape: Any, members: Set[str] | None) -> Any:
    """The shape with these members; None: with all."""
    if members is None:
        return shape
    return {**shape, "members": {member: shape["members"][member] for member in sorted(members)}}


def _without_documentation(node: Any) -> Any:
    if isinstance(node, dict):
        # A member of a structure that bore this name would have an object for it.
        kept = {key: value for key, value in node.items() if key != "documentation" or not isinstance(value, str)}
        return {key: _without_documentation(value) for key, value in kept.items()}
    return [_without_documentation(item) for item in node] if isinstance(node, list) else node
