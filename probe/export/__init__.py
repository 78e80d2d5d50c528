"""A Trace as files for other tools: Chrome JSON (one rank or many), CSV, Parquet, JSON tables."""
