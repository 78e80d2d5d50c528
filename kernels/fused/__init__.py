"""Fused kernels that replace several operators of torch, each with its reference, its domain and its cost."""
