"""The engine: Ray Data arranges the steps over whatever machines there are."""
