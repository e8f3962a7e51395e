"""The step ``route53``: A, AAAA and CNAME records at the names of an instance, and PTR records of its addresses."""

from .step import Route53Step

__all__ = ["Route53Step"]
