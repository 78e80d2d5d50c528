"""Who holds the memory: blocks, their categories, the level over time, and what would lower it."""
