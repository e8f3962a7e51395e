"""A search index in front of a Chef server, because goiardi has none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from testbed.aws import Answer
from testbed.fault_proxy import Request


class ChefIndex:
    """Answers node searches in front of Chef, as a Chef server's search index does.

    goiardi has no index: it reads all nodes for each search term. With 1,000 nodes, a term takes a third of a second.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, Mapping[str, Any]] = {}

    def answer(self, request: Request) -> Answer | None:
        """The rows of a partial search by instance id or name; None for any other request."""
        url = urlsplit(request.path)
        if request.method != "POST" or url.path != "/search/node":
            return None
        wanted = set(parse_qs(url.query)["q"][0].replace("\\", "").split(" OR "))
        rows = []
        for name, node in list(self.nodes.items()):
            if wanted & {f"name:{name}", f"ec2_instance_id:{node['ec2']['instance_id']}"}:
                data = {key: _at(node, keys) for key, keys in json.loads(request.body).items()}
                rows.append({"url": f"/nodes/{name}", "data": {**data, "name": name}})
        found = json.dumps({"total": len(rows), "start": 0, "rows": rows}).encode()
        return Answer(200, found, {"Content-Type": "application/json"})

    def watch(self, request: Request, done: bool) -> None:
        """Removes deleted nodes from the index."""
        if done and request.method == "DELETE" and request.path.startswith("/nodes/"):
            self.nodes.pop(request.path.removeprefix("/nodes/"), None)


def _at(node: Any, keys: list[str]) -> Any:
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node
