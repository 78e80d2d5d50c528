"""Runs on disk: what is in their directories, and which there are."""
