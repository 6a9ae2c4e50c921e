"""Programs that people would write instead, with the same networks: peers to measure against.

Each reads a video, samples it, finds people, embeds each of them, and writes a row for each to Parquet:

    python -m tests.bench.peers.PEER VIDEO WEIGHTS OUT.parquet [--tuned]

`--tuned` does what the documentation of the parts advises for CPUs; without it they run as they come.
"""
