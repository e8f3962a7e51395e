"""The region that EC2 wrote into a name."""

from __future__ import annotations

import re

# eu-west-1a, and the zones beyond a region's own, such as us-west-2-lax-1a and us-east-1-wl1-bos-wlz-1.
_REGION_OF_ZONE = re.compile(r"[a-z]+(?:-[a-z]+)+-\d+")
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/hostname-types.html
_REGION_OF_NAME = re.compile(r"\.([a-z]+(?:-[a-z]+)+-\d+)\.compute\.(?:internal|amazonaws\.com(?:\.cn)?)\.?$")
_FIRST_REGION = re.compile(r"\.(?:ec2\.internal|compute-1\.amazonaws\.com)\.?$")  # us-east-1 has names of its own


def region_of_zone(zone: str | None) -> str | None:
    """The region of an availability zone, a local zone or a wavelength zone; None for any other text.

    Example:
        >>> region_of_zone("us-west-2-lax-1a")
        'us-west-2'
    """
    match = _REGION_OF_ZONE.match(zone or "")
    return match[0] if match else None


def region_of_name(name: str) -> str | None:
    """The region in a DNS name made by EC2; None for any other name.

    Example:
        >>> region_of_name("ip-10-0-0-5.eu-west-1.compute.internal")
        'eu-west-1'
    """
    if match := _REGION_OF_NAME.search(name):
        return match[1]
    return "us-east-1" if _FIRST_REGION.search(name) else None
