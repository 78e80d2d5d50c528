"""E15: forward operators that run a second time inside the backward pass: activation checkpointing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.rule import Example, Rule
from probe.units import format_fraction, format_time

LEAST_FRACTION = 0.05  # of the step, below which recomputation is cheap
REPEATED = 0.7  # of the second forward pass must have run in the first


def find(context: Context) -> Iterator[Match]:
    """One match for all that is recomputed."""
    rows = _again(context)
    spent_s = context.seconds(rows)
    if spent_s < LEAST_FRACTION * context.step_s:
        return
    per_step = len(rows) / len(context.steps)
    names = Counter(context.trace.names[context.trace.host_ops.name[row]] for row in rows)
    yield Match(
        rows=(),
        ops=_groups(context, rows),
        summary=(
            f"{per_step:.0f} forward operators per step run a second time inside the backward pass: "
            f"{format_time(spent_s)}, {format_fraction(spent_s / context.step_s)} of the step, are spent to save memory"
        ),
        evidence=(
            "within autograd's functions, with sequence numbers of their own: "
            + ", ".join(f"{count / len(context.steps):.0f} × {name}" for name, count in names.most_common(4)),
            "their arguments are those of operators of the forward pass",
        ),
        saving_s=spent_s,
        where="torch.utils.checkpoint",
        replacement="no checkpointing, or of fewer operators, where memory allows",
        how="checkpoint(block, x, use_reentrant=False, context_fn=…)  # create_selective_checkpoint_contexts",
    )


def _again(context: Context) -> list[int]:
    """The units within the backward pass that are those of a forward pass; none where few of them ran before.

    Recording a graph gives an operator a sequence number, which the operators of a backward pass do not have, unless
    that is to be differentiated itself: then most of them did not run before.
    """
    sequence, of_op = context.trace.host_ops.sequence, context.groups.of_op
    backward = context.under_engine
    rows = context.unit_rows
    second = rows[backward[rows] & (sequence[rows] >= 0)]
    repeated: list[int] = second[np.isin(of_op[second], of_op[rows[~backward[rows]]])].tolist()
    return repeated if len(repeated) >= REPEATED * len(second) else []


def _groups(context: Context, rows: list[int], most: int = 8) -> tuple[int, ...]:
    """The groups that take most of the time."""
    spent = np.bincount(context.groups.of_op[rows], weights=context.spent_ns[rows])
    return tuple(int(g) for g in np.argsort(-spent)[:most] if spent[g])


RULES = (
    Rule(
        "E15", "recomputation", "the forward pass runs twice", find,
        trigger="a twentieth of the step in forward operators that run again inside the backward pass",
        advice="keep the activations that memory has room for",
        saving="the time of the second forward pass",
        cannot_show="how much memory the activations would take, and whether there is room for them",
        proof="flag", effort="line", about="compute", shares=True,
        example=Example("checkpoint(block, x)", "block(x)  # where it fits"),
    ),
)  # fmt: skip
