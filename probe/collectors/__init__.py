"""What records: torch.profiler today; NVML, DCGM and the host are to join it. Each collector leaves a warning, never an error."""
