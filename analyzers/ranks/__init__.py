"""The ranks of a job against each other: clocks, waits, stragglers, bandwidths, scaling."""
