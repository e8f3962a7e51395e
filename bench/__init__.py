"""Measures what the function costs: `make bench`. The tables go to the screen and into docs/benchmarks.md."""
