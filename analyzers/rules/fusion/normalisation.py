"""F03, F04, F05: normalisations in more passes over the activations than they need."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.fusion.norm_patterns import (
    AFFINE,
    FUSED_NORMS,
    by_length,
    is_array,
    layer_norm,
    rms_norm,
    wide_or_as_it_is,
)
from probe.analyzers.rules.matching.continued import places, taken
from probe.analyzers.rules.matching.flow import Flow
from probe.analyzers.rules.matching.ledger import (
    Account,
    array_bytes,
    as_recorded_s,
    element,
    ledger_of,
    scalars,
    spelled,
)
from probe.analyzers.rules.matching.patterns import op, value
from probe.analyzers.rules.matching.search import Match as Place
from probe.analyzers.rules.matching.search import matches
from probe.analyzers.rules.matching.units import Unit
from probe.analyzers.rules.rule import Example, Rule
from probe.trace import Mask
from probe.units import format_bytes, format_time

RMS_NORM = wide_or_as_it_is(lambda x: rms_norm(x) | by_length(x))
LAYER_NORM = wide_or_as_it_is(layer_norm)
SUM = op("add", value("a", is_array), value("b", is_array), name="sum")
SUMMED_NORM = op(FUSED_NORMS, SUM) | rms_norm(SUM) | layer_norm(SUM)

ON_CPU = "compiled for a CPU the norm loses about what the sum gains: try it; no seconds are promised"

Size = tuple[int, ...]


@dataclass(frozen=True)
class _Axes:
    """Over which dimensions a norm runs: the last ones, the channels of an image, or others."""

    last: int = 0  # how many of the last
    channels: bool = False


def rms_norms(context: Context) -> Iterator[Match]:
    """F04: one match per size; all layers and steps together."""
    found = (place for place in places(context, RMS_NORM, AFFINE) if not _is_length(place))
    for (size, axes), account in _accounts(context, found):
        if axes.last or axes.channels:
            yield _written_out(context, size, axes, account, "RMSNorm", "rms_norm")


def layer_norms(context: Context) -> Iterator[Match]:
    """F05: one match per size; all layers and steps together."""
    for (size, axes), account in _accounts(context, places(context, LAYER_NORM, AFFINE)):
        if axes.last or axes.channels:
            yield _written_out(context, size, axes, account, "LayerNorm", "layer_norm")


def _is_length(place: Place) -> bool:
    """Whether it is divided by its length only, without a weight: a unit vector is wanted."""
    divided = place.named["mean of squares"].name in ("linalg_vector_norm", "norm")
    return divided and not any(unit.name == "mul" and _has_weight(unit) for unit in place.units)


def _has_weight(unit: Unit) -> bool:
    """Whether an argument is a vector."""
    return any(sum(n != 1 for n in size) == 1 for size in unit.dims)


def _accounts(context: Context, found: Iterator[Place]) -> list[tuple[tuple[Size, _Axes], Account]]:
    return ledger_of(context).accounts(found, lambda place: (_whole(place).size, _axes(place)))


def _whole(place: Place) -> Unit:
    """The unit that tells the size of what is normalised."""
    return max(place.units, key=lambda unit: unit.numel)


def _axes(place: Place) -> _Axes:
    """The dimensions as they were recorded; else the last where the sizes allow it."""
    unit = place.named["mean of squares"]
    size, listed = unit.size, next((t for t in scalars(unit) if t.startswith("[")), "")
    if listed.strip("[]"):
        gone = sorted(int(text) % len(size) for text in listed.strip("[]").split(","))
        last = gone == list(range(len(size) - len(gone), len(size))) and len(gone) < len(size)
        return _Axes(len(gone) if last else 0, channels=not last and gone == [1] and len(size) >= 3)
    smallest = min(u.numel for u in place.units)
    return _Axes(1 if size and smallest * size[-1] == prod(size) else 0)


def _written_out(context: Context, size: Size, axes: _Axes, account: Account, name: str, function: str) -> Match:
    """The finding for all norms of one size."""
    unit = _whole(account.places[0])
    on_cpu, array, calls = not context.trace.on_device, array_bytes(unit), account.calls
    compiled = on_cpu and function == "rms_norm"
    return Match(
        rows=account.rows,
        ops=account.ops,
        key="x".join(map(str, size)),
        summary=(
            f"{calls:.0f} {name}{'s' * (calls > 1)} over {list(size)} per step are written out in "
            f"{len(account.names)} operators: each passes {format_bytes(array)} through memory; together they take "
            f"{format_time(account.seconds)}"
        ),
        evidence=(
            spelled(account.names, 12),
            f"{list(size)}, {element(unit).name}",
            *(("the backward pass goes through memory for each of them again",) if account.trained else ()),
        ),
        saving_s=as_recorded_s(
            context, account.saving_s(array * (6 if account.trained else 2))
        ),  # x and y; dy, x and dx
        where=f"{calls:.0f} per step",
        replacement="torch.compile of the module" if compiled else f"torch.nn.functional.{function}",
        how=(
            "norm.compile()  # F.rms_norm is a composite on a CPU and gains little there"
            if compiled
            else _line(size, axes, function)
        ),
        tier=account.tier,
    )


def _line(size: Size, axes: _Axes, function: str) -> str:
    """The call to paste."""
    options = "weight, bias, eps" if function == "layer_norm" else "weight, eps"
    if axes.channels:
        call = f"F.{function}(x.movedim(1, -1), ({size[1]},), {options}).movedim(-1, 1)"
        return f"{call}  # in channels_last no copy is made"
    shape = f"({', '.join(map(str, size[-axes.last :]))},)" if axes.last == 1 else str(size[-axes.last :])
    return f"F.{function}(x, {shape}, {options})"


def summed(context: Context) -> Iterator[Match]:
    """F03: a residual is added in a pass of its own, and what it makes is read again by the norm."""
    sites: dict[tuple[Size, bool], list[Place]] = defaultdict(list)
    closed = taken(context)
    for flow in context.flows:
        found = [p for p in matches(flow, SUMMED_NORM) if _is_residual(p.named["sum"], closed)]
        for place in found:
            sites[place.named["sum"].size, _is_kept(flow, place)].append(place)
    for (size, is_kept), same in sites.items():
        if context.trace.on_device or not _trained(context, same):
            yield _with_residual(context, size, same, is_kept)


def _trained(context: Context, found: list[Place]) -> bool:
    """Whether norms have backward passes: on a CPU compiled ones take longer than torch's own, more than is saved."""
    return bool(context.backward_rows([unit.row for place in found for unit in place.units]))


def _is_residual(unit: Unit, closed: Mask) -> bool:
    """Whether both terms have the sum's size, and no other finding claims it."""
    same = len(unit.dims) >= 2 and unit.dims[0] == unit.dims[1] == unit.size
    return same and not closed[unit.row]


def _is_kept(flow: Flow, place: Place) -> bool:
    """Whether something other than its norm reads the sum: a backward pass, or the next residual."""
    readers = flow.readers(flow.index_of[place.named["sum"].row])
    return not {flow.units[i].row for i in readers} <= {unit.row for unit in place.units}


def _with_residual(context: Context, size: Size, found: list[Place], is_kept: bool) -> Match:
    """The finding for all sums of one size."""
    rows = tuple(place.named["sum"].row for place in found)
    names = tuple(unit.name for unit in found[0].units)
    seconds, calls = ledger_of(context).seconds(list(rows)), len(rows) / len(context.steps)
    saved = 1 if is_kept else 2  # of three: reading two terms and writing the sum
    return Match(
        rows=rows,
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in rows})),
        key="x".join(map(str, size)) + ("" if is_kept else "-only"),
        summary=(
            f"{calls:.0f} sum{'s' * (calls > 1)} over {list(size)} per step are written to memory and read again by "
            f"the norm that follows; the additions take {format_time(seconds)}"
        ),
        evidence=(
            spelled(names),
            f"something else reads {'them' if calls > 1 else 'it'} too: fused, the sum is still written"
            if is_kept
            else "nothing else reads the sum: fused, it need not be written",
            *(() if context.trace.on_device else (ON_CPU,)),
        ),
        saving_s=as_recorded_s(context, seconds * saved / 3) if context.trace.on_device else None,
        where=times(calls),
        replacement="torch.compile of the block" if not context.trace.on_device else "a fused add and norm",
        how="block.compile()  # fuses the sum with the norm"
        + (", as Liger's or vLLM's fused_add_rms_norm do" if context.trace.on_device else ""),
        tier=found[0].tier,
    )


RULES = (  # F05 first: what is less its mean and divided by its root mean square is no RMSNorm
    Rule(
        "F05", "unfused-layernorm", "LayerNorm written out by hand", layer_norms,
        trigger="x less its mean, divided by the root of its variance, operator by operator",
        advice="F.layer_norm, one operator on every device",
        saving="of the time of its operators, the share of the bytes that one pass need not move",
        cannot_show="whether the variance is the biased one and the epsilon inside the root, as F.layer_norm has them",
        proof="replay", effort="line", needs=("shapes",),
        example=Example(
            "(x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + eps) * w + b",
            "F.layer_norm(x, (x.shape[-1],), w, b, eps)",
        ),
    ),
    Rule(
        "F04", "unfused-rmsnorm", "RMSNorm written out by hand", rms_norms,
        trigger="x divided by the root of the mean of its squares, operator by operator",
        advice="one fused operator: F.rms_norm on a GPU, a compiled module on a CPU",
        saving="of the time of its operators, the share of the bytes that one pass need not move",
        cannot_show="whether the epsilon is inside the root, as F.rms_norm has it",
        proof="replay", effort="line", needs=("shapes",),
        example=Example(
            "x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight",
            "F.rms_norm(x, (x.shape[-1],), weight, eps)",
        ),
    ),
    Rule(
        "F03", "residual-then-norm", "the residual is added in a pass of its own before the norm", summed,
        trigger="a sum of two tensors of one size that a norm reads; on a CPU in inference only",
        advice="compile the block, or use a kernel that adds and normalises",
        saving="on a device a third of the additions' time where the sum is needed later, else two thirds",
        cannot_show="whether the block can be compiled as it is",
        proof="replay", needs=("shapes",),
        example=Example(
            "x = x + attention(h)\nh = F.layer_norm(x, (d,), w, b)",
            "@torch.compile\ndef block(x): ...  # holds both",
        ),
    ),
)  # fmt: skip
