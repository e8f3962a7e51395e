"""A clean-up step with a secret and a dependency: what lies in Vault under an instance's id."""

from __future__ import annotations

from collections.abc import Iterable

import hvac
import hvac.exceptions

from ec2_decommission.custom_step import Instance, InstanceStep, Living, Removal, StepTools, TransientError


class VaultEntries(InstanceStep):
    def __init__(self, tools: StepTools) -> None:
        super().__init__(tools)
        seconds = tools.deadline.timeout(10, "a call to Vault")
        self._client = hvac.Client(  # type: ignore[no-untyped-call]
            tools.setting("address"), token=tools.secret("token"), timeout=seconds
        )

    def find_one(self, instance: Instance, living: Living) -> Iterable[Removal]:
        path = f"instances/{instance.instance_id}"
        if self._is_there(path):
            yield Removal("delete", f"secret/{path}", "its path is the instance's id", handle=path)

    def remove_one(self, instance: Instance, removal: Removal) -> None:
        self._client.secrets.kv.v2.delete_metadata_and_all_versions(removal.handle, mount_point="secret")

    def _is_there(self, path: str) -> bool:
        try:
            self._client.secrets.kv.v2.read_secret_metadata(path, mount_point="secret")
        except hvac.exceptions.InvalidPath:
            return False
        except hvac.exceptions.VaultError as error:
            raise TransientError(f"Vault: {error}") from error
        return True


make_step = VaultEntries
