"""D01–D13: what ranks exchange, and wait for."""
