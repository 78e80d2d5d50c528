"""Small real programs, each with one bottleneck planted or with none; one file an area, the runner in `program`."""
