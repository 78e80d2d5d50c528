"""What is written in Triton, checked without a GPU: by Triton's interpreter, and by compiling for each architecture.

This folder is imported as probe.kernels.triton; `import triton` in it, as everywhere, means the installed package.
"""
