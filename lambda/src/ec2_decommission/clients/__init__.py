"""Clients of other systems, each behind a Protocol that its fake implements too."""
