"""What does a run say of the program as a server? Its requests, and what bounds its prefill and decode steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from probe.analyzers.serving import Bounds, recorded_kinds, serving_use
from probe.examine.telemetry import read
from probe.results.analysis import Analysis
from probe.runs.run import RankPart, Run

BoundOf = Callable[[int, int], str | None]  # the class of the recorded steps from the first number to the last


def with_serving(analysis: Analysis, run: Run, part: RankPart, bound_of: BoundOf) -> Analysis:
    """The analysis with what requests and a server's page say; as it is where there were none."""
    telemetry = read(run.path, part)
    if part.requests is None and telemetry.of("serving") is None:
        return analysis
    use = serving_use(part.requests, part.steps, telemetry, _bounds(analysis, part, bound_of))
    return replace(analysis, serving=use)


def _bounds(analysis: Analysis, part: RankPart, bound_of: BoundOf) -> Bounds:
    """The class of each kind of steps in the last trace."""
    last = next((cycle for cycle in reversed(part.cycles) if cycle.file), None)
    if last is None:
        return {}
    spans = recorded_kinds(part.steps, last.first_step, last.steps)
    if len(spans) == 1 and next(iter(spans.values())) == (last.first_step, last.first_step + last.steps - 1):
        return dict.fromkeys(spans, (analysis.bound, last.steps))
    found = {kind: (bound_of(first, end), end - first + 1) for kind, (first, end) in spans.items()}
    return {kind: (bound, count) for kind, (bound, count) in found.items() if bound is not None}
