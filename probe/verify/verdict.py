"""Accept, reject, inconclusive or trade? Decided from the pairs, the memory and the numbers, and from nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from probe.results.findings import Verdict
from probe.units import format_bytes, format_fraction, significant
from probe.verify.ratios import Pairs

WORTHWHILE = 1.05  # a smaller gain is not worth an edit, and the layout of memory alone moves timings by as much
NOISY = 0.25  # where the same code differs from itself by this (ln), a conclusion must exceed that difference
CONTENDED = math.log(1.3)  # where others take CPU time meanwhile, a conclusion must be a clear case
LEAST_PAIRS = 21  # fewer cannot tell a difference from chance at the confidence of one look
MOST_PAIRS = 1601
# A run may be judged at each of these numbers of pairs. They are odd, so that the median is one of the ratios.
LOOKS = tuple(n for n in (21, 29, 37, 49, 65, 87, 117, 155, 207, 277, 369, 491, 655, 873, 1165, MOST_PAIRS))
# All looks together may be wrong in 2 % (Bonferroni): looking often and stopping at a favourable moment gains nothing.
LOOK_CONFIDENCE = 1 - 0.02 / len(LOOKS)

LESS_MEMORY = 0.8  # peak at most this part of the original's …
MORE_MEMORY = 1.25  # … or at least this …
CLEAR_BYTES = 1 << 20  # … and different by at least 1 MiB: less is the allocator's rounding

Pace = Literal["faster", "slower", "same", "unknown"]


@dataclass(frozen=True)
class Memory:
    """Most bytes allocated at once during one run, beyond the inputs; None where it cannot be measured."""

    before_bytes: int | None = None
    after_bytes: int | None = None

    @property
    def change(self) -> Literal["less", "more", "same"]:
        """Whether the candidate clearly needs less or more; "same" where that is not known."""
        if self.before_bytes is None or self.after_bytes is None:
            return "same"
        if abs(self.after_bytes - self.before_bytes) < CLEAR_BYTES:
            return "same"
        if self.after_bytes <= LESS_MEMORY * self.before_bytes:
            return "less"
        return "more" if self.after_bytes >= MORE_MEMORY * self.before_bytes else "same"

    def __str__(self) -> str:
        return f"peak memory {format_bytes(self.before_bytes)} → {format_bytes(self.after_bytes)}"


def settled(pairs: Pairs) -> bool:
    """Whether more pairs would not change the verdict."""
    return pace(pairs, LOOK_CONFIDENCE) != "unknown"


def pace(pairs: Pairs, confidence: float) -> Pace:
    """What the interval of that confidence says of the candidate's time.

    Chance is kept out by the confidence and by the random order; a neighbour that slows one side more than the other
    is not. So on a noisy machine the 95 % interval must also lie beyond the noise, and where others were seen to take
    CPU time, beyond what is a clear case.
    """
    if pairs.n < LEAST_PAIRS:
        return "unknown"
    low, high = pairs.interval(confidence)
    noise = math.exp(_doubt(pairs))
    if low > WORTHWHILE and pairs.interval()[0] > noise:
        return "faster"
    if high < 1 and pairs.interval()[1] < 1 / noise:
        return "slower"
    same = noise == 1.0 and low > 1 / WORTHWHILE and high < WORTHWHILE
    return "same" if same else "unknown"


def _is_no_slower(pairs: Pairs) -> bool:
    """Whether the candidate is surely not slower by what would matter, beyond what the machine alone could make."""
    return pairs.n >= LEAST_PAIRS and pairs.interval(LOOK_CONFIDENCE)[0] > math.exp(_doubt(pairs)) / WORTHWHILE


def _doubt(pairs: Pairs) -> float:
    """The ln of the ratio that the machine alone could make."""
    return max(pairs.noise if pairs.noise > NOISY else 0.0, CONTENDED if pairs.contended else 0.0)


def decide(pairs: Pairs, memory: Memory) -> tuple[Verdict, str]:
    """The verdict on a candidate whose numbers are right, and the reason in words.

    Acceptance needs the confidence of a look: the 95 % interval is reported, but was looked at repeatedly.
    """
    found = pace(pairs, 0.95)
    if found == "faster" and not settled(pairs):
        found = "unknown"
    if found == "faster":
        return ("trade", f"faster, but {memory}") if memory.change == "more" else ("accept", _ratio(pairs))
    if found == "unknown" and memory.change == "less" and _is_no_slower(pairs):
        return "trade", f"no slower ({_ratio(pairs)}), and {memory}"
    if found == "unknown":
        return "inconclusive", _why_unknown(pairs)
    if memory.change == "less":
        return "trade", f"{'slower' if found == 'slower' else 'no faster'} ({_ratio(pairs)}), but {memory}"
    if found == "slower":
        return "reject", f"slower: {_ratio(pairs)}"
    return "inconclusive", f"no difference beyond {format_fraction(WORTHWHILE - 1, 0)}: {_ratio(pairs)}"


def _ratio(pairs: Pairs) -> str:
    """1.21× [1.10, 1.56] over 49 pairs."""
    low, high = pairs.interval()
    return f"{significant(pairs.speedup)}× [{significant(low)}, {significant(high)}] over {pairs.n} pairs"


def _why_unknown(pairs: Pairs) -> str:
    """What kept the pairs from deciding, with the remedy."""
    if pairs.n < LEAST_PAIRS:
        return f"only {pairs.n} of at least {LEAST_PAIRS} pairs fitted into the time; raise the budget"
    if pairs.noise > NOISY:
        spread = format_fraction(math.expm1(pairs.noise), 0)
        return f"the machine is too busy: the same code differed from itself by {spread}; {_ratio(pairs)}"
    if pairs.contended:
        return f"other processes took CPU time meanwhile, and no clear case shows: {_ratio(pairs)}; quieten the machine"
    return f"the interval does not decide: {_ratio(pairs)}; raise the budget or quieten the machine"
