"""The verb `whatif`: a run projected onto other devices, ranks and programs."""
