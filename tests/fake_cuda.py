"""Which GPU does a test pretend to have, how long do its kernels take, what fails? The driver behind fake_cuda.c.

Device memory is memory of this process. A launch calls the Python function of the kernel's name, which returns the
seconds it takes; no machine code is run. Time is virtual: every stream has its own, the host's goes on when it waits or
launches, and events read it, so a test knows every result to the digit.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from fake_cuda_calls import Arguments, Calls, Entry, Kernel, Launch, Three

from probe.kernels.cuda.driver import Driver
from probe.kernels.cuda.gpu import Gpu

__all__ = ["Arguments", "FakeCuda", "Kernel", "Launch", "Three"]

SOURCE = Path(__file__).with_name("fake_cuda.c")

# An H100 SXM by CUdevice_attribute (cuda.h); memory is small so that a quarter of it fits a test machine.
H100: Mapping[int, int] = {
    1: 1024,  # threads a block
    10: 32,  # warp
    13: 1_980_000,  # SM clock, kHz
    16: 132,  # SMs
    36: 2_619_000,  # memory clock, kHz
    37: 5120,  # bus width, bits
    38: 50 << 20,  # L2
    39: 2048,  # threads an SM
    75: 9,
    76: 0,
    81: 228 << 10,  # shared memory of an SM
    97: 227 << 10,  # of a block, opt-in
}
SM_COUNT, L2_BYTES, MAJOR, MINOR = 16, 38, 75, 76
COPY_BYTES_PER_S: Mapping[str, float] = {"H2D": 50e9, "D2H": 40e9, "D2D": 1e12, "H2H": 20e9}
FILL_BYTES_PER_S = 2e12
_ANSWER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint64))


def library() -> Path:
    """The compiled fake, made once a process; skips the test without a C compiler."""
    made = _built()
    if made is None:
        pytest.skip("there is no C compiler to build the fake CUDA driver with")
    return made


@functools.cache
def _built() -> Path | None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    made = Path(tempfile.mkdtemp(prefix="fake-cuda-")) / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", made, SOURCE], check=True)
    return made


class FakeCuda(Calls):
    """A CUDA driver with `devices` equal devices. Only the one made last answers.

    `kernels` maps a kernel's name to what it does and how long that takes; a kernel that is not there takes
    `otherwise_s`. `clock` is the host's virtual time, for harness functions that take a clock.
    """

    answering: FakeCuda

    def __init__(
        self,
        kernels: Mapping[str, Kernel] | None = None,
        *,
        devices: int = 1,
        name: str = "NVIDIA H100 80GB HBM3",
        attributes: Mapping[int, int] | None = None,
        memory_bytes: int = 1 << 30,
        free_bytes: int | None = None,
        version: tuple[int, int] = (13, 0),
        otherwise_s: float = 1e-6,
        launch_s: float = 0.0,
        copy_s: Callable[[str, int], float] | None = None,
        fill_s: Callable[[int], float] | None = None,
        blocks_per_sm: int | None = None,
    ) -> None:
        super().__init__()
        self.kernels = dict(kernels or {})
        self.devices, self.name, self.version = devices, name, version
        self.attributes = {**H100, **(attributes or {})}
        self.memory_bytes = memory_bytes
        self.free_bytes = memory_bytes if free_bytes is None else free_bytes
        self.otherwise_s, self.launch_s = otherwise_s, launch_s
        self.copy_s = copy_s or (lambda kind, n_bytes: n_bytes / COPY_BYTES_PER_S[kind])
        self.fill_s = fill_s or (lambda n_bytes: n_bytes / FILL_BYTES_PER_S)
        self.occupancy = blocks_per_sm
        self._callback = _ANSWER(self._answer)
        self._library = ctypes.CDLL(str(library()))
        self._library.fake_cuda_install(self._callback)
        FakeCuda.answering = self  # the library calls into it for as long as any Gpu is open

    def gpu(self, index: int = 0) -> Gpu:
        """A Gpu on this driver."""
        return Gpu(index, self.driver())

    def driver(self) -> Driver:
        """The driver as probe calls it."""
        return Driver(str(library()))

    def clock(self) -> float:
        """The host's virtual time in seconds."""
        return self.host_s

    def fail(self, function: str, code: int, at: int = 1) -> None:
        """The `at`-th call of `function` from now on returns `code`; a sticky code loses the device."""
        self._failures[function, self.called[function] + at] = code

    def function(self, name: str) -> Entry:
        """The loaded function of that name, the one loaded last."""
        return [thing for thing in self._handles.values() if isinstance(thing, Entry) and thing.name == name][-1]

    @property
    def open_handles(self) -> list[str]:
        """The kinds of what was made and not given back."""
        return sorted(type(thing).__name__ for thing in self._handles.values())
