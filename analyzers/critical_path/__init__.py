"""What waits for what in a step, on the host and on the device; the longest chain of it; and replaying it changed."""
