"""How well does a server serve? Latencies, throughput, batches, and what prefill and decode steps take.

The words are those of vLLM's and SGLang's own metrics: time to first token from arrival; inter-token latency between
two tokens of one request; a decode step gives each sequence one token, a prefill step processes more.

What is divided by time (rates, means over time) is divided by the time in which the loop could work: the pauses in
which probe started or ended a recording, or wrote its part, are taken out. Latencies are what clients saw, with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from probe.results.serving import GAP_RATIO, Latency, RequestTimes, ServingUse, StepKind
from probe.results.telemetry import Telemetry
from probe.runs.run import StepTimes

KINDS = ("prefill", "decode")
QUANTILES = (50, 95, 99)

Bounds = Mapping[str, tuple[str, int]]  # of a kind of steps: the class, and recorded steps behind it


def serving_use(
    requests: RequestTimes | None, steps: StepTimes, telemetry: Telemetry, bounds: Bounds
) -> ServingUse | None:
    """The summary; None where neither requests were marked nor a server's page was read."""
    beside = telemetry.of("serving")
    if requests is None and beside is None:
        return None
    about = beside.about if beside is not None else {}
    told = requests or RequestTimes()
    rates = _rates(told)
    flight = _in_flight(told)
    paused = paused_s(told)
    batches = _batches(steps)
    return ServingUse(
        requests=told.total, failed=told.failed, unfinished=told.open,
        requests_per_s=rates[0], tokens_per_s=rates[1], prompt_tokens_per_s=rates[2],
        time_to_first_token=latency(first_token_s(told)),
        inter_token_latency=gap_latency(told.gaps),
        request_latency=latency((np.array(told.end_ns) - np.array(told.arrival_ns)) * 1e-9 if told.end_ns else ()),
        paused_s=paused,
        mean_in_flight=flight[0], most_in_flight=flight[1],
        mean_batch=batches[0], largest_batch=batches[1],
        batch_occupancy_fraction=batches[0] / batches[1] if batches[0] and batches[1] else None,
        steps=tuple(_kinds(steps, bounds)),
        server=about.get("server"), server_latencies=about.get("latencies") or {},
        reasons=dict(_reasons(told, steps)),
    )  # fmt: skip


def first_token_s(told: RequestTimes) -> npt.NDArray[np.float64]:
    """Seconds from arrival to the first token, of the requests that got one."""
    pairs = [
        first - arrival
        for arrival, first in zip(told.arrival_ns, told.first_token_ns, strict=True)
        if first is not None
    ]
    return np.array(pairs, np.float64) * 1e-9


def latency(seconds: npt.ArrayLike) -> Latency | None:
    """The distribution of some times; None of none."""
    values = np.asarray(seconds, np.float64)
    if not len(values):
        return None
    p50, p95, p99 = (float(q) for q in np.percentile(values, QUANTILES))
    return Latency(len(values), float(values.mean()), p50, p95, p99, float(values.max()))


def gap_latency(gaps: Mapping[str, int]) -> Latency | None:
    """The same from counts in bins; a time is taken for the middle of its bin."""
    if not gaps:
        return None
    bins = np.array(sorted(int(name) for name in gaps))
    counts = np.array([gaps[str(name)] for name in bins])
    middles = GAP_RATIO ** (bins + 0.5) * 1e-9
    reached = np.cumsum(counts)
    total = int(reached[-1])
    p50, p95, p99 = (float(middles[np.searchsorted(reached, q / 100 * total)]) for q in QUANTILES)
    mean = float((middles * counts).sum() / total)
    return Latency(total, mean, p50, p95, p99, float(middles[-1]))


def paused_s(told: RequestTimes) -> float | None:
    """Seconds, of those between the first arrival and the last end, in which probe itself made the loop stand."""
    span = _span(told)
    if not len(span):
        return None
    return float(np.diff(span)[0] - np.diff(_working_ns(told, span))[0]) * 1e-9


def _span(told: RequestTimes) -> npt.NDArray[np.int64]:
    """First arrival and last end, ns; empty where no request has ended."""
    return np.array([min(told.arrival_ns), max(told.end_ns)] if told.end_ns else [], np.int64)


def _working_ns(told: RequestTimes, at_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The times of a clock (ns) that stands while probe makes the loop stand."""
    pauses = np.array(told.pauses_ns, np.float64).reshape(-1, 2)
    if not len(pauses):
        return at_ns.astype(np.float64)
    paused = np.concatenate([[0.0], np.cumsum(pauses[:, 1] - pauses[:, 0])])
    working: npt.NDArray[np.float64] = at_ns - np.interp(at_ns, pauses.ravel(), np.repeat(paused, 2)[1:-1])
    return working


def _rates(told: RequestTimes) -> tuple[float | None, float | None, float | None]:
    """Requests, generated tokens and prompt tokens a second of work, between the first arrival and the last end."""
    span = _working_ns(told, _span(told))
    if not len(span) or span[1] <= span[0]:
        return None, None, None
    seconds = float(span[1] - span[0]) * 1e-9
    whole = told.total / len(told.end_ns)  # rows stand for more requests where every second one was dropped
    prompts = [count for count in told.prompt_tokens if count is not None]
    per_s = sum(prompts) * whole / seconds if len(prompts) == len(told.end_ns) else None
    return told.total / seconds, sum(told.tokens) * whole / seconds, per_s


def _in_flight(told: RequestTimes) -> tuple[float | None, int | None]:
    """Mean over the time of work, and most, of the requests that had arrived and not ended."""
    if not told.end_ns or told.stride > 1:
        return None, None
    at = np.concatenate([told.arrival_ns, told.end_ns]).astype(np.int64)
    change = np.concatenate([np.ones(len(told.arrival_ns)), -np.ones(len(told.end_ns))])
    order = np.lexsort((change, at))  # of one moment: first those that end
    open_ = np.cumsum(change[order])
    spans = np.diff(_working_ns(told, at[order]))
    total = spans.sum()
    return (float((open_[:-1] * spans).sum() / total) if total else None), int(open_.max())


def _batches(steps: StepTimes) -> tuple[float | None, float | None]:
    """Sequences in a step: mean weighted by time, and the most."""
    if steps.samples is None:
        return None, None
    known = ~np.isnan(steps.samples)
    if not known.any():
        return None, None
    times, sizes = steps.durations_ns[known], steps.samples[known]
    return float((times * sizes).sum() / max(times.sum(), 1)), float(sizes.max())


def kinds_of(steps: StepTimes) -> npt.NDArray[np.str_] | None:
    """The kind of each step; "" where it did not say both samples and tokens. None where no step did."""
    if steps.samples is None or steps.tokens is None:
        return None
    known = ~(np.isnan(steps.samples) | np.isnan(steps.tokens)) & (steps.tokens > 0)
    return np.where(known, np.where(steps.tokens > steps.samples, KINDS[0], KINDS[1]), "")


def recorded_kinds(steps: StepTimes, first_step: int, count: int) -> dict[str, tuple[int, int]]:
    """First and last of the longest run of recorded steps of each kind; `count` were recorded from `first_step` on."""
    kinds = kinds_of(steps)
    if kinds is None or steps.stride > 1:
        return {}
    found: dict[str, tuple[int, int]] = {}
    begin = first_step
    for step in range(first_step, min(first_step + count, len(kinds))):
        if kinds[step] != kinds[begin]:
            begin = step
        name = str(kinds[step])
        if name and (name not in found or step - begin > found[name][1] - found[name][0]):
            found[name] = begin, step
    return found


def _kinds(steps: StepTimes, bounds: Bounds) -> Iterator[StepKind]:
    kinds = kinds_of(steps)
    if kinds is None:
        return
    bare = steps.is_bare if (steps.is_bare & (kinds != "")).any() else np.ones(len(steps), bool)
    total = float(steps.durations_ns[bare & (kinds != "")].sum())
    for kind in KINDS:
        rows = bare & (kinds == kind)
        if not rows.any():
            continue
        times = steps.durations_ns[rows] * 1e-9
        tokens = 0.0 if steps.tokens is None else float(steps.tokens[rows].sum())
        p50, p95 = (float(q) for q in np.percentile(times, (50, 95)))
        bound, count = bounds.get(kind, (None, 0))
        spent = float(times.sum())
        yield StepKind(kind, int(rows.sum()), p50, p95, spent * 1e9 / total, tokens / spent, bound, count)


def _reasons(told: RequestTimes, steps: StepTimes) -> Iterator[tuple[str, str]]:
    if told.total and not any(first is not None for first in told.first_token_ns):
        yield "time_to_first_token", "no request said token()"
    elif told.total and not told.gaps:
        yield "inter_token_latency", "no request said token() twice"
    if kinds_of(steps) is None:
        yield "steps", "step(samples=sequences, tokens=tokens) tells prefill from decode steps"
    if told.stride > 1:
        yield "mean_in_flight", f"of {told.stride} requests one was kept"
