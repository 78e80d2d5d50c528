"""What can a suite do with one device? Load proved kernels, launch, copy and time them, through the driver alone."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self, TypeVar

from probe.errors import UnavailableError
from probe.kernels.cuda import context as attributes
from probe.kernels.cuda import cubin, nvrtc, proof, sass
from probe.kernels.cuda.context import PrimaryContext
from probe.kernels.cuda.driver import INVALID_IMAGE, NO_BINARY, UNSUPPORTED_PTX, CudaError, Driver
from probe.kernels.cuda.function import Function
from probe.kernels.cuda.kernel import Kernel
from probe.kernels.cuda.memory import HostMemory, Memory
from probe.kernels.cuda.queues import Event, Graph, Stream


class Closed(Protocol):
    """What holds something of the device's until it is closed."""

    def close(self) -> None:
        """Gives it back."""


Kept = TypeVar("Kept", bound=Closed)


class UnprovedError(UnavailableError):
    """A kernel's machine code does not hold what the measurement rests on; it is not run."""


@functools.cache
def _own_driver() -> Driver:
    """This process's CUDA driver; UnavailableError where there is none."""
    return Driver()


class Gpu:
    """One device through its primary context. All work goes on its own stream unless another is given."""

    def __init__(self, index: int, driver: Driver | None = None) -> None:
        """Raises UnavailableError where there is no driver or no such device."""
        self.driver = driver or _own_driver()
        self.index = index
        self._context = PrimaryContext(self.driver, index)
        self._open: list[Closed] = []  # what to give back, in the order it was made
        self._loaded: dict[tuple[str, str, str], Function] = {}
        self._describe()
        self.own_stream = self._kept(Stream(self._context))

    def _describe(self) -> None:
        ask = self._context.attribute
        self.name: str = self._context.name()
        self.capability: tuple[int, int] = (ask(attributes.MAJOR), ask(attributes.MINOR))
        self.architecture: str = nvrtc.architecture_of(*self.capability)
        self.sm_count: int = ask(attributes.SM_COUNT)
        self.l2_bytes: int = ask(attributes.L2_BYTES)
        self.clock_hz: float = 1e3 * ask(attributes.CLOCK_KHZ)  # the SM's highest
        self.memory_clock_hz: float = 1e3 * ask(attributes.MEMORY_CLOCK_KHZ)
        self.bus_width_bits: int = ask(attributes.BUS_WIDTH_BITS)
        self.memory_bytes: int = self._context.memory_bytes()
        self.threads_per_sm: int = ask(attributes.THREADS_PER_SM)
        self.shared_bytes_per_sm: int = ask(attributes.SHARED_PER_SM)
        self.shared_bytes_per_block: int = ask(attributes.SHARED_PER_BLOCK)  # with Function.allow_shared

    def load(self, kernel: Kernel) -> Function:
        """Compiles `kernel` for this device (once per content), checks its claim, and loads it.

        Raises UnprovedError where the machine code is not as claimed, UnavailableError without a fitting NVRTC or for a
        kernel that needs a newer device.
        """
        key = (kernel.name, kernel.source, repr(sorted(kernel.defines.items())))
        if key not in self._loaded:
            code, found = self._proved(kernel)
            self._loaded[key] = self.load_cubin(code, kernel.name, found)
        return self._loaded[key]

    def load_cubin(self, code: bytes, name: str, proof: dict[str, object]) -> Function:
        """Loads kernel `name` of a cubin that the caller has proved."""
        module = ctypes.c_void_p()
        try:
            self._context.call("cuModuleLoadData", ctypes.byref(module), code)
        except CudaError as refused:
            if refused.code in (INVALID_IMAGE, NO_BINARY, UNSUPPORTED_PTX):
                raise UnavailableError(self._refused(refused)) from None
            raise
        self._kept(_Module(self._context, module))
        return Function(self._context, self.own_stream, module, name, proof, cubin.parameters(code, name))

    def allocate(self, n_bytes: int) -> Memory:
        """Memory of the device; raises OutOfMemory."""
        return self._kept(Memory(self._context, self.own_stream, n_bytes))

    def allocate_host(self, n_bytes: int) -> HostMemory:
        """Pinned memory of the host; raises OutOfMemory."""
        return self._kept(HostMemory(self._context, n_bytes))

    def event(self) -> Event:
        """A mark for the Gpu's stream."""
        return self._kept(Event(self._context, self.own_stream))

    def stream(self) -> Stream:
        """Another queue of work."""
        return self._kept(Stream(self._context))

    def copy(
        self,
        destination: Memory | HostMemory | int,
        source: Memory | HostMemory | int,
        n_bytes: int,
        stream: Stream | None = None,
    ) -> None:
        """Enqueues a copy between any two of memory, pinned memory and addresses; does not wait."""
        queue = (stream or self.own_stream).handle
        self._context.call("cuMemcpyAsync", _address(destination), _address(source), n_bytes, queue)

    def synchronise(self) -> None:
        """Waits for all work in the device's context; an error of a kernel surfaces here."""
        self._context.call("cuCtxSynchronize")

    def capture(self, enqueue: Callable[[], None]) -> Graph:
        """What `enqueue` puts on the Gpu's stream, to be launched again with one call; nothing of it runs yet."""
        return self._kept(Graph(self._context, self.own_stream, enqueue))

    def free_bytes(self) -> int:
        """The device's memory that no process uses now."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._context.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def close(self) -> None:
        """Gives back all that was made; on a device that was lost, whatever can be."""
        for thing in reversed(self._open):
            with contextlib.suppress(CudaError):  # a lost device refuses; the process's end gives everything back
                thing.close()
        self._open.clear()
        self._loaded.clear()
        with contextlib.suppress(CudaError):
            self._context.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _kept(self, thing: Kept) -> Kept:
        self._open.append(thing)
        return thing

    def _proved(self, kernel: Kernel) -> tuple[bytes, dict[str, object]]:
        """The cubin, and what its machine code was found to hold; raises UnprovedError."""
        number = 10 * self.capability[0] + self.capability[1]
        if number < kernel.first:
            raise UnavailableError(f"{kernel.title} needs sm_{kernel.first} or later; {self.name} is sm_{number}")
        code = self._compiled(kernel)
        instructions = sass.of(code, kernel.name)
        claim = kernel.claim_for(number)
        wrong = proof.check(claim, instructions)
        compiler = str(nvrtc.compiler_for(self.architecture, self.driver.version))
        if wrong:
            found = "; ".join(wrong)
            raise UnprovedError(
                f"{kernel.title}: {compiler} made other machine code for {self.architecture} than the measurement "
                f"needs, so it was not run: {found}"
            )
        return code, proof.evidence(
            claim,
            instructions,
            architecture=self.architecture,
            registers=cubin.registers(code, kernel.name),
            compiler=compiler,
            local_bytes=cubin.local_bytes(code, kernel.name),
        )

    def _compiled(self, kernel: Kernel) -> bytes:
        try:
            return nvrtc.cubin(kernel.source, self.architecture, kernel.defines, driver=self.driver.version)
        except nvrtc.CompileError as refused:  # an older NVRTC than the tests have may lack what a source uses
            said = "; ".join(line.strip() for line in str(refused).splitlines()[:3])
            remedy = "`pip install --upgrade nvidia-cuda-nvrtc` may help"
            raise UnavailableError(f"{kernel.title} does not compile here: {said}; {remedy}") from refused

    def _refused(self, error: CudaError) -> str:
        """One line for machine code that the driver does not take."""
        cuda = f"{self.driver.version[0]}.{self.driver.version[1]}"
        compiler = nvrtc.compiler_for(self.architecture, self.driver.version)
        remedy = f"upgrade the driver, or install NVRTC {cuda} or older"
        return f"the driver (CUDA {cuda}) refuses code for {self.architecture} by {compiler} ({error.name}): {remedy}"


class _Module:
    """Loaded code, to be unloaded with the Gpu."""

    def __init__(self, context: PrimaryContext, handle: ctypes.c_void_p) -> None:
        self._context, self._handle = context, handle

    def close(self) -> None:
        """Unloads it."""
        self._context.call("cuModuleUnload", self._handle)


def _address(place: Memory | HostMemory | int) -> int:
    return place if isinstance(place, int) else place.address
