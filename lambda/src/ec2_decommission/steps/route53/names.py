"""Names: an instance's, those of external-dns's ownership records, and those that are never touched."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ...clients.route53 import canonical, is_record_name
from ...config import ExternalDns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ...clients.route53 import Zone
    from ...instance import Instance
    from ...templates import Template

FORWARD = ("A", "AAAA", "CNAME")  # the types that the step removes at the names of an instance
HANDLED = (*FORWARD, "PTR")

_RECORD_TYPE = "%{record_type}"
# A TXT value of external-dns with --txt-encrypt-enabled: base64, nothing else.
_CIPHERTEXT = re.compile(r'"?[A-Za-z0-9+/]{64,}={0,2}"?')
# EC2's own names by address: ip-10-0-0-5.ec2.internal, ec2-54-7-8-9.compute-1.amazonaws.com
_ADDRESS_NAME = re.compile(r"(?:ip|ec2)-(\d+)-(\d+)-(\d+)-(\d+)\.")
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/hostname-types.html
_ID_NAME = re.compile(r"(i-[0-9a-f]+)\.(?:ec2|([a-z0-9-]+)\.compute)\.internal\.")


@dataclass(frozen=True)
class OwnNames:
    """The names to look at for one instance.

    Attributes:
        forward: its canonical record names, each with the template that gave it. If several templates give the same
            name, one that contains the instance id is preferred.
        pointers: the names of the PTR records of its recorded addresses, each with the address.
        notes: the templates that gave no name, and why.
    """

    instance: Instance
    forward: Mapping[str, Template]
    pointers: Mapping[str, str]
    notes: tuple[str, ...]


def own_names(record_names: Iterable[Template], instance: Instance) -> OwnNames:
    """Returns the names from ``record_names`` for an instance, for every value that its tags ever had."""
    forward: dict[str, Template] = {}
    notes: list[str] = []
    for template in record_names:
        names = template.render_all(instance)
        if not names:
            unknown = ", ".join(template.missing(instance))
            notes.append(f"record name {template.text}: {unknown} is not known for {instance.instance_id}")
        for name in map(canonical, names):
            if not is_record_name(name):
                notes.append(f"record name {template.text}: {name[:100]!r} is not a DNS name, so no record has it")
            elif name not in forward or template.by_id:
                forward[name] = template
    pointers = {pointer(address): address for address in instance.addresses}
    return OwnNames(instance, forward, pointers, tuple(notes))


def name_questions(record_names: Iterable[Template], name: str) -> Iterator[tuple[Template, str]]:
    """Yields each template that can give the canonical name, with the name in the template's form, in lower case.

    Example:
        >>> from ec2_decommission.templates import Template
        >>> list(name_questions([Template("{tag:Name}.corp"), Template("www.corp")], "web-1.corp."))
        [(Template('{tag:Name}.corp'), 'web-1.corp')]
    """
    for template in record_names:
        written = name if template.text.endswith(".") else name.removesuffix(".")
        fixed_parts = re.split(r"\{[^{}]*\}", template.text.lower())
        if re.fullmatch(".+".join(map(re.escape, fixed_parts)), written):
            yield template, written


def pointer(address: str) -> str:
    """Returns the name of the PTR record of an address.

    Example:
        >>> pointer("10.0.0.5")
        '5.0.0.10.in-addr.arpa.'
    """
    return ipaddress.ip_address(address).reverse_pointer + "."


def address_of(text: str) -> str | None:
    """Returns the address in a record's value: the value itself, or the one in a DNS name from EC2.

    Example:
        >>> address_of("ip-10-0-0-5.ec2.internal")
        '10.0.0.5'
    """
    match = _ADDRESS_NAME.match(text.lower())
    try:
        return str(ipaddress.ip_address(".".join(match.groups()) if match else text))
    except ValueError:
        return None


def ec2_name_of_id(name: str) -> tuple[str, str] | None:
    """Returns the instance id and the region in a resource name of EC2; None for all other names.

    Example:
        >>> ec2_name_of_id("i-0123456789abcdef0.eu-west-1.compute.internal.")
        ('i-0123456789abcdef0', 'eu-west-1')
    """
    match = _ID_NAME.fullmatch(name)
    return (match[1], match[2] or "us-east-1") if match else None


def is_kept(keep_names: Iterable[str], name: str) -> bool:
    """Returns whether one of the patterns matches the name. Case and the trailing dot do not matter.

    Example:
        >>> is_kept(["*.Prod.example.com"], "db.prod.example.com.")
        True
    """
    return any(fnmatchcase(canonical(name), canonical(pattern)) for pattern in keep_names)


def mark_names(external_dns: ExternalDns | None, zone: Zone, name: str) -> tuple[str, ...]:
    """Returns where external-dns marks a name of the zone as its own with a TXT record. The name itself is first.

    external-dns splits a name at its first dot or, if it knows the zone, at the zone. The suffix and the replacement
    of ``*`` apply to the part before the split. Versions before 0.12 leave out the record type. The names from the
    flags are checked in addition to the default names, because a zone may have several owners.
    https://kubernetes-sigs.github.io/external-dns/latest/docs/registry/txt/

    Example:
        >>> from ec2_decommission.clients.route53 import Zone
        >>> mark_names(None, Zone("Z1", "example.com."), "www.example.com.")
        ('www.example.com.', 'a-www.example.com.', 'aaaa-www.example.com.', 'cname-www.example.com.')
    """
    names = [name]
    for flags in dict.fromkeys((ExternalDns(), external_dns or ExternalDns())):
        for host, domain in _splits(zone, name):
            names += [f"{part}.{domain}" for part in _marked(flags, host)]
    return tuple(dict.fromkeys(filter(is_record_name, names)))


def _splits(zone: Zone, name: str) -> Iterator[tuple[str, str]]:
    labels = name.split(".")
    for number in range(1, len(labels) - len(zone.name.split(".")) + 1):
        yield ".".join(labels[:number]), ".".join(labels[number:])


def _marked(flags: ExternalDns, host: str) -> Iterator[str]:
    typed = _RECORD_TYPE in flags.txt_prefix + flags.txt_suffix
    for replaced in (host, flags.wildcard_replacement) if host == "*" and flags.wildcard_replacement else (host,):
        yield flags.txt_prefix.replace(_RECORD_TYPE, "") + replaced + flags.txt_suffix.replace(_RECORD_TYPE, "")
        for kind in map(str.lower, FORWARD):
            prefix = flags.txt_prefix.replace(_RECORD_TYPE, kind)
            suffix = flags.txt_suffix.replace(_RECORD_TYPE, kind)
            yield prefix + ("" if typed else f"{kind}-") + replaced + suffix


def is_mark(txt_value: str) -> bool:
    """Returns whether a TXT value is external-dns's mark of ownership, in plain text or encrypted."""
    return "heritage=external-dns" in txt_value or bool(_CIPHERTEXT.fullmatch(txt_value))


def is_classless(zone_name: str) -> bool:
    """Returns whether a reverse zone is delegated by RFC 2317, so its name does not consist of whole octets.

    Example:
        >>> is_classless("0/26.2.0.192.in-addr.arpa.")
        True
    """
    return _reverse_parent(zone_name) is not None


def concerns_classless(zone_name: str, pointer_name: str) -> bool:
    """Returns whether a PTR name may be delegated to that classless zone: the octets before the delegation match."""
    parent = _reverse_parent(zone_name)
    return parent is not None and pointer_name.endswith("." + parent)


def _reverse_parent(zone_name: str) -> str | None:
    for ending, part, most in ((".in-addr.arpa.", r"\d{1,3}", 4), (".ip6.arpa.", r"[0-9a-f]", 32)):
        if zone_name.endswith(ending):
            labels = zone_name.removesuffix(ending).split(".")
            odd = [n for n, label in enumerate(labels) if not re.fullmatch(part, label) or n < len(labels) - most]
            if odd:
                return ".".join([*labels[odd[-1] + 1 :], ending[1:]])
    return None
