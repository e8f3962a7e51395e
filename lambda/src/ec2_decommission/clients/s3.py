"""Objects in an S3 bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .aws import aws_errors

if TYPE_CHECKING:
    from collections.abc import Callable


class S3Bucket:
    """One bucket. Every call may raise a DecommissionError.

    Args:
        client: returns a boto3 ``s3`` client.
        name: the bucket's name.
    """

    def __init__(self, client: Callable[[], Any], name: str) -> None:
        self._client = client
        self.name = name

    def put(self, key: str, body: bytes) -> None:
        """Writes a JSON object. Replaces an object with the same key."""
        with aws_errors(f"write {key} to bucket {self.name} (s3:PutObject)"):
            self._client().put_object(Bucket=self.name, Key=key, Body=body, ContentType="application/json")

    def keys(self, prefix: str) -> list[str]:
        """Returns the keys that begin with ``prefix``, in order."""
        with aws_errors(f"list {prefix} in bucket {self.name} (s3:ListBucket)"):
            pages = self._client().get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
            return [entry["Key"] for page in pages for entry in page.get("Contents", ())]

    def get(self, key: str) -> bytes:
        """Returns the object's content."""
        with aws_errors(f"read {key} from bucket {self.name} (s3:GetObject)"):
            body: bytes = self._client().get_object(Bucket=self.name, Key=key)["Body"].read()
        return body
