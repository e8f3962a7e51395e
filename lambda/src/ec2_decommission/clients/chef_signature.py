"""Signs requests to a Chef server with version 1.3 or 1.0 of Chef's protocol.

Version 1.3 signs with SHA-256 and is the only version that a FIPS server accepts. Version 1.0 (SHA-1) is for servers
older than Chef Server 12.4. https://docs.chef.io/server/api_chef_server/#authentication-headers; the canonical form
is that of mixlib-authentication, signedheaderauth.rb.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

from .pychef_compat import chef

if TYPE_CHECKING:
    from datetime import datetime

    from .pychef_compat import Key

_LINE = 60  # characters of the signature in one header
# The server API's version. Version 0 returns a client's public key with the client; version 1 keeps it elsewhere. All
# Chef Infra Servers so far accept 0, and use it if a request names no version.
_API_VERSION = "0"


def signed_headers(
    protocol: str, key: Key, *, method: str, path: str, body: str, user_id: str, at: datetime
) -> dict[str, str]:
    """Returns the headers that sign a request.

    Args:
        protocol: ``1.3`` or ``1.0``.
        path: the URL's path, without the query.
        user_id: the client's name.
        at: the time in UTC. A server refuses requests that are more than 15 minutes off.
    """
    if protocol == "1.0":
        headers: dict[str, str] = chef.auth.sign_request(key, method, path, body, "", at, user_id)
        return headers
    content_hash = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
    timestamp = chef.auth.canonical_time(at)
    canonical = "\n".join(
        [
            f"Method:{method}",
            f"Path:{chef.auth.canonical_path(path)}",
            f"X-Ops-Content-Hash:{content_hash}",
            "X-Ops-Sign:version=1.3",
            f"X-Ops-Timestamp:{timestamp}",
            f"X-Ops-UserId:{user_id}",
            f"X-Ops-Server-API-Version:{_API_VERSION}",
        ]
    )
    signature = base64.b64encode(key.sign(canonical.encode())).decode()
    lines = [signature[start : start + _LINE] for start in range(0, len(signature), _LINE)]
    return {
        "X-Ops-Sign": "algorithm=sha256;version=1.3",
        "X-Ops-UserId": user_id,
        "X-Ops-Timestamp": timestamp,
        "X-Ops-Content-Hash": content_hash,
        "X-Ops-Server-API-Version": _API_VERSION,
        **{f"X-Ops-Authorization-{number}": line for number, line in enumerate(lines, start=1)},
    }
