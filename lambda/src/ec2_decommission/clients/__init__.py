"""Clients of the outside: each behind a Protocol that its fake fulfils too."""
