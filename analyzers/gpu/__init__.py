"""What the kernels on a GPU say of their limits: names, launches, occupancy, counters."""
