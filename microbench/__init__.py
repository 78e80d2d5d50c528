"""Measures the roofs of this machine: one file a question."""
