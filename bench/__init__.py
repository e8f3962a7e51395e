"""Benchmarks: `make bench` prints the tables of docs/benchmarks.md."""
