"""Peers for comparison: programs with other libraries and the same networks.

Each reads a video, samples it, finds people, embeds each person, and writes a row for each to Parquet:

    python -m tests.bench.peers.PEER VIDEO WEIGHTS OUT.parquet [--tuned]

`--tuned` applies the advice for CPUs in the documentation of the libraries. Without it they run with their defaults.
"""
