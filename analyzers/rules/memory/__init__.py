"""M01–M05, M07: what takes memory, or time to get it."""
