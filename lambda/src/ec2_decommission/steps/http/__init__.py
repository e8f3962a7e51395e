"""A step for a REST API, declared without code: find items, prove whose they are, remove the dead instance's.

This package imports neither requests nor urllib3 (``client`` does): every configuration is read with ``settings``,
and a function without HTTP steps has no such libraries.
"""

from __future__ import annotations

from .step import HttpStep

__all__ = ["HttpStep"]
