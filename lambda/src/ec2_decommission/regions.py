"""Extracts the region from names that EC2 assigns."""

from __future__ import annotations

import re

# eu-west-1a, and local and wavelength zones, such as us-west-2-lax-1a and us-east-1-wl1-bos-wlz-1.
_REGION_OF_ZONE = re.compile(r"[a-z]+(?:-[a-z]+)+-\d+")
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/hostname-types.html
_REGION_OF_NAME = re.compile(r"\.([a-z]+(?:-[a-z]+)+-\d+)\.compute\.(?:internal|amazonaws\.com(?:\.cn)?)\.?$")
_FIRST_REGION = re.compile(r"\.(?:ec2\.internal|compute-1\.amazonaws\.com)\.?$")  # us-east-1 has its own names


def region_of_zone(zone: str | None) -> str | None:
    """Returns the region of an availability zone, a local zone or a wavelength zone; None for any other text.

    Example:
        >>> region_of_zone("us-west-2-lax-1a")
        'us-west-2'
    """
    match = _REGION_OF_ZONE.match(zone or "")
    return match[0] if match else None


def region_of_name(name: str) -> str | None:
    """Returns the region in a DNS name assigned by EC2; None for any other name.

    Example:
        >>> region_of_name("ip-10-0-0-5.eu-west-1.compute.internal")
        'eu-west-1'
    """
    if match := _REGION_OF_NAME.search(name):
        return match[1]
    return "us-east-1" if _FIRST_REGION.search(name) else None
