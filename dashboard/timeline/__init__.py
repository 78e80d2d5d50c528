"""A trace as a timeline: lanes of events, drawn at the level of detail that a screen can show."""
