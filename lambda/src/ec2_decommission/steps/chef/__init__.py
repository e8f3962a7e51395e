"""The step ``chef``: the node and the client of a terminated instance."""

from .step import ChefStep

__all__ = ["ChefStep"]
