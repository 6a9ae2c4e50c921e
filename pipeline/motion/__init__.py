"""Follow people from frame to frame."""
