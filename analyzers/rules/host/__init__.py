"""H01–H16, E11, E16: what the step waits for on its host."""
