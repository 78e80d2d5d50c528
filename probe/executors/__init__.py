"""Where the work on many files is done: here, in processes of this machine, on a cluster."""
