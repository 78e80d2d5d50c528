"""F04: RMSNorm written out by hand, seven or eight passes over the activations where two would do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import prod

from probe.analyzers.cost_models.dtypes import ELEMENT_TYPES, FLOAT32
from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.rule import Example, Rule
from probe.analyzers.rules.units import Unit, places
from probe.units import format_bytes, format_time

CASTS = frozenset({"to_copy", "copy", "to", "clone"})
# Square, mean, epsilon, inverse root, scale; with several spellings of each step.
STAGES = (
    frozenset({"pow", "square", "mul"}),
    frozenset({"mean"}),
    frozenset({"add"}),
    frozenset({"rsqrt", "sqrt"}),
    frozenset({"mul", "div"}),
)


def find(context: Context) -> Iterator[Match]:
    """One match per size; all layers and steps together."""
    sites: dict[tuple[int, ...], list[list[Unit]]] = defaultdict(list)
    for found in places(context.runs, _scan):
        sites[found[0].size].append(found)
    for size, same in sites.items():
        match = _match(context, size, same)
        if match is not None:
            yield match


def _scan(run: list[Unit]) -> Iterator[tuple[int, int]]:
    at = 0
    while at < len(run):
        found = _from(run, at) if run[at].name in STAGES[0] else []
        if found:
            yield at, at + len(found)
        at += len(found) or 1


def _from(run: list[Unit], at: int) -> list[Unit]:
    """The units of an RMSNorm that begins at `at`; empty where none does."""
    size = run[at].size
    found: list[Unit] = []
    stage = 0
    for unit in run[at : at + 12]:
        if stage < len(STAGES) and unit.name in STAGES[stage] and _fits(stage, unit, size):
            found.append(unit)
            stage += 1
        elif unit.name in CASTS and found:
            found.append(unit)
        elif stage == len(STAGES) and unit.name == "mul" and unit.size == size:
            return [*found, unit]  # the weight
        else:
            break
    return found if stage == len(STAGES) else []


def _fits(stage: int, unit: Unit, size: tuple[int, ...]) -> bool:
    """Full-size tensors in the first, second and last stage; one value a row between."""
    if len(size) < 2:
        return False
    if stage == 0 and unit.name == "mul":  # x * x, not just any product
        return len(unit.dims) >= 2 and unit.dims[0] == unit.dims[1] == size
    if stage in (0, 1, 4):
        return unit.size == size
    return unit.numel == prod(size[:-1])


def _match(context: Context, size: tuple[int, ...], same: list[list[Unit]]) -> Match | None:
    rows = [u.row for found in same for u in found]
    backward = context.backward_rows(rows)
    spent_s = context.seconds(rows) + context.seconds(backward)
    dtype = next(iter(same[0][0].signature.dtypes), "") if same[0][0].signature else ""
    element = ELEMENT_TYPES.get(dtype)
    array = prod(size) * (element or FLOAT32).itemsize
    calls = len(same) / len(context.steps)
    once_s = context.roof_s(array * (2 + (5 if backward else 0)))  # x and y; dy, x, dx and the weight's sums
    if once_s is None:
        return None
    on_cpu = not context.trace.on_device
    return Match(
        rows=(*rows, *backward),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in rows})),
        key="x".join(map(str, size)),
        summary=(
            f"{calls:.0f} RMSNorm{'s' * (calls > 1)} over {list(size)} per step are written out in {len(same[0])} "
            f"operators: each passes {format_bytes(array)} through memory; together they take {format_time(spent_s)}"
        ),
        evidence=(
            " → ".join(u.name for u in same[0]),
            f"{list(size)}, {element.name if element else 'type not known: 4 bytes an element are assumed'}",
        ),
        saving_s=max(spent_s - calls * once_s, 0.0),
        where=f"{calls:.0f} per step",
        replacement="torch.compile of the module" if on_cpu else "torch.nn.functional.rms_norm",
        how=(
            "norm.compile()  # F.rms_norm is a composite on a CPU and gains little there"
            if on_cpu
            else "F.rms_norm(x, (x.shape[-1],), weight, eps)"
        ),
    )


RULES = (
    Rule(
        "F04", "unfused-rmsnorm", "RMSNorm written out by hand", find,
        trigger="square, mean, epsilon, inverse root and scale in a row over one tensor",
        advice="one fused operator: F.rms_norm on a GPU, a compiled module on a CPU",
        saving="the time of its operators less that of reading and writing the tensor once",
        cannot_show="whether the epsilon is inside the root, as F.rms_norm has it",
        proof="replay", effort="line", needs=("shapes",),
        example=Example(
            "x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight",
            "F.rms_norm(x, (x.shape[-1],), weight, eps)",
        ),
    ),
)  # fmt: skip
