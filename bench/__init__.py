"""Benchmarks: Kennel beside the floor of the same machine and beside its peers, in one run."""
