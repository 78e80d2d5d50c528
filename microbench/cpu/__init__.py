"""Questions that are put to a CPU: one file each, with what they share in `pinning` and `team`."""
