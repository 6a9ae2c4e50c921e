"""A model packed for machines with little computing power: networks as files, and a runner in one file."""
