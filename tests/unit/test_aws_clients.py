"""Clients of many roles and regions in one execution environment."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.loaders import JSONFileLoader

from ec2_decommission.clients.aws import AwsClients


def test_a_service_description_is_read_once_for_all_roles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read for each role, the clients of 100 places take 740 MB instead of 200."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    read: list[str] = []
    load = JSONFileLoader.load_file

    def counted(self: JSONFileLoader, file_path: str) -> Any:
        data = load(self, file_path)
        if data is not None and "service-2" in str(file_path):
            read.append(str(file_path))
        return data

    monkeypatch.setattr(JSONFileLoader, "load_file", counted)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    aws = AwsClients()
    clients = [aws("ec2", f"arn:aws:iam::{n}00000000000:role/reader", None, "eu-west-1") for n in range(1, 4)]
    assert len({id(client) for client in clients}) == 3
    assert len([path for path in read if "ec2" in path]) == 1
