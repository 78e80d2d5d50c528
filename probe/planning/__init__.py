"""Calculators: what fits, how long it takes, what it costs, and how fast links and storage have to be."""
