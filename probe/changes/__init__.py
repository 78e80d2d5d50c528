"""Suggestions put to the test: on recorded shapes, on a whole step, and in a live model."""
