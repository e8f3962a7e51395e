"""Real servers and a strict AWS on loopback, for the tests, the demo and the benchmarks."""
