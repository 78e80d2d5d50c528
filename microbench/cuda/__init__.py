"""Questions that are put to a CUDA GPU: one file each, with what they share in `bench`, `in_kernel` and `watch`."""
