"""Events of a trace as rows to draw: which stands where, and what of them a screen can show."""
