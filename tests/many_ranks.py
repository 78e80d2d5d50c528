"""Analyses of many ranks by formula: times that a report is to show, with no simulation behind them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from probe.results.analysis import Analysis
from probe.results.multirank import ClockOffset, CollectiveRow, Rank, Straggler
from probe.results.scaling import Scaling, ScalingPoint

TRANSFER_S, COVERED_S, COMPUTE_S, STEP_S, HALF_S = 6e-3, 2e-3, 35e-3, 50e-3, 170e-6
NVLS = "reduced in the switch (NVLS): busbw by the formula for rings can exceed what the links carry"
PARTIAL = "not all its ranks are at hand: the last to come may be another, then bandwidths are lower than in truth"


def rank(number: int, late_s: float = 0.0, latest_s: float = 0.0, half_s: float = HALF_S) -> Rank:
    """A rank that waits until the latest has come, plus a transfer of which some is covered."""
    communication_s = latest_s - late_s + TRANSFER_S
    return Rank(
        rank=number,
        step_s=STEP_S + 1e-5 * (number % 7),
        communication_s=communication_s,
        exposed_communication_s=communication_s - COVERED_S,
        wait_s=latest_s - late_s,
        late_s=late_s,
        late_interval_s=(late_s - half_s, late_s + half_s),
        compute_s=COMPUTE_S,
    )


def ranks(count: int, late: dict[int, float] | None = None) -> tuple[Rank, ...]:
    """Ranks that come within 100 µs of each other, but for those given, late by these seconds."""
    lateness = {number: (number * 37 % 21 - 10) * 5e-6 for number in range(count)} | (late or {})
    latest_s = max(lateness.values())
    return tuple(rank(number, late_s, latest_s) for number, late_s in lateness.items())


def with_ranks(analysis: Analysis, count: int, late: dict[int, float] | None = None) -> Analysis:
    """`analysis` with so many ranks, the late ones named."""
    found = ranks(count, late)
    named = sorted((found[number] for number in late or {}), key=lambda r: -(r.late_s or 0.0))
    return replace(
        analysis,
        source=replace(analysis.source, ranks=count),
        ranks=found,
        clocks=tuple(clock(number) for number in range(count)),
        stragglers=tuple(
            Straggler(r.rank, r.late_s or 0.0, r.late_interval_s or (0.0, 0.0), 5.5e-4) for r in named
        ),
    )  # fmt: skip


def clock(number: int) -> ClockOffset:
    """Clocks of nodes of eight, known to ±2 µs; no drift."""
    offset_s = (number // 8) * -3e-4
    why = "the recording is too short to tell a drift: its standard error is 2.9 ppm"
    interval_s = (offset_s - 2e-6, offset_s + 2e-6)
    return ClockOffset(number, 0, offset_s, interval_s, None, 200, reason=why if number else None)


def collective(kind: str = "all_reduce", size: int | None = 1 << 22, n: int = 200, **more: Any) -> CollectiveRow:
    """A row whose bandwidths follow from its size."""
    took_s = 20e-6 + (size or 0) / 250e9
    algbw = None if size is None else size / took_s
    bus = None if algbw is None else algbw * 2 * 63 / 64
    row = CollectiveRow(
        kind=kind, message_bytes=size, group_size=64, n=n, present_ranks=64, duration_s=took_s,
        duration_interval_s=(took_s * 0.99, took_s * 1.02), min_s=took_s * 0.9, max_s=took_s * 1.4,
        algbw_bytes_per_s=algbw, busbw_bytes_per_s=bus,
        busbw_interval_bytes_per_s=None if bus is None else (bus / 1.02, bus / 0.99),
        median_over_min=1.15, imbalance=1.15, wait_s=361e-6,
    )  # fmt: skip
    return replace(row, **more)


COLLECTIVES = (
    collective(notes=(NVLS,)),
    collective("all_gather", 1 << 30, 40, notes=(PARTIAL,)),
    collective("reduce_scatter", 1 << 30, 30, notes=(NVLS, PARTIAL)),
    collective("all_to_all", None, 30, wait_s=None, imbalance=None),
    collective("broadcast", 65536, 12_000),
    collective("barrier", None, 9),
    collective("all_reduce", 8, 8),
    collective("send_recv", 4096, 2, group_size=2),
)

SCALING = Scaling(
    mode="weak",
    assumption="weak scaling: every rank does the same work in a step whatever their number",
    points=(
        ScalingPoint(8, 40, 0.100, 1.0, None, 1.0),
        ScalingPoint(16, 40, 0.104, 0.9615, (0.951, 0.978), 1.923),
        ScalingPoint(32, 40, 0.112, 0.8929, (0.88, 0.902), 3.5716),
        ScalingPoint(64, 40, 0.131, 0.7634, (0.7, 0.83), 6.1072),
    ),
    warnings=(),
)
