"""probe: where does the time go, what is the limit, what do I change."""
