"""The machine: its device, processor and software, and the rates that makers publish."""
