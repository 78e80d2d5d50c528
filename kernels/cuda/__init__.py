"""The kernels that measure a GPU, and the way to the device: NVRTC and the driver, without a package beyond CUDA torch."""
