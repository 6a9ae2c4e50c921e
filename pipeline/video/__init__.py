"""Decode: frames on an exact sampling grid, whatever the codec, the container and the chunking."""
