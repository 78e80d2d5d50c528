"""Does the replacement compute the same? Judged as flash-attention tests itself: against the original's own error.

    error(new) ≤ 2 · error(old) + floor,    errors against the original run in float64 on the same inputs

for the relative L2 error and for the largest absolute error, on every output and every gradient. That needs no
tolerance per operator, shape or dtype: whatever the dtype costs the original, the replacement may cost twice.
(flash-attention, tests/test_flash_attn.py; it allows 3 for gradients, probe does not.)
Elements where the original is not finite are not compared; a NaN or Inf elsewhere fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

from probe.units import significant
from probe.verify.case import Candidate, Case, I, Problem, Side, Values

if TYPE_CHECKING:
    import torch

FACTOR = 2.0
# An original that is right by luck (a short sum, a zero) must not demand the same luck of the replacement: so many
# eps of the dtype are free, of the reference's norm and of its largest element. In half precision everybody rounds
# the result, which hides the luck; in float64 the reference is no more exact than what it judges, or equal to it.
# Chosen at twice what torch's own attention and optimizers needed on random problems.
FLOOR_EPS = {"float32": 16.0, "float64": 512.0}
FLOOR_EPS_HALF = 2.0


@dataclass(frozen=True)
class Error:
    """Distance of one tensor from the float64 reference."""

    relative: float  # L2 norm of the difference / L2 norm of the reference
    largest: float  # largest absolute difference


@dataclass(frozen=True)
class Check:
    """One tensor of one problem: the errors of both sides, and why it fails (None: it does not)."""

    where: str  # "output 0 (large logits)"
    gradient: bool
    before: Error | None = None
    after: Error | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Baseline(Generic[I]):
    """What a candidate is held against on one problem."""

    problem: Problem[I]
    inputs: I
    old: Values
    exact: Values  # of `inputs.covered(old)`


@dataclass(frozen=True)
class Gate:
    """All checks of one candidate; those on the recorded sizes give the reported errors."""

    recorded: tuple[Check, ...]
    hard: tuple[Check, ...]

    @property
    def failure(self) -> str | None:
        """The first failure in words; None where the numbers are right."""
        return next((f"{c.where}: {c.failure}" for c in self.recorded + self.hard if c.failure), None)

    def error(self, *, gradient: bool) -> tuple[float | None, float | None]:
        """Largest relative L2 error over outputs (or gradients) before and after; None where there are none."""
        checks = [c for c in self.recorded if c.gradient is gradient]
        before = [c.before.relative for c in checks if c.before]
        after = [c.after.relative for c in checks if c.after]
        return max(before, default=None), max(after, default=None)


def baselines(case: Case[I], device: str, seed: int) -> tuple[Baseline[I], ...]:
    """The original's values and the float64 reference for each problem of the case."""
    found = (_attempted(case, problem, device, seed + 1 + i, i) for i, problem in enumerate(case.checked))
    return tuple(base for base in found if base is not None)


def _attempted(case: Case[I], problem: Problem[I], device: str, seed: int, place: int) -> Baseline[I] | None:
    """The baseline; None where the recorded operators do not run on a hard input that nobody asked them to take."""
    try:
        return _baseline(case, problem, device, seed)
    except Exception:
        if case.optional and place:
            return None
        raise


def _baseline(case: Case[I], problem: Problem[I], device: str, seed: int) -> Baseline[I]:
    """Inputs drawn from `seed`, run by the original as recorded and in float64."""
    import torch

    inputs = problem.make(torch.Generator(device).manual_seed(seed))
    exact = run(case.original, inputs.exact(), case.calls)
    return Baseline(problem, inputs, run(case.original, inputs, case.calls), exact)


def run(build: Callable[[I], Side], inputs: I, calls: int) -> Values:
    """The values after `calls` calls of a fresh side."""
    side = build(inputs)
    for _ in range(calls - 1):
        side.call()
    return side.values(side.call())


def gate(case: Case[I], candidate: Candidate[I], against: Sequence[Baseline[I]]) -> Gate:
    """The candidate's values held against every baseline; the first of them has the recorded sizes."""
    bases = [base for base in against if not (candidate.fixed and base.problem.reshaped)]
    floor = candidate.floor_dtype
    checks = [tuple(_checks(base, run(candidate.build, base.inputs, case.calls), floor)) for base in bases]
    return Gate(checks[0], tuple(check for some in checks[1:] for check in some))


def _checks(base: Baseline[I], new: Values, floor: str | None) -> Iterator[Check]:
    """A check for each output and gradient, or one that says why they cannot be compared."""
    mismatch = _mismatch(base.old, new)
    if mismatch:
        yield Check(f"values ({base.problem.name})", gradient=False, failure=mismatch)
        return
    old, new = base.inputs.covered(base.old), base.inputs.covered(new)
    name, condition = base.problem.name, base.problem.condition
    for i, three in enumerate(zip(old.outputs, new.outputs, base.exact.outputs, strict=True)):
        yield compare(f"output {i} ({name})", *three, condition=condition, floor_dtype=floor)
    for i, three in enumerate(zip(old.gradients, new.gradients, base.exact.gradients, strict=True)):
        yield compare(f"gradient {i} ({name})", *three, gradient=True, condition=condition, floor_dtype=floor)


def _mismatch(old: Values, new: Values) -> str | None:
    """How the candidate's tensors differ in number, sizes or dtype; None where they do not."""
    for kind, olds, news in (("output", old.outputs, new.outputs), ("gradient", old.gradients, new.gradients)):
        if len(olds) != len(news):
            return f"{len(news)} {kind}s instead of {len(olds)}"
        for i, (a, b) in enumerate(zip(olds, news, strict=True)):
            if (a.shape, a.dtype) != (b.shape, b.dtype):
                return f"{kind} {i} is {_described(b)} instead of {_described(a)}"
    return None


def _described(tensor: torch.Tensor) -> str:
    """float32[2, 3]."""
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def compare(
    where: str,
    old: torch.Tensor,
    new: torch.Tensor,
    exact: torch.Tensor,
    *,
    gradient: bool = False,
    condition: float = 1.0,
    floor_dtype: str | None = None,
) -> Check:
    """One tensor by the rule above, over the elements where the original and the reference are finite."""
    if not old.is_floating_point():
        different = int((old != new).sum())
        failure = f"{different} of {old.numel()} integers differ" if different else None
        return Check(where, gradient, failure=failure)
    finite = old.isfinite() & exact.isfinite()
    broken = int((finite & ~new.isfinite()).sum())
    if broken:
        return Check(where, gradient, failure=f"NaN or Inf in {broken} elements where the original is finite")
    if not bool(finite.any()):
        return Check(where, gradient)
    reference = exact[finite]
    before, after = _error(old[finite], reference), _error(new[finite], reference)
    return Check(
        where,
        gradient,
        before,
        after,
        _excess(before, after, _floor(_coarser(old.dtype, floor_dtype), reference, condition)),
    )


def _error(values: torch.Tensor, reference: torch.Tensor) -> Error:
    """Against a zero reference the relative error is the absolute one."""
    difference = values.double() - reference
    norm = float(reference.norm())
    return Error(float(difference.norm()) / (norm or 1.0), float(difference.abs().max()))


def _coarser(dtype: torch.dtype, stated: str | None) -> torch.dtype:
    """The type whose floor holds."""
    import torch

    other: torch.dtype = getattr(torch, stated) if stated else dtype
    return max(dtype, other, key=lambda one: float(torch.finfo(one).eps))


def _floor(dtype: torch.dtype, reference: torch.Tensor, condition: float) -> Error:
    """What every replacement may err: a few eps of the dtype, more on an ill-conditioned problem."""
    import torch

    free = FLOOR_EPS.get(str(dtype).removeprefix("torch."), FLOOR_EPS_HALF)
    eps = torch.finfo(dtype).eps * free * condition
    return Error(eps, eps * float(reference.abs().max()))


def _excess(before: Error, after: Error, floor: Error) -> str | None:
    """Which error is beyond what the rule allows; None where none is."""
    for name, old, new, free in (
        ("relative L2 error", before.relative, after.relative, floor.relative),
        ("largest error", before.largest, after.largest, floor.largest),
    ):
        if not new <= FACTOR * old + free:
            return f"{name} {_number(new)}, the original's is {_number(old)} (allowed: twice that + {_number(free)})"
    return None


def _number(value: float) -> str:
    """1.2e-06, 0.034."""
    return f"{value:.1e}" if 0 < value < 1e-3 else significant(value, 2)
