"""The interactive pages and their figures: reads runs, never measures."""
