"""Costs of operators that really ran equal torch's own count of flops, and the sizes of what went in and came out.

Each case runs once under the profiler; the trace is read back, so that recorded scalars and strides take part.
Where torch is known to be wrong the hand-derived tests stand alone: attention on a CPU (counted 0), causal masks
(counted in full), the weight's gradient of a grouped convolution (counted once per group), _grouped_mm, _int_mm, mv,
dot and everything that is no product (counted 0), bias gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 — as everywhere
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from probe.analyzers.cost_models.attribution import GroupCosts, attribute
from probe.analyzers.operators.op_table import OpGroups, group_operators
from probe.analyzers.operators.steps import recorded_steps
from probe.readers.kineto import read

Case = Callable[[], Any]


def recorded(case: Case, folder: Path) -> tuple[OpGroups, GroupCosts]:
    """The groups of one profiled run of `case`, and their costs."""
    case()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        case()
    profiled.export_chrome_trace(str(folder / "trace.json"))
    trace = read(folder / "trace.json")
    groups = group_operators(trace, recorded_steps(trace))
    return groups, attribute(trace, groups.of_op, groups.name, groups.signature)


def own_flops(groups: OpGroups, costs: GroupCosts, kinds: tuple[str, ...]) -> float:
    """Flops of all calls of these kinds, each piece of work once."""
    calls = groups.calls.sum(axis=1)
    return float(sum(costs.flops[g] * calls[g] for g, one in enumerate(costs.cost) if one.kind in kinds))


def leaf(*sizes: int) -> torch.Tensor:
    return torch.randn(*sizes, requires_grad=True)


def convolution(rank: int, transposed: bool = False, **options: Any) -> Case:
    """A convolution and its backward."""
    weight = (4, 6) if transposed else (6, 4 // options.get("groups", 1))
    w, x = leaf(*weight, *[3] * rank), leaf(2, 4, *[7] * rank)
    names = (F.conv_transpose1d, F.conv_transpose2d) if transposed else (F.conv1d, F.conv2d, F.conv3d)
    function: Any = names[rank - 1]
    return lambda: function(x, w, **options).sum().backward()


def linear() -> Case:
    x, w, b = leaf(3, 5, 8), leaf(6, 8), leaf(6)
    return lambda: F.linear(x, w, b).sum().backward()


def products() -> Case:
    x, y = leaf(4, 6, 8), leaf(4, 8, 5)
    return lambda: (x @ y).sum().backward()


PRODUCTS = ("matmul", "convolution")
FLOPS: dict[str, Case] = {
    "linear": linear(),
    "batched": products(),
    "mm of transposed": lambda: torch.mm(torch.randn(5, 3).t(), torch.randn(5, 4)),
    "baddbmm": lambda: torch.baddbmm(torch.randn(2, 3, 5), torch.randn(2, 3, 4), torch.randn(2, 4, 5)),
    "addmm": lambda: torch.addmm(torch.randn(5), torch.randn(3, 4), torch.randn(4, 5)),
    "einsum": lambda: torch.einsum("bij,bjk->bik", torch.randn(2, 3, 4), torch.randn(2, 4, 5)),
    "conv1d": convolution(1),
    "conv2d": convolution(2, stride=2, padding=1),
    "conv2d dilated": convolution(2, dilation=2, padding=2),
    "conv2d grouped": lambda: F.conv2d(torch.randn(2, 4, 7, 7), torch.randn(6, 2, 3, 3), groups=2),
    "conv2d same": convolution(2, padding="same"),
    "conv3d": convolution(3, padding=1),
    "conv_transpose1d": convolution(1, transposed=True, stride=2),
    "conv_transpose2d": convolution(2, transposed=True, stride=2, padding=1, output_padding=1),
    "naive attention": lambda: torch.softmax(torch.randn(2, 8, 4) @ torch.randn(2, 4, 8), -1) @ torch.randn(2, 8, 4),
}


@pytest.mark.parametrize("name", FLOPS)
def test_flops_equal_torchs_count(name: str, tmp_path: Path) -> None:
    case = FLOPS[name]
    counter = FlopCounterMode(display=False)
    with counter:
        case()
    groups, costs = recorded(case, tmp_path)
    assert counter.get_total_flops() > 0
    assert own_flops(groups, costs, PRODUCTS) == counter.get_total_flops()


def test_attention_on_a_cpu_counts_what_the_naive_form_does(tmp_path: Path) -> None:
    q, k, v = (leaf(1, 2, 16, 8) for _ in range(3))
    groups, costs = recorded(lambda: F.scaled_dot_product_attention(q, k, v).sum().backward(), tmp_path)
    forward = 2 * 2 * 2 * 16 * 16 * 8
    assert own_flops(groups, costs, ("attention",)) == forward + forward * 5 / 2
    _, causal = recorded(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True), tmp_path)
    done = [c.flops for c in causal.cost if c.kind == "attention"]
    assert set(done) == {forward / 2}


class Moved(TorchDispatchMode):
    """Bytes of the distinct elements that went into and came out of each operator, in the order of calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs = list(flat((args, kwargs or {})))
        written = [t for t in flat(out) if all(t is not i for i in inputs)]
        moved = sum(touched(t) for t in [*inputs, *written])
        self.calls.append((0 if func.is_view else moved, func.name().partition(".")[0]))
        return out


def flat(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from flat(item)
    elif isinstance(value, dict):
        yield from flat(list(value.values()))


def touched(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's distinct positions, by listing them all."""
    offsets = torch.arange(0)
    if tensor.numel():
        extent = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        offsets = torch.arange(extent).as_strided(tensor.shape, tensor.stride()).reshape(-1).unique()
    return int(offsets.numel()) * tensor.element_size()


X, Y, ROW = torch.randn(4, 6, 8), torch.randn(4, 6, 8), torch.randn(8)
IMAGE, WEIGHT = torch.randn(2, 4, 9, 9), torch.randn(6, 4, 3, 3)
BYTES: dict[str, Case] = {
    "add": lambda: X + Y,
    "broadcast add": lambda: X + ROW,
    "expanded operand": lambda: X * ROW.expand(4, 6, 8),
    "transposed operand": lambda: X.transpose(0, 1).exp(),
    "overlapping windows": lambda: torch.arange(12.0).unfold(0, 3, 1).neg(),
    "strided slice": lambda: X[:, ::2].sqrt(),
    "comparison": lambda: X > Y,
    "where": lambda: torch.where(X.bool(), X, Y),
    "gelu": lambda: F.gelu(X),
    "silu": lambda: F.silu(X),
    "pow": lambda: X.pow(2),
    "clamp": lambda: X.clamp(0, 1),
    "addcmul": lambda: torch.addcmul(X, X, Y),
    "mixed types": lambda: X + X.to(torch.bfloat16),
    "softmax": lambda: torch.softmax(X, -1),
    "log_softmax": lambda: torch.log_softmax(X, 1),
    "sum": lambda: X.sum(1),
    "sum all": lambda: X.sum(),
    "amax": lambda: X.amax((0, 2)),
    "max along": lambda: X.max(1),
    "argmax": lambda: X.argmax(2),
    "var": lambda: X.var(1),
    "all": lambda: (X > 0).all(1),
    "norm": lambda: torch.linalg.vector_norm(X, dim=2),
    "cumsum": lambda: X.cumsum(1),
    "topk": lambda: X.topk(3),
    "sort": lambda: X.sort(1),
    "mm": lambda: torch.mm(X[0], Y[0].t()),
    "bmm": lambda: torch.bmm(X, Y.transpose(1, 2)),
    "dot": lambda: torch.dot(ROW, ROW),
    "mv": lambda: torch.mv(X[0], ROW),
    "_int_mm": lambda: torch._int_mm(torch.ones(32, 32, dtype=torch.int8), torch.ones(32, 32, dtype=torch.int8)),
    "conv2d": lambda: F.conv2d(IMAGE, WEIGHT, stride=2, padding=1),
    "layer_norm": lambda: torch.native_layer_norm(X, (8,), ROW, ROW, 1e-5),
    "group_norm": lambda: torch.native_group_norm(IMAGE, None, None, 2, 4, 81, 2, 1e-5),
    "max_pool2d": lambda: F.max_pool2d(IMAGE, 2, return_indices=True),
    "max_pool2d up": lambda: F.max_pool2d(IMAGE, 2, ceil_mode=True, return_indices=True),
    "avg_pool2d": lambda: F.avg_pool2d(IMAGE, 3, 2, 1),
    "adaptive pool": lambda: torch.ops.aten._adaptive_avg_pool2d(IMAGE, (3, 3)),
    "upsample": lambda: F.interpolate(IMAGE, scale_factor=2),
    "flip": lambda: X.flip(0),
    "pad": lambda: F.pad(X, (1, 2)),
    "to": lambda: X.to(torch.float64),
    "clone": lambda: X.transpose(0, 1).contiguous(),
    "bernoulli": lambda: torch.native_dropout(X, 0.5, True),
    "mse": lambda: F.mse_loss(X, Y, reduction="none"),
    "attention": lambda: F.scaled_dot_product_attention(X[:, None], X[:, None], X[:, None]),
    "cat": lambda: torch.cat([X.exp(), Y.exp()], 1),
}


@pytest.mark.parametrize("name", BYTES)
def test_bytes_equal_what_went_in_and_came_out(name: str, tmp_path: Path) -> None:
    """The costliest operator, its whole call, against the tensors that torch passed."""
    case = BYTES[name]
    moved = Moved()
    with moved:
        case()
    expected, operator = max(moved.calls)
    groups, costs = recorded(case, tmp_path)
    assert costs.cost[groups.name.index(operator)].bytes == pytest.approx(expected, abs=16), operator  # seeds


def test_a_training_step_is_known_almost_completely(tmp_path: Path) -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(),
        torch.nn.Linear(8 * 49, 16), torch.nn.LayerNorm(16), torch.nn.GELU(), torch.nn.Dropout(),
        torch.nn.Linear(16, 5),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    x, y = torch.randn(4, 3, 16, 16), torch.randint(0, 5, (4,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    groups, costs = recorded(step, tmp_path)
    unknown = {groups.name[g] for g, c in enumerate(costs.cost) if c.reason is not None}
    assert unknown <= {"aten::_foreach_add_"}  # of the step counters, whose type no other operator shows
    parameters = sum(p.numel() for p in model.parameters())
    fused = groups.name.index("aten::_fused_adamw_")
    assert costs.bytes[fused] == 7 * 4 * parameters
