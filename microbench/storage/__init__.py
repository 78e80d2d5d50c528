"""What do a loader and a checkpoint get from a path? The suite, its scratch files and its reads."""
