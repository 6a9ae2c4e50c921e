"""Show what a lake holds to a person."""
