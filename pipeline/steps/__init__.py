"""The path of a video from file to rows, step by step; no step knows which engine runs it.

    plan      files                          -> videos with their chunks
    decode    a chunk                        -> pieces of frames
    extract   a piece                        -> boxes and features, written
    track     the boxes of a video           -> who is who
    label     the features of somebody       -> segments
    commit    the videos of a shard          -> rows in every table, by the two steps before

`in_order` is all of it in one process. An engine does the same with many processes, of which any may die.
"""
