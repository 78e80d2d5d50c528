"""Files of other tools on their way to a Trace: one module per format, and what they share."""
