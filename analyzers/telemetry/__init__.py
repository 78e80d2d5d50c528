"""What telemetry saw beside the steps, and whether it confirms what the trace says."""
