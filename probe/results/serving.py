"""What do the requests to a server say of it? Types only; times in seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SCHEMA = 1
GAP_RATIO = 1.02  # from one bin of the gaps between tokens to the next: quantiles are exact to 2 %


@dataclass(frozen=True)
class RequestTimes:
    """The requests of one rank as they stand in run.json, each a row; ns from when the block was entered."""

    total: int = 0  # that ended, kept as a row or not
    failed: int = 0
    open: int = 0  # that had begun and not ended
    stride: int = 1  # every which request has a row
    arrival_ns: tuple[int, ...] = ()
    first_token_ns: tuple[int | None, ...] = ()
    end_ns: tuple[int, ...] = ()
    prompt_tokens: tuple[int | None, ...] = ()
    tokens: tuple[int, ...] = ()
    gaps: dict[str, int] = field(default_factory=dict)  # between tokens: log_GAP_RATIO(ns), rounded down -> how many
    pauses_ns: tuple[tuple[int, int], ...] = ()  # begin and end of each in which probe itself made the loop stand


@dataclass(frozen=True)
class Latency:
    """A distribution of times."""

    n: int
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    max_s: float


@dataclass(frozen=True)
class StepKind:
    """The steps that process prompts ("prefill", mixed ones among them), or a token of each sequence ("decode")."""

    kind: str
    n: int
    p50_s: float
    p95_s: float
    share_fraction: float  # of the time of all steps that said what they are
    tokens_per_s: float
    bound: str | None = None  # None: none of them was recorded
    bound_steps: int = 0  # recorded steps behind it


@dataclass(frozen=True)
class ServingUse:
    """What the analysis says of a server."""

    requests: int
    failed: int
    unfinished: int
    requests_per_s: float | None = None
    tokens_per_s: float | None = None
    prompt_tokens_per_s: float | None = None
    time_to_first_token: Latency | None = None
    inter_token_latency: Latency | None = None
    request_latency: Latency | None = None
    paused_s: float | None = None  # between first arrival and last end, by probe itself; in no rate and no mean
    mean_in_flight: float | None = None
    most_in_flight: int | None = None
    mean_batch: float | None = None  # sequences in a step, by step(samples=)
    largest_batch: float | None = None
    batch_occupancy_fraction: float | None = None  # mean over largest
    steps: tuple[StepKind, ...] = ()
    server: str | None = None  # whose page of metrics was read beside
    server_latencies: dict[str, Any] = field(default_factory=dict)  # its own quantiles, from its histograms
    reasons: dict[str, str] = field(default_factory=dict)  # what is not known: why
