"""Under which conditions did the steps run, and what did they cost and serve? A line each."""

from __future__ import annotations

from collections.abc import Iterator

from probe.results.cost import Cost
from probe.results.serving import Latency, ServingUse
from probe.results.telemetry import TelemetryUse
from probe.units import format_fraction, format_si, format_time, significant

# What is shown of the bare steps, where it was sampled: name, label, unit
SHOWN = (
    ("gpu_utilisation_fraction", "GPU busy", "fraction"),
    ("sm_clock_hz", "SM clock", "Hz"),
    ("power_w", "power", "W"),
    ("dram_active_fraction", "DRAM active", "fraction"),
    ("process_cpu_cores", "cores used", ""),
    ("loop_run_queue_fraction", "loop without a core", "fraction"),
)
MOST_ENTITIES = 2


def telemetry_words(use: TelemetryUse | None) -> str:
    """What device and host did in the bare steps, and whether that fits the class; "" where nothing was sampled."""
    if use is None:
        return ""
    words = [*_quantities(use)]
    if use.bound is not None:
        words.append(f"{use.bound.bound}-bound is {use.bound.says}")
    return " · ".join(words)


def _quantities(use: TelemetryUse) -> Iterator[str]:
    told: set[tuple[str, str]] = set()
    for name, label, unit in SHOWN:
        found = [q for q in use.quantities if q.name == name and q.window == "bare"]
        for one in found[:MOST_ENTITIES]:
            if (name, one.entity) not in told:  # NVML and DCGM may both say it
                told.add((name, one.entity))
                value = format_fraction(one.mean) if unit == "fraction" else format_si(one.mean, unit)
                whose = f" ({one.entity[:12]})" if len({q.entity for q in found}) > 1 else ""
                yield f"{label} {value}{whose}"


def usd(amount: float | None) -> str:
    """Dollars: $0.00123, $12.3, $4567."""
    return "–" if amount is None else f"${significant(amount)}"


def spending(cost: Cost | None) -> str:
    """Energy and money of a step; "" where neither is known."""
    return "" if cost is None else " · ".join([*_energy(cost), *_money(cost)])


def _energy(cost: Cost) -> Iterator[str]:
    used = cost.energy
    if used is None or used.j_per_step is None:
        return
    of_one = ((used.j_per_step, "step"), (used.j_per_sample, "sample"), (used.j_per_token, "token"))
    rates = ", ".join(f"{format_si(amount, 'J')} a {what}" for amount, what in of_one if amount is not None)
    yield f"{rates} (mean {format_si(used.mean_w, 'W')} by {used.source.upper()})"


def _money(cost: Cost) -> Iterator[str]:
    if cost.usd_per_1000_steps is None:
        return
    yield f"{usd(cost.usd_per_1000_steps)} for 1000 steps at {usd(cost.price_usd_per_hour)} an hour"
    for amount, what in (
        (cost.idle_usd_per_1000_steps, "idle"), (cost.recoverable_usd_per_1000_steps, "recoverable"),
    ):  # fmt: skip
        if amount:
            yield f"{usd(amount)} of it {what}"


def serving_lines(use: ServingUse) -> Iterator[tuple[str, str]]:
    """Requests and batches, latencies, each kind of steps, and what the server says: labels and sentences."""
    words = [f"{use.requests} requests" + (f", {use.failed} failed" if use.failed else "")] if use.requests else []
    rates = ((use.requests_per_s, "requests/s"), (use.tokens_per_s, "tokens/s"))
    words += [format_si(rate, unit) for rate, unit in rates if rate is not None]
    if use.mean_in_flight is not None:
        words.append(f"{significant(use.mean_in_flight)} in flight")
    if use.mean_batch is not None and use.largest_batch is not None:
        words.append(f"batch {significant(use.mean_batch)} of at most {use.largest_batch:g}")
    if words:
        yield "serving", " · ".join(words)
    for told, label in (
        (use.time_to_first_token, "first token"), (use.inter_token_latency, "per token"),
        (use.request_latency, "request"),
    ):  # fmt: skip
        if told is not None:
            yield label, _quantiles(told)
    for kind in use.steps:
        bound = f"{kind.bound}-bound" if kind.bound else "none of them recorded"
        share = format_fraction(kind.share_fraction, 0)
        yield kind.kind, f"{bound} · {kind.n} steps, p50 {format_time(kind.p50_s)}, {share} of the time"
    if use.server is not None:
        yield use.server, " · ".join(_server(use)) or "no request was answered while it was watched"


def _quantiles(told: Latency) -> str:
    return f"p50 {format_time(told.p50_s)}, p95 {format_time(told.p95_s)}, p99 {format_time(told.p99_s)}"


def _server(use: ServingUse) -> Iterator[str]:
    for name, told in use.server_latencies.items():
        if isinstance(told, dict):
            yield f"{name.replace('_', ' ')} p50 {format_time(told.get('p50_s'))}, p95 {format_time(told.get('p95_s'))}"
