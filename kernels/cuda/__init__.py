"""The kernels that measure a GPU, and the way to the device: NVRTC and the driver, with no package but CUDA torch."""
