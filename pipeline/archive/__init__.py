"""What to read: the videos of an archive, what they hold, and how the work on them is cut."""
