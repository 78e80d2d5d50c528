"""Which kernels stream through arrays, and what must their loops hold? 128-bit accesses; saxpy those of any width."""

from __future__ import annotations

from dataclasses import dataclass

from probe.kernels.cuda.kernel import Kernel, source_text
from probe.kernels.cuda.proof import Claim

THREADS = 256  # of a block
FEW_THREADS = 128  # of a block of the curve against occupancy: finer steps
DEPTH = 4  # vectors that a thread loads before it uses the first
VECTOR_BYTES = 16
LANES = (1, 2, 4)  # float32 words in a vector of saxpy
_SOURCE = source_text("streams.cu")
_WIDTHS = {1: "E", 2: "E.64", 4: "E.128"}  # float32 words to a load's or store's suffix
_ARITHMETIC = ("FADD", "FMUL", "FFMA", "FADD2", "FMUL2", "FFMA2")
# The next tile, round the end (since Blackwell a minimum), and the end of the loop (up to Turing within it).
WRAP = ("VIADDMNMX", "VIMNMX", "UVIADD", "UVIMNMX", "EXIT")


@dataclass(frozen=True)
class Stream:
    """One loop over arrays: STREAM's four, read and write. Every array is touched once an element."""

    name: str
    reads: int  # arrays
    writes: int
    scaled: bool = False  # takes a float32 scalar

    @property
    def arrays(self) -> int:
        """How many arrays there are, which is how often STREAM counts an element's bytes."""
        return self.reads + self.writes


READ = Stream("read", 1, 0)
WRITE = Stream("write", 0, 1, scaled=True)
COPY = Stream("copy", 1, 1)
SCALE = Stream("scale", 1, 1, scaled=True)
ADD = Stream("add", 2, 1)
TRIAD = Stream("triad", 2, 1, scaled=True)
STREAMS = (READ, WRITE, COPY, SCALE, ADD, TRIAD)


def tile_bytes(threads: int = THREADS) -> int:
    """Bytes of each array that a block goes through in one iteration."""
    return threads * DEPTH * VECTOR_BYTES


def kernel(kind: Stream, *, past_l1: bool = False, threads: int = THREADS) -> Kernel:
    """The loop of `kind`; `past_l1`: with loads that the L1 cache does not keep."""
    loads, stores = DEPTH * kind.reads, DEPTH * kind.writes
    exactly = {"LDG": loads, "LDG.E.128": loads, "LDG.E.128.STRONG.GPU": loads if past_l1 else 0, "STG.E.128": stores}
    if not stores:
        exactly |= {"STG": 1}  # the sum, behind the loop
    claim = Claim(
        exactly=exactly,
        loop_only=("LDG.E.128", "STG.E.128", *_ARITHMETIC, *WRAP),
        main="LDG.E.128" if loads else "STG.E.128",
    )
    defines = {"THREADS": threads, "DEPTH": DEPTH, "PAST_L1": int(past_l1)}
    label = f"{threads} threads{', past L1' if past_l1 else ''}"
    return Kernel(kind.name, _SOURCE, claim, defines, label=label)


def saxpy(lanes: int) -> Kernel:
    """y = a x + y, `lanes` float32 words a load and store, one vector a thread at a time."""
    load, store = f"LDG.{_WIDTHS[lanes]}", f"STG.{_WIDTHS[lanes]}"
    wider = {f"{kind}.{_WIDTHS[n]}": 0 for kind in ("LDG", "STG") for n in LANES if n > lanes}
    claim = Claim(
        exactly={"LDG": 2, "STG": 1, load: 2, store: 1, **wider}, loop_only=(load, store, *_ARITHMETIC), main=load
    )
    return Kernel("saxpy", _SOURCE, claim, {"THREADS": THREADS, "LANES": lanes}, label=f"{32 * lanes} bits")


NOISE = Kernel("noise", _SOURCE, Claim(exactly={"STG": 1}, main="STG.E"), {"THREADS": THREADS})
KERNELS: tuple[Kernel, ...] = (
    *(kernel(kind, past_l1=past_l1) for kind in STREAMS for past_l1 in (False, True) if kind.reads or not past_l1),
    *(kernel(kind, threads=FEW_THREADS) for kind in (READ, COPY)),
    *(saxpy(lanes) for lanes in LANES),
    NOISE,
)
