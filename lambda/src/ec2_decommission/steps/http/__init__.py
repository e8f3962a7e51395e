"""A step for a REST API, declared without code: finds items, proves who owns them, removes the dead instance's.

This package does not import requests and urllib3; only ``client`` does. ``settings`` reads every configuration, and a
function without HTTP steps does not have these libraries.
"""

from __future__ import annotations

from .step import HttpStep

__all__ = ["HttpStep"]
