"""Pure analysis: a Trace and Ceilings in, tables and findings out. No torch, no files, no plots."""
