"""`probe gate`: both versions of the code run in turn on this machine, and a verdict that says why."""
