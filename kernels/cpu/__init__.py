"""The loops that measure a CPU, as machine code and as C, with what loads them."""
