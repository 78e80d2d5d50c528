"""Fused kernels of other libraries, where they are installed: one library a file, imported only when asked."""
