"""What does a server of language models say of itself? vLLM, SGLang and TGI, by their pages of metrics.

Where the names come from:
- vLLM: vllm/v1/metrics/loggers.py at commit 005a810b; inter_token_latency_seconds and kv_cache_usage_perc took the
  place of time_per_output_token_seconds and gpu_cache_usage_perc, which versions before have.
- SGLang: python/sglang/srt/metrics/collector.py at commit 00ae9c15.
- Text Generation Inference: docs/source/reference/metrics.md at commit 53fdbe61. It tells no time to first token.

Rates and means are those since the reading before, from counters and the sums of histograms. Quantiles are over all the
time that was watched, linear within a histogram's bucket, as Prometheus' histogram_quantile does.
"""

from __future__ import annotations

import math
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from probe.collectors.prometheus import Page, PageError, fetch, parse
from probe.collectors.sampling import NotAvailable, Row, Tick

QUANTILES = (0.5, 0.95, 0.99)
TIMEOUT_S = 1.0


@dataclass(frozen=True)
class Server:
    """How one kind of server calls things; of several names the first that is on the page counts."""

    name: str
    prefix: str  # of all its metrics
    levels: Mapping[str, tuple[str, ...]]
    counters: Mapping[str, tuple[str, ...]]  # our name is that of the rate
    latencies: Mapping[str, tuple[str, ...]]  # histograms, in seconds


SERVERS = (
    Server(
        "vLLM", "vllm:",
        {
            "running_requests": ("vllm:num_requests_running",),
            "waiting_requests": ("vllm:num_requests_waiting",),
            "cache_used_fraction": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        },
        {
            "prompt_tokens_per_s": ("vllm:prompt_tokens_total",),
            "generated_tokens_per_s": ("vllm:generation_tokens_total",),
            "requests_per_s": ("vllm:request_success_total",),
            "preemptions_per_s": ("vllm:num_preemptions_total",),
        },
        {
            "time_to_first_token": ("vllm:time_to_first_token_seconds",),
            "inter_token_latency": ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),
            "request_latency": ("vllm:e2e_request_latency_seconds",),
            "queue_time": ("vllm:request_queue_time_seconds",),
            "prefill_time": ("vllm:request_prefill_time_seconds",),
            "decode_time": ("vllm:request_decode_time_seconds",),
        },
    ),
    Server(
        "SGLang", "sglang:",
        {
            "running_requests": ("sglang:num_running_reqs",),
            "waiting_requests": ("sglang:num_queue_reqs",),
            "cache_used_fraction": ("sglang:token_usage",),
        },
        {
            "prompt_tokens_per_s": ("sglang:prompt_tokens_total",),
            "generated_tokens_per_s": ("sglang:generation_tokens_total",),
            "requests_per_s": ("sglang:num_requests_total",),
            "preemptions_per_s": ("sglang:num_retracted_requests_total",),
        },
        {
            "time_to_first_token": ("sglang:time_to_first_token_seconds",),
            "inter_token_latency": ("sglang:inter_token_latency_seconds", "sglang:time_per_output_token_seconds"),
            "request_latency": ("sglang:e2e_request_latency_seconds",),
            "queue_time": ("sglang:queue_time_seconds",),
        },
    ),
    Server(
        "TGI", "tgi_",
        {"running_requests": ("tgi_batch_current_size",), "waiting_requests": ("tgi_queue_size",)},
        {
            "prompt_tokens_per_s": ("tgi_request_input_length_sum",),
            "generated_tokens_per_s": ("tgi_request_generated_tokens_sum",),
            "requests_per_s": ("tgi_request_success",),
        },
        {
            "inter_token_latency": ("tgi_request_mean_time_per_token_duration",),
            "request_latency": ("tgi_request_duration",),
            "queue_time": ("tgi_request_queue_duration",),
            "inference_time": ("tgi_request_inference_duration",),
        },
    ),
)  # fmt: skip


def refused(address: object) -> str | None:
    """Why this is no address of a page; None where it is one."""
    if not isinstance(address, str):
        return "not an address"
    try:
        parts = urllib.parse.urlsplit(address)
        parts.port  # noqa: B018 - raises where it is no number
    except ValueError as error:
        return f"not an address ({error})"
    return None if parts.scheme in ("http", "https") and parts.hostname else "not an http:// address"


@dataclass
class Reading:
    """A page reduced to what is asked of it; series of several engines or models are added up."""

    values: dict[str, float] = field(default_factory=dict)
    buckets: dict[str, dict[float, float]] = field(default_factory=dict)  # cumulative, by upper bound


def server_of(page: Page) -> Server | None:
    """Whose page this is; None where it is none of these servers'."""
    names = {metric.name for metric in page.metrics}
    return next((server for server in SERVERS if any(name.startswith(server.prefix) for name in names)), None)


def reduced(page: Page) -> Reading:
    """The page's series, added up over their labels; the mean where several say a fraction."""
    reading = Reading()
    counts: dict[str, int] = {}
    for metric in page.metrics:
        if not math.isfinite(metric.value):
            continue
        name, bound = metric.name, metric.labels.get("le")
        if name.endswith("_bucket") and bound is not None:
            buckets = reading.buckets.setdefault(name.removesuffix("_bucket"), {})
            edge = math.inf if bound == "+Inf" else float(bound)
            buckets[edge] = buckets.get(edge, 0.0) + metric.value
        else:
            reading.values[name] = reading.values.get(name, 0.0) + metric.value
            counts[name] = counts.get(name, 0) + 1
    for name, count in counts.items():
        if name.endswith(("_usage_perc", ":token_usage")):
            reading.values[name] /= count
    return reading


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """The quantile of a histogram of cumulative counts, linear within its bucket; None of an empty one.

    Beyond the last finite bound nothing is known: that bound is given.
    """
    edges = sorted(buckets)
    total = buckets[edges[-1]] if edges else 0.0
    if total <= 0:
        return None
    before, low = 0.0, 0.0
    for edge in edges:
        count = buckets[edge]
        if count >= share * total and count > before:
            return low if math.isinf(edge) else low + (edge - low) * (share * total - before) / (count - before)
        before, low = count, low if math.isinf(edge) else edge
    return low


class ServingSource:
    """One server's page, at every reading."""

    name = "serving"
    in_driver = False

    def __init__(self, address: str, timeout_s: float = TIMEOUT_S) -> None:
        self.via: str | None = None
        self.missing: dict[str, str] = {}
        self._address = address
        self._timeout_s = timeout_s
        self._labels: dict[str, dict[str, str]] = {}
        self._server: Server | None = None
        self._first: Reading | None = None
        self._last: Reading | None = None
        self._last_ns = 0

    def open(self) -> None:
        """Nothing: a server may start after the program does, and is asked again at each reading."""
        self.via = self._address

    def rest(self) -> None:
        return None

    def read(self, tick: Tick) -> Iterable[Row]:
        try:
            page = parse(fetch(self._address, self._timeout_s), self._labels)
        except PageError as error:
            raise NotAvailable(f"{self._address}: {error}") from error
        server = server_of(page)
        if server is None:
            raise NotAvailable(f"{self._address}: a page of metrics, but not vLLM's, SGLang's or TGI's")
        self._server = server
        now = reduced(page)
        before, elapsed_s = self._last, (tick.at_ns - self._last_ns) * 1e-9
        self._last, self._last_ns = now, tick.at_ns
        if self._first is None or _restarted(self._first, now):
            self._first, before = now, None
        yield server.name, {**_levels(server, now), **(_since(server, before, now, elapsed_s) if before else {})}

    def about(self) -> dict[str, Any]:
        """Which server it is, and the quantiles of its latencies since the first reading."""
        if self._server is None or self._first is None or self._last is None:
            return {}
        return {"server": self._server.name, "latencies": _latencies(self._server, self._first, self._last)}

    def close(self) -> None:
        return None

    def forget(self) -> None:
        return None


def _named(told: Mapping[str, Any], names: Iterable[str]) -> str | None:
    return next((name for name in names if name in told), None)


def _levels(server: Server, now: Reading) -> dict[str, float]:
    found = {ours: _named(now.values, names) for ours, names in server.levels.items()}
    return {ours: now.values[name] for ours, name in found.items() if name is not None}


def _since(server: Server, before: Reading, now: Reading, elapsed_s: float) -> dict[str, float]:
    """Rates and means since the reading before."""
    told: dict[str, float] = {}
    for ours, names in server.counters.items():
        name = _named(now.values, names)
        if name is not None and name in before.values and elapsed_s > 0:
            told[ours] = max(0.0, now.values[name] - before.values[name]) / elapsed_s
    for ours, names in server.latencies.items():
        name = _named(now.values, [f"{one}_count" for one in names])
        if name is None:
            continue
        total = name.removesuffix("_count") + "_sum"
        count = now.values[name] - before.values.get(name, 0.0)
        if count > 0 and total in now.values:
            told[f"{ours}_s"] = (now.values[total] - before.values.get(total, 0.0)) / count
    return told


def _restarted(first: Reading, now: Reading) -> bool:
    """Whether a counter fell: the server was started anew."""
    return any(now.values.get(n, 0.0) < v for n, v in first.values.items() if n.endswith(("_count", "_total")))


def _latencies(server: Server, first: Reading, last: Reading) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for ours, names in server.latencies.items():
        name = _named(last.buckets, names)
        if name is None:
            continue
        begun = first.buckets.get(name, {})
        buckets = {edge: count - begun.get(edge, 0.0) for edge, count in last.buckets[name].items()}
        n = buckets.get(math.inf, 0.0)
        if n > 0:
            told[ours] = {"n": int(n), **{f"p{share * 100:.0f}_s": quantile(buckets, share) for share in QUANTILES}}
    return told
