"""Contract suites and the oracle, shipped for authors of back ends."""
