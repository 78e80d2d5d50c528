"""The operators of a trace: who called whom, in which module and step, how often and for how long."""
