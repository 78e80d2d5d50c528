"""Every code of the driver becomes the error that it is, in one line with the remedy."""

import ctypes

import fake_cuda
import pytest
from fake_cuda import FakeCuda

from probe.errors import UnavailableError
from probe.kernels.cuda import driver, libraries
from probe.kernels.cuda.driver import CudaError, DeviceLost, Driver, OutOfMemory


def test_the_driver_says_its_version() -> None:
    assert FakeCuda(version=(12, 4)).driver().version == (12, 4)


def test_without_a_driver_the_remedy_is_named() -> None:
    with pytest.raises(UnavailableError, match=r"no CUDA driver: .*libcuda-absent.*; install NVIDIA's driver"):
        Driver("libcuda-absent.so.1")


def test_without_a_device_cuda_says_so() -> None:
    with pytest.raises(CudaError, match="no CUDA-capable device is detected") as raised:
        FakeCuda(devices=0).driver()
    assert (raised.value.code, raised.value.name) == (100, "CUDA_ERROR_NO_DEVICE")


def test_a_driver_that_lacks_a_function_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(driver.FUNCTIONS, "cuFromTheFuture", ())
    with pytest.raises(UnavailableError, match="too old: it has no cuFromTheFuture"):
        FakeCuda().driver().call("cuFromTheFuture")


def test_every_function_is_in_the_fake() -> None:
    """What the fake lacks no test can reach."""
    library = ctypes.CDLL(str(fake_cuda.library()))
    for name in driver.FUNCTIONS:
        assert getattr(library, name)
        assert hasattr(FakeCuda, f"_{name}")


@pytest.mark.parametrize(
    ("code", "kind", "name", "said"),
    [
        (2, OutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"),
        (46, DeviceLost, "CUDA_ERROR_DEVICE_UNAVAILABLE", "the device was lost"),
        (700, DeviceLost, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal address"),
        (719, DeviceLost, "CUDA_ERROR_LAUNCH_FAILED", "a kernel failed"),
        (999, DeviceLost, "CUDA_ERROR_UNKNOWN", "an unknown error"),
        (1, CudaError, "CUDA_ERROR_INVALID_VALUE", "invalid argument"),
        (801, CudaError, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"),
        (12345, CudaError, "CUDA error 12345", "CUDA error 12345"),
    ],
)
def test_a_code_is_an_error(code: int, kind: type[CudaError], name: str, said: str) -> None:
    fake = FakeCuda()
    cuda = fake.driver()
    fake.fail("cuCtxSynchronize", code)
    with pytest.raises(CudaError, match=said) as raised:
        cuda.call("cuCtxSynchronize")
    error = raised.value
    assert type(error) is kind
    assert isinstance(error, UnavailableError)
    assert (error.function, error.code, error.name) == ("cuCtxSynchronize", code, name)
    assert "cuCtxSynchronize" in str(error)
    assert "\n" not in str(error)


def test_the_real_name_of_the_library() -> None:
    assert libraries.DRIVER == "libcuda.so.1"
