"""What records: torch.profiler today; NVML, DCGM and the host are to join. Each leaves a warning, never an error."""
