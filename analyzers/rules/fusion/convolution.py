"""F15, F16: batch norms after convolutions: one that could be folded away, and a bias that one makes useless."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from probe.analyzers.operators.call_tree import under
from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.fusion.norm_patterns import is_vector
from probe.analyzers.rules.matching.continued import forward
from probe.analyzers.rules.matching.ledger import array_bytes, as_recorded_s, element, ledger_of, scalars
from probe.analyzers.rules.matching.patterns import op, value
from probe.analyzers.rules.matching.search import Match as Place
from probe.analyzers.rules.matching.units import Unit
from probe.analyzers.rules.rule import Example, Rule
from probe.units import format_bytes, format_time

BATCH_NORMS = "native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit"
TRAINING = 5  # the argument that says whether a batch norm uses the batch's own mean
BIAS = {"convolution": 2, "addmm": 0}  # the argument that is the bias
LEAST_FRACTION = 0.005  # of the step


def _trains(unit: Unit) -> bool:
    return scalars(unit)[TRAINING : TRAINING + 1] == ("True",)


def _evaluates(unit: Unit) -> bool:
    return scalars(unit)[TRAINING : TRAINING + 1] == ("False",)


def _has_bias(unit: Unit) -> bool:
    return bool(unit.dims[BIAS[unit.name] : BIAS[unit.name] + 1] not in ((), ((),)))


PRODUCT = op("convolution addmm mm", name="product")
VECTOR = value(test=is_vector)
FOLDABLE = op(BATCH_NORMS, PRODUCT, test=_evaluates, name="norm")
FROZEN = op("add", op("mul", op("convolution", name="product"), VECTOR), VECTOR)  # a batch norm's scale and shift
BIASED = op(BATCH_NORMS, op("convolution addmm", test=_has_bias, name="product"), test=_trains, name="norm")


def foldable(context: Context) -> Iterator[Match]:
    """F15: one match per size; only where nothing is trained through the norm."""
    sites: dict[tuple[tuple[int, ...], str], list[Place]] = defaultdict(list)
    for pattern in (FOLDABLE, FROZEN):
        for place in forward(context, pattern):
            last = place.units[-1]
            if not context.backward_rows([last.row, place.named["product"].row]):
                sites[last.size, last.name].append(place)
    for (size, _), same in sites.items():
        yield _folded(context, size, same)


def _folded(context: Context, size: tuple[int, ...], same: list[Place]) -> Match:
    rows = [unit.row for place in same for unit in place.units if unit is not place.named["product"]]
    seconds, calls, norm = ledger_of(context).seconds(rows), len(same) / len(context.steps), same[0].units[-1]
    product = same[0].named["product"].name
    layer = "conv" if product == "convolution" else "linear"
    return Match(
        rows=tuple(rows),
        ops=tuple(sorted({int(context.groups.of_op[row]) for row in rows})),
        key="x".join(map(str, size)) + f"-{norm.name}",
        summary=(
            f"{calls:.0f} batch norm{'s' * (calls > 1)} over {list(size)} per step use fixed means and variances: "
            f"{format_time(seconds)} that vanish when they are folded into the weights before them"
        ),
        evidence=(f"{product} → {norm.name}, training=False" if "norm" in same[0].named else f"{product} → mul → add",
                  "nothing is trained through it"),
        saving_s=as_recorded_s(context, seconds),
        where=times(calls),
        replacement=f"torch.nn.utils.fusion.fuse_{layer}_bn_eval",
        how=f"{layer} = torch.nn.utils.fusion.fuse_{layer}_bn_eval({layer}, bn); bn = torch.nn.Identity()",
        tier=same[0].tier,
    )  # fmt: skip


def useless_bias(context: Context) -> Iterator[Match]:
    """F16: one match over all layers; what a batch norm subtracts again has no effect."""
    found = list(forward(context, BIASED))
    if not found:
        return
    products = [place.named["product"] for place in found]
    visible_s = _visible_s(context, products)
    calls = len(products) / len(context.steps)
    largest = max((place.named["norm"] for place in found), key=array_bytes)
    known = visible_s >= LEAST_FRACTION * context.step_s
    yield Match(
        rows=(),
        ops=tuple(sorted({int(context.groups.of_op[unit.row]) for unit in products})),
        key=products[0].name,
        summary=(
            f"{calls:.0f} layer{'s' * (calls > 1)} per step add a bias that the batch norm behind subtracts again with "
            f"the mean; its gradient is a pass over up to {format_bytes(array_bytes(largest))}, always zero"
        ),
        evidence=(
            f"{products[0].name} with a bias → {found[0].named['norm'].name}, training=True",
            f"largest {list(largest.size)}, {element(largest).name}",
            f"{format_time(visible_s)} in operators of its own"
            if known
            else "most of its time is inside the layer's own operators and cannot be told apart",
        ),
        saving_s=visible_s if known else None,
        where=times(calls),
        replacement="bias=False",
        how=f"nn.{'Conv2d' if products[0].name == 'convolution' else 'Linear'}(…, bias=False)  # before a batch norm",
        tier=found[0].tier,
    )


def _visible_s(context: Context, products: list[Unit]) -> float:
    """Time of the additions under the products and of the sums under their backward passes."""
    rows = [unit.row for unit in products]
    trace = context.trace
    added = _under(context, rows) & trace.named(lambda n: n in ("aten::add_", "aten::add"))[trace.host_ops.name]
    backward = _under(context, context.backward_rows(rows))
    added |= backward & trace.named(lambda n: n == "aten::sum")[trace.host_ops.name]
    return ledger_of(context).seconds(np.flatnonzero(added).tolist())


def _under(context: Context, rows: list[int]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    marked = np.zeros(len(context.trace.host_ops), bool)
    marked[rows] = True
    return under(context.trace.host_ops.parent, marked)


RULES = (
    Rule(
        "F15", "unfolded-batch-norm", "batch norm in evaluation that could be folded into the layer before", foldable,
        trigger="a convolution or product read by a batch norm with training=False, without a backward pass",
        advice="fold scale and shift into weights and bias",
        saving="the time of the batch norms",
        cannot_show="whether something else reads the layer's output before the norm",
        proof="replay", effort="line", needs=("shapes",),
        example=Example(
            "y = bn(conv(x))  # in evaluation", "conv = torch.nn.utils.fusion.fuse_conv_bn_eval(conv, bn)\ny = conv(x)"
        ),
    ),
    Rule(
        "F16", "bias-before-batch-norm", "a bias that the batch norm behind it subtracts again", useless_bias,
        trigger="a convolution or linear layer with a bias, read by a batch norm with training=True",
        advice="bias=False",
        saving="additions of the bias and sums of its gradient that are operators of their own",
        cannot_show="what the bias takes inside the convolution's own operators",
        proof="module", effort="flag", needs=("shapes",),
        example=Example(
            "nn.Conv2d(64, 64, 3), nn.BatchNorm2d(64)", "nn.Conv2d(64, 64, 3, bias=False), nn.BatchNorm2d(64)"
        ),
    ),
)  # fmt: skip
