"""How is a normalisation spelled in primitive operators?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from probe.analyzers.rules.matching.continued import CASTS, Fits
from probe.analyzers.rules.matching.flow import Argument
from probe.analyzers.rules.matching.ledger import scalars
from probe.analyzers.rules.matching.patterns import Pattern, op, through, value
from probe.analyzers.rules.matching.units import Unit

WEIGHTS = (None, "parameter", "buffer")  # what a vector beside a norm may be: sizes alone do not tell
FUSED_NORMS = "native_layer_norm rms_norm _fused_rms_norm layer_norm"


def is_vector(argument: Argument) -> bool:
    """Whether an argument has one dimension that counts: a weight or a bias."""
    return len([n for n in argument.size if n != 1]) == 1


def is_array(argument: Argument) -> bool:
    """Whether an argument has at least two dimensions that count: activations."""
    return len([n for n in argument.size if n != 1]) >= 2


def _power(wanted: float) -> Callable[[Unit], bool]:
    """A test for an exponent; it holds where none was recorded."""

    def holds(unit: Unit) -> bool:
        texts = scalars(unit)[1:2]
        return not texts or not texts[0] or float(texts[0]) == wanted

    return holds


def _square(x: Pattern) -> Pattern:
    return op("pow", x, test=_power(2.0)) | op("square", x) | op("mul", x, x)


def _mean(x: Pattern) -> Pattern:
    return op("mean", x, name="mean of squares") | op("div mul", op("sum", x, name="mean of squares"))


def _guarded(x: Pattern) -> Pattern:
    """With an epsilon, added or as a lower limit, or without."""
    return op("add", x) | op("clamp clamp_min maximum", x) | x


def _root(x: Pattern) -> Pattern:
    return op("sqrt", _guarded(x)) | op("pow", _guarded(x), test=_power(0.5)) | op("add", op("sqrt", x))


def _inverse_root(x: Pattern) -> Pattern:
    reciprocal = op("reciprocal", _root(x))
    power = op("pow", _guarded(x), test=_power(-0.5))
    return op("rsqrt", _guarded(x)) | power | reciprocal | op("mul", reciprocal)


def _over_root(x: Pattern, variance: Pattern) -> Pattern:
    """The root of a product is looked for first: few other products have one. A weight may come before a division."""
    return op("mul", _inverse_root(variance), x) | op("div", through("mul", x, most=1), _root(variance))


def rms_norm(x: Pattern) -> Pattern:
    """x / sqrt(mean(x²) + ε), of x bound by name."""
    return _over_root(x, _mean(_square(x)))


def by_length(x: Pattern) -> Pattern:
    """x / |x|, times a number or not: what F.normalize does, an RMSNorm where a weight follows."""
    length = op("linalg_vector_norm norm", x, name="mean of squares")
    return through("mul", op("div", x, through("clamp_min clamp maximum add div mul", length, most=2)), most=1)


def layer_norm(x: Pattern) -> Pattern:
    """(x - mean(x)) / sqrt(var(x) + ε), of x bound by name."""
    mean, both = op("mean", x, name="mean"), op("var_mean std_mean", x, name="mean of squares")
    centred, by_both = op("sub", x, mean, name="centred"), op("sub", x, both)
    spread, variance = op("std", x, name="mean of squares"), op("var", x, name="mean of squares")
    difference = op("sub", op("mean", _square(x), name="mean of squares"), _square(mean))
    twice = op("sub", x, mean, name="for the squares")
    return (
        _over_root(centred, _mean(_square(twice)))
        | _over_root(centred, _mean(_square(centred)) | variance | difference)
        | op("div", through("mul", centred, most=1), op("add", spread) | spread)
        | op("div", through("mul", by_both, most=1), op("add", both) | both)
        | _over_root(by_both, both)
    )


def wide_or_as_it_is(norm: Callable[[Pattern], Pattern]) -> Pattern:
    """The norm of a tensor, with the cast to a wider type before it where there is one."""
    return norm(op("to to_copy", value(test=is_array), name="wide")) | norm(value("x", is_array))


def _with_vector(unit: Unit, others: Sequence[Argument]) -> bool:
    """Whether the other argument is a weight or a bias."""
    return any(is_vector(argument) and argument.origin in WEIGHTS for argument in others)


AFFINE: dict[str, Fits] = {
    "mul": _with_vector, "add": _with_vector, "addcmul": _with_vector, **CASTS
}  # fmt: skip
