"""The path of a video from file to rows, step by step; no step knows which engine runs it.

    plan      files                          -> videos with their chunks
    decode    a chunk                        -> pieces of frames
    extract   a piece                        -> boxes and features, written
    track     the boxes of a video           -> track ids
    label     the features of a sequence     -> segments
    commit    the videos of a shard          -> rows in every table, by the two steps before

`in_order` runs all steps in one process. An engine runs them in many processes, any of which may die.
"""
