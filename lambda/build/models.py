"""What the function needs of botocore's description of EC2, by itself.

botocore reads the description of a service when it makes a client. EC2's has some 800 operations, of which the
function calls two: to read all of it takes a fifth of the function's start, and 17 MB of memory. botocore looks for
descriptions in a directory of the user's too (AWS_DATA_PATH), which goes before its own where both have the newest
version of the API. Should the runtime's botocore have a newer version one day, the function takes that one, whole,
and starts more slowly.
https://botocore.amazonaws.com/v1/documentation/api/latest/reference/loaders.html
"""

import json
from typing import Any

from botocore.loaders import Loader

DIRECTORY = "aws_models"  # in the package; wiring.py looks for it there

# All that the function asks of EC2, and that its role is given (iam.tf).
EC2_OPERATIONS = ("DescribeInstances", "DescribeNetworkInterfaces")


def ec2() -> dict[str, bytes]:
    """The file for the package, from the botocore that the build is locked to."""
    loader = Loader([Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
    version = loader.determine_latest_version("ec2", "service-2")
    model = loader.load_service_model("ec2", "service-2", version)
    operations = {name: model["operations"][name] for name in EC2_OPERATIONS}
    shapes: dict[str, Any] = {}
    waiting = [operation[end]["shape"] for operation in operations.values() for end in ("input", "output")]
    while waiting:
        name = waiting.pop()
        if name not in shapes:
            shape = shapes[name] = model["shapes"][name]
            references = [*shape.get("members", {}).values()]
            references += [shape[key] for key in ("member", "key", "value") if key in shape]
            waiting += [reference["shape"] for reference in references]
    own = {"version": model["version"], "metadata": model["metadata"], "operations": operations, "shapes": shapes}
    text = json.dumps(_without_documentation(own), separators=(",", ":"), sort_keys=True)
    return {f"{DIRECTORY}/ec2/{version}/service-2.json": text.encode()}


def _without_documentation(node: Any) -> Any:
    if isinstance(node, dict):
        # A member of a structure that bore this name would have an object for it.
        kept = {key: value for key, value in node.items() if key != "documentation" or not isinstance(value, str)}
        return {key: _without_documentation(value) for key, value in kept.items()}
    return [_without_documentation(item) for item in node] if isinstance(node, list) else node
