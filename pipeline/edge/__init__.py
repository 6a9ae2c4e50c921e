"""A model packed for machines where there is little to compute with: networks as files, and a runner of one file."""
