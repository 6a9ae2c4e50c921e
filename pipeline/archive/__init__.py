"""List the videos of an archive, inspect them, and divide the work on them."""
