"""Our fused kernels on a GPU, against torch's operators, torch.compile, torch's own fused form and installed libraries.

    python benchmarks/kernels.py [--device cuda:0] [--seconds 240] [--quick] [-o FILE.json]

For each call, forward and forward with backward: the speed-up of ours over each other way with its 95 % interval (pairs
in random order, by CUDA events; between calls the L2 cache is overwritten), the share of the measured copy bandwidth
that the kernel reaches by its own byte model, and the peak memory of both. Above 1 ours is faster. What cannot run is
named with its reason.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from probe.kernels.fused.examples import Example, examples
from probe.verify.adapters.installed import libraries
from probe.verify.ratios import Pairs

SIZES = ((8192, 4096), (32768, 8192), (1000, 1000))  # rows, columns
QUICK_SIZES = SIZES[:1]
PAIRS = 41
FLUSH_BYTES = 256 << 20  # several times every L2 cache
MOST_FLOPS_PER_BYTE = 20  # beyond it products bound a call, not the memory
Way = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    """Ours against one other way of one call."""

    call: str
    rows: int
    columns: int
    dtype: str
    direction: str  # "forward", "both"
    against: str
    speedup: float | None
    low: float | None
    high: float | None
    ours_s: float | None
    of_copy_bandwidth: float | None
    ours_peak_bytes: int | None
    their_peak_bytes: int | None
    reason: str | None = None  # why there is no figure


class Gpu:
    """The device, its cache flush and its copy bandwidth."""

    def __init__(self, device: str, seed: int = 0) -> None:
        self.device = device
        self.random = random.Random(seed)
        self.trash = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)
        self.copy_bytes_per_s = self._copy_rate()

    def seconds(self, way: Way) -> float:
        """Device time of one call on cold caches."""
        self.trash.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        way()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def pairs(self, old: Way, new: Way) -> Pairs:
        """Seconds of both, call by call, in random order."""
        found: tuple[list[float], list[float]] = ([], [])
        for _ in range(PAIRS):
            for side in self.random.sample((0, 1), 2):
                found[side].append(self.seconds((old, new)[side]))
        return Pairs(*found)

    def peak_bytes(self, way: Way) -> int:
        """The most that one call has allocated at once."""
        torch.cuda.synchronize(self.device)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        kept = way()
        torch.cuda.synchronize(self.device)
        del kept
        return int(torch.cuda.max_memory_allocated(self.device)) - before

    def _copy_rate(self) -> float:
        """Bytes read and written a second by torch's copy of 1 GiB."""
        source = torch.zeros(1 << 30, dtype=torch.int8, device=self.device)
        target = torch.empty_like(source)
        taken = [self.seconds(lambda: target.copy_(source)) for _ in range(PAIRS)]
        return 2 * source.numel() / median(taken[1:])


def forward(function: Callable[..., Any], inputs: tuple[Any, ...], options: Mapping[str, Any]) -> Way:
    """Without gradients."""

    def way() -> Any:
        with torch.no_grad():
            return function(*inputs, **options)

    return way


def both(function: Callable[..., Any], inputs: tuple[Any, ...], options: Mapping[str, Any]) -> Way:
    """With gradients of all inputs that have them, for gradients of ones."""
    leaves = [t for t in inputs if isinstance(t, torch.Tensor) and t.requires_grad]
    ones: list[torch.Tensor] = []

    def way() -> Any:
        found = function(*inputs, **options)
        outputs = found if isinstance(found, tuple) else (found,)
        if not ones:
            ones.extend(torch.ones_like(o) for o in outputs)
        return torch.autograd.grad(outputs, leaves, ones)

    return way


DIRECTIONS = {"forward": forward, "both": both}


def others(example: Example) -> Iterator[tuple[str, Callable[..., Any]]]:
    """What ours is held against, called with the same arguments."""
    kernel = example.kernel
    options: dict[str, Any] = {key: value for key, value in example.options.items() if key != "seed"}
    given = [one for one in example.inputs if not isinstance(one, torch.Tensor)]  # a chain: not to be traced
    torch.compiler.reset()  # all calls share one line of code: after eight of them nothing would be compiled any more
    compiled = torch.compile(
        lambda *tensors: kernel.reference(*given, *tensors, **options), dynamic=False, fullgraph=True
    )
    yield "eager", lambda *inputs, **_: kernel.reference(*inputs, **options)
    yield "torch.compile", lambda *inputs, **_: compiled(*inputs[len(given) :])
    yield from _torchs_own(example)
    yield from _of_libraries(example)


def _torchs_own(example: Example) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The fused form that torch has itself."""
    functional = torch.nn.functional
    if example.label == "RMSNorm":
        yield "F.rms_norm", lambda x, weight, **_: functional.rms_norm(x, weight.shape, weight, 1e-6)
    if example.label == "LayerNorm":
        yield "F.layer_norm", lambda x, w, b, **_: functional.layer_norm(x, w.shape, w, b, 1e-6)
    own: Any = getattr(functional, "linear_cross_entropy", None)
    if example.kernel.name == "linear_cross_entropy" and own is not None:
        yield "F.linear_cross_entropy", lambda x, weight, target, **_: own(x, weight, target)


# Examples that the libraries' kernels take, and how: (kind, the arguments from ours).
KINDS: dict[str, tuple[str, Callable[..., tuple[Any, ...]]]] = {
    "RMSNorm": ("rms_norm", lambda x, weight: (x, weight, 1e-6)),
    "LayerNorm": ("layer_norm", lambda x, weight, bias: (x, weight, bias, 1e-6)),
    "SwiGLU": ("swiglu", lambda gate, up: (gate, up)),
    "cross-entropy": ("linear_cross_entropy", lambda x, weight, target: (x, weight, target, -100)),
}


def _of_libraries(example: Example) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Liger-Kernel and others, where they are installed."""
    if example.label not in KINDS:
        return
    kind, arguments = KINDS[example.label]
    for library in libraries():
        if kind in library.kernels:
            kernel = library.kernels[kind][1]
            yield library.library, lambda *inputs, kernel=kernel, **_: kernel(*arguments(*inputs))


def rows_of(gpu: Gpu, example: Example, rows: int, columns: int, dtype: str) -> Iterator[Row]:
    """All comparisons of one call."""
    call = f"{example.kernel.name}: {example.label}"
    refused = example.kernel.why_not(*example.inputs, **example.options)
    for direction, made in DIRECTIONS.items() if example.leaves() else (("forward", forward),):
        for name, other in others(example):
            at = (call, rows, columns, dtype, direction, name)
            if refused:
                yield Row(*at, *(None,) * 7, reason=refused)
                continue
            try:
                ours = made(example.kernel.function, example.inputs, example.options)
                yield _compared(gpu, at, made(other, example.inputs, example.options), ours, _bytes(example, direction))
            except Exception as error:  # whatever a library does: the others are still compared
                yield Row(*at, *(None,) * 7, reason=f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")


def _bytes(example: Example, direction: str) -> int | None:
    """What ours must move; None where that does not bound it."""
    asked = [example.kernel.cost, example.kernel.backward_cost][: 2 if direction == "both" else 1]
    costs = [cost(*example.inputs, **example.options) for cost in asked if cost is not None]
    if costs[0].flops > MOST_FLOPS_PER_BYTE * costs[0].bytes_moved:
        return None
    return sum(cost.bytes_moved for cost in costs)


def _compared(gpu: Gpu, at: tuple[Any, ...], old: Way, new: Way, moved: int | None) -> Row:
    """One comparison, after both are compiled and warm."""
    for way in (old, new, old, new):
        way()
    pairs = gpu.pairs(old, new)
    ours_s = median(pairs.new_s)
    low, high = pairs.interval()
    share = moved / ours_s / gpu.copy_bytes_per_s if moved else None
    return Row(*at, pairs.speedup, low, high, ours_s, share, gpu.peak_bytes(new), gpu.peak_bytes(old))


def told(row: Row) -> str:
    """One line."""
    head = f"{row.call:48} {row.rows:>6}×{row.columns:<6} {row.dtype:9} {row.direction:8} vs {row.against:24}"
    if row.speedup is None:
        return f"{head} {row.reason}"
    memory = f"{(row.ours_peak_bytes or 0) / 2**20:.0f} MiB, theirs {(row.their_peak_bytes or 0) / 2**20:.0f} MiB"
    speedup = f"{row.speedup:6.2f}× [{row.low:.2f}, {row.high:.2f}]"
    share = "" if row.of_copy_bandwidth is None else f"{row.of_copy_bandwidth:5.0%} of copy"
    return f"{head} {speedup}  {share:13}  peak {memory}"


def measured(gpu: Gpu, quick: bool, seconds: float) -> Iterator[Row]:
    """Every call at every size, until the time is spent."""
    end = time.monotonic() + seconds
    for rows, columns in QUICK_SIZES if quick else SIZES:
        for dtype in (torch.bfloat16,) if quick else (torch.bfloat16, torch.float32):
            for example in examples(dtype, gpu.device, rows, columns):
                if time.monotonic() > end:
                    print(f"the {seconds:.0f} s are spent; the rest is left out")
                    return
                yield from rows_of(gpu, example, rows, columns, str(dtype).removeprefix("torch."))


def main() -> int:
    parser = argparse.ArgumentParser(description="Our fused kernels on a GPU, against everything else.")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--quick", action="store_true", help="one size in bfloat16")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("needs a CUDA GPU")
        return 4
    torch.cuda.set_device(options.device)
    gpu = Gpu(options.device)
    print(f"{torch.cuda.get_device_name()}: copies {gpu.copy_bytes_per_s / 1e12:.2f} TB/s")
    rows = []
    for row in measured(gpu, options.quick, options.seconds):
        rows.append(row)
        print(told(row), flush=True)
    if options.output:
        head = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
        content = {**head, "copy_bytes_per_s": gpu.copy_bytes_per_s, "rows": [asdict(row) for row in rows]}
        options.output.write_text(json.dumps(content, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
