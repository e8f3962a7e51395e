"""The AWS region that is part of a zone's name, and of a DNS name that EC2 made."""

from __future__ import annotations

import re

# eu-west-1a, and local and wavelength zones, such as us-west-2-lax-1a and us-east-1-wl1-bos-wlz-1.
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/using-regions-availability-zones.html
_ZONE = re.compile(r"[a-z]+(?:-[a-z]+)+-\d+")
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/hostname-types.html
_NAME = re.compile(r"\.([a-z]+(?:-[a-z]+)+-\d+)\.compute\.(?:internal|amazonaws\.com(?:\.cn)?)\.?$")
_FIRST_REGION = re.compile(r"\.(?:ec2\.internal|compute-1\.amazonaws\.com)\.?$")  # us-east-1 has names of its own


def region_of_zone(zone: str | None) -> str | None:
    """The region of an availability zone, local zone or wavelength zone; None if it is no such name.

    Example:
        >>> region_of_zone("eu-west-1a")
        'eu-west-1'
    """
    match = _ZONE.match(zone or "")
    return match[0] if match else None


def region_of_name(dns_name: str) -> str | None:
    """The region in a DNS name that EC2 made; None for any other name.

    Example:
        >>> region_of_name("ip-10-0-0-5.eu-west-1.compute.internal")
        'eu-west-1'
    """
    if match := _NAME.search(dns_name):
        return match[1]
    return "us-east-1" if _FIRST_REGION.search(dns_name) else None
