"""F09, F10: the loss over a large vocabulary, whose logits are held and passed several times."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import prod

from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.matching.continued import forward
from probe.analyzers.rules.matching.ledger import LEAST_FRACTION, array_bytes, as_recorded_s, element, ledger_of
from probe.analyzers.rules.matching.patterns import op, value
from probe.analyzers.rules.matching.search import SEEN_THROUGH
from probe.analyzers.rules.matching.search import Match as Place
from probe.analyzers.rules.matching.units import Unit
from probe.analyzers.rules.rule import Example, Rule
from probe.units import format_bytes, format_time

LARGE = 30_000  # entries of a vocabulary (BERT's has 30,522, GPT-2's 50,257)
LEAST_BYTES = 1 << 22  # of logits
HALF = frozenset({"float16", "bfloat16"})
CHUNKED = (
    "F.linear_cross_entropy(hidden, lm_head.weight, targets, options=torch.nn.LinearCrossEntropyOptions())  "
    "# torch ≥ 2.13; makes the logits chunk by chunk"
)


def _is_large(unit: Unit) -> bool:
    return bool(unit.size) and unit.size[-1] >= LARGE


def _is_half(unit: Unit) -> bool:
    return element(unit).name in HALF and bool(unit.size) and unit.numel * 4 >= LEAST_BYTES


LOG_SOFTMAX = op("_log_softmax", value("logits"), test=_is_large, name="softmax") | op(
    "log", op("_softmax", value("logits"), test=_is_large, name="softmax")
)
LOSS = (
    op("nll_loss_forward nll_loss2d_forward nll_loss", LOG_SOFTMAX)
    | op("gather index", LOG_SOFTMAX)
    | op("sum mean", op("mul", LOG_SOFTMAX))
    | op("sub", op("logsumexp", value("logits"), test=_is_large, name="softmax"), op("gather", value("logits")),
         any_order=True)
)  # fmt: skip
UPCAST = op("_log_softmax logsumexp", op("to to_copy", op("mm addmm bmm"), test=_is_half, name="cast"), name="softmax")


def upcasts(context: Context) -> Iterator[Match]:
    """F10: half-precision logits cast to float32 as a whole before the loss."""
    sites: dict[tuple[int, ...], list[Place]] = defaultdict(list)
    for place in forward(context, UPCAST):
        if place.named["cast"].size[-1:] == place.named["softmax"].size[-1:]:
            sites[place.named["cast"].size].append(place)
    for size, same in sites.items():
        yield _upcast(context, size, same)


def _upcast(context: Context, size: tuple[int, ...], same: list[Place]) -> Match:
    casts = [unit.row for place in same for unit in place.units if unit.name in SEEN_THROUGH]
    backward = context.backward_rows(casts)
    seconds, calls = ledger_of(context).seconds(casts + backward), len(same) / len(context.steps)
    wide, on_cpu = 4 * prod(size), not context.trace.on_device
    return Match(
        rows=(*casts, *backward),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in casts})),
        key="x".join(map(str, size)),
        summary=(
            f"{list(size)} logits are cast from {element(same[0].named['cast']).name} to float32 before the loss, "
            f"{times(calls)}: {format_bytes(wide)} more in memory{', as much for the gradient,' if backward else ''} "
            f"and {format_time(seconds)}"
        ),
        evidence=(
            " → ".join(unit.name for unit in same[0].units),
            "a log-softmax computes in float32 inside, whatever it reads",
            *(("on a CPU a loss that casts as it reads takes as long: only memory is gained",) if on_cpu else ()),
        ),
        saving_s=None
        if on_cpu or seconds < LEAST_FRACTION * context.step_s  # the memory is worth a line
        else as_recorded_s(context, seconds),
        saving_bytes=wide * (2 if backward else 1),
        where=times(calls),
        replacement="torch.compile of the loss" if on_cpu else "log_softmax that casts as it reads",
        how=(
            "loss = torch.compile(loss)  # with the cast inside; for memory F.linear_cross_entropy"
            if on_cpu
            else "F.nll_loss(F.log_softmax(logits, -1, dtype=torch.float32), targets)  # logits stay as they are"
        ),
        tier=same[0].tier,
    )


def large_vocabulary(context: Context) -> Iterator[Match]:
    """F09: memory only; the same without the logits may take longer."""
    sites: dict[tuple[int, ...], list[Place]] = defaultdict(list)
    for place in forward(context, LOSS):
        if array_bytes(place.named["softmax"]) >= LEAST_BYTES:
            sites[place.named["softmax"].size].append(place)
    for size, same in sites.items():
        yield _held(context, size, same)


def _held(context: Context, size: tuple[int, ...], same: list[Place]) -> Match:
    softmax = same[0].named["softmax"]
    rows = [place.named["softmax"].row for place in same]
    trained, calls = bool(context.backward_rows(rows)), len(same) / len(context.steps)
    array, copies = array_bytes(softmax), 3 if trained else 1
    return Match(
        rows=(),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in rows})),
        key="x".join(map(str, size)),
        summary=(
            f"a cross-entropy over {size[-1]:,} classes holds {copies + 1} arrays of {format_bytes(array)} at once: "
            f"logits, their log-softmax{' and the gradients of both' if trained else ''}; by chunks of rows only parts "
            f"of them exist at a time"
        ),
        evidence=(
            " → ".join(unit.name for unit in same[0].units),
            f"{list(size)}, {element(softmax).name}",
            "time may rise: the product is made again, by chunks",
        ),
        saving_s=None,
        saving_bytes=copies * array,
        where=times(calls),
        replacement="torch.nn.functional.linear_cross_entropy",
        how=CHUNKED,
        tier=same[0].tier,
    )


RULES = (
    Rule(
        "F10", "logits-upcast", "logits cast to float32 as a whole before the loss", upcasts,
        trigger="a product in half precision, cast to float32, read by a log-softmax",
        advice="let the loss cast as it reads",
        saving="on a device the time of the casts, forward and backward; on a CPU memory only",
        cannot_show="whether something else needs the float32 logits",
        proof="replay", effort="line", needs=("shapes",),
        example=Example(
            "loss = F.cross_entropy(logits.float(), targets)",
            "loss = F.nll_loss(F.log_softmax(logits, -1, dtype=torch.float32), targets)",
        ),
    ),
    Rule(
        "F09", "large-vocabulary-loss", "a cross-entropy that holds all logits of a large vocabulary", large_vocabulary,
        trigger="a log-softmax over 30,000 classes or more, of 4 MiB or more, that a loss reads",
        advice="compute product and loss together, by chunks",
        saving="memory only: the log-softmax and the gradients of logits and log-softmax; time may rise",
        cannot_show="whether memory is short",
        proof="replay", effort="line", needs=("shapes",), about="memory",
        example=Example(
            "loss = F.cross_entropy(lm_head(hidden), targets)",
            "loss = F.linear_cross_entropy(hidden, lm_head.weight, targets, options=LinearCrossEntropyOptions())",
        ),
    ),
)  # fmt: skip
