"""The step ``consul``: releases the instance's locks, destroys its sessions, and deregisters its node."""

from .step import ConsulStep

__all__ = ["ConsulStep"]
