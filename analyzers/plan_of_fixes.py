"""In which order to make the changes: the most time for the least effort first, and what the step takes after each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from probe.results.analysis import Fix
from probe.results.findings import Finding

# What a change of each kind takes, relative to setting a flag. A guess, of the order of minutes, an hour, days.
EFFORT = {"flag": 1.0, "line": 2.0, "function": 8.0, "design": 40.0}


def plan(
    findings: Sequence[Finding], step_s: float, together_s: Callable[[Sequence[Finding]], float] | None = None
) -> tuple[Fix, ...]:
    """The findings that save time, in the order in which to act on them, with the step's time after each.

    together_s: seconds that some findings save together, where that can be replayed; else their sum, as far as the step
    holds it. Together they never save less than one of them does, nor more than all of them alone.
    """
    if step_s <= 0:
        return ()
    return tuple(_fixes(sorted(filter(_saves, findings), key=_worth), step_s, together_s))


def _fixes(
    ordered: Sequence[Finding], step_s: float, together_s: Callable[[Sequence[Finding]], float] | None
) -> Iterator[Fix]:
    saved = 0.0
    for count, finding in enumerate(ordered, start=1):
        alone = finding.saving_s or 0.0
        with_it = saved + alone if together_s is None or count == 1 else together_s(ordered[:count])
        saved = min(max(with_it, saved, alone), saved + alone, step_s)
        yield Fix(finding.id, finding.effort, step_s - saved, saved / step_s)


def _saves(finding: Finding) -> bool:
    return finding.saving_s is not None and finding.saving_s > 0


def _worth(finding: Finding) -> tuple[float, float, str]:
    """Most time per effort first; of equal worth the greater saving."""
    saving_s = finding.saving_s or 0.0
    return -saving_s / EFFORT[finding.effort], -saving_s, finding.id
