"""Are latencies, batches, and kinds of steps what happened; and is a server's own page read as it means it?"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from places import ROOT

from probe.analyzers.serving import gap_latency, kinds_of, latency, recorded_kinds, serving_use
from probe.api import analyze
from probe.collectors.prometheus import parse
from probe.collectors.sampling import NotAvailable, Tick
from probe.collectors.serving import ServingSource, quantile, reduced, refused, server_of
from probe.collectors.telemetry import settings_of
from probe.errors import UsageError
from probe.report.conditions import serving_lines
from probe.results.serving import RequestTimes
from probe.results.telemetry import Samples, Telemetry
from probe.runs.run import RankPart, StepTimes, decode, encode, load
from probe.session import profile
from probe.session import requests as marks
from probe.session import session as sessions
from probe.session.requests import Request, RequestLog, gap_bin
from probe.session.schedule import Tracer

MS = 1_000_000
NAN = float("nan")


@contextmanager
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """Time in milliseconds that only the test moves."""
    now = [0]
    monkeypatch.setattr(marks, "perf_counter_ns", lambda: now[0])

    def set_to(ms: float) -> None:
        now[0] = int(ms * MS)

    yield set_to


def test_a_request_is_noted_as_it_went(monkeypatch: pytest.MonkeyPatch) -> None:
    log = RequestLog()
    with clock(monkeypatch) as at:
        at(100)
        first = Request(log, prompt_tokens=7)
        at(150)
        first.token()
        at(160)
        first.token(2)
        with pytest.raises(KeyError), Request(log):
            raise KeyError
        at(170)
        first.end()
        first.end()
        first.token()
        Request(log)
    told = log.times(opened_ns=100 * MS)
    assert told == RequestTimes(
        2, 1, 1, 1, (60 * MS, 0), (None, 50 * MS), (60 * MS, 70 * MS), (None, 7), (0, 3), {str(gap_bin(10 * MS)): 1}
    )
    assert RequestLog().times(0) is None


def test_requests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    log = RequestLog(capacity=8)
    for _ in range(100):
        Request(log).end()
    told = log.times(0)
    assert told is not None and told.total == 100 and told.stride == 16 and len(told.end_ns) == 7


def test_threads_lose_nothing() -> None:
    log = RequestLog()

    def ask() -> None:
        for _ in range(500):
            with Request(log) as request:
                request.token()
                request.token()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = log.times(0)
    assert told is not None and (told.total, told.open, sum(told.gaps.values())) == (2000, 0, 2000)


def test_latencies_are_percentiles() -> None:
    found = latency(np.arange(1, 101) / 1000)
    assert found is not None and (found.n, found.max_s) == (100, 0.1)
    assert found.p50_s == pytest.approx(0.0505) and found.p99_s == pytest.approx(0.09901)
    assert latency([]) is None and gap_latency({}) is None


def test_gaps_in_bins_are_within_two_percent() -> None:
    rng = np.random.default_rng(1)
    gaps = rng.lognormal(np.log(20e6), 0.8, 5000)
    bins: dict[str, int] = {}
    for gap in gaps:
        name = str(gap_bin(int(gap)))
        bins[name] = bins.get(name, 0) + 1
    found = gap_latency(bins)
    assert found is not None and found.n == 5000
    for share, value in ((50, found.p50_s), (95, found.p95_s), (99, found.p99_s)):
        assert value == pytest.approx(np.percentile(gaps, share) * 1e-9, rel=0.025)
    assert found.mean_s == pytest.approx(gaps.mean() * 1e-9, rel=0.02)


def steps(*rows: tuple[float, float, float], phase: int = 0) -> StepTimes:
    """Steps of (milliseconds, samples, tokens); the first one is cold."""
    ms, samples, tokens = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    phases = np.full(len(rows), phase, np.uint8)
    return StepTimes((ms * MS).astype(np.int64), phases, 1, len(rows), samples=samples, tokens=tokens)


SERVED = steps((90, 1, 64), (40, 1, 64), (10, 4, 4), (10, 4, 4), (20, 8, 8), (5, NAN, NAN))


def test_prefill_and_decode_are_told_apart_by_their_tokens() -> None:
    kinds = kinds_of(SERVED)
    assert kinds is not None and kinds.tolist() == ["prefill", "prefill", "decode", "decode", "decode", ""]
    found = serving_use(RequestTimes(), SERVED, Telemetry(), {"decode": ("memory", 3)})
    assert found is not None
    prefill, decode_ = found.steps
    assert (prefill.kind, prefill.n, prefill.p50_s, prefill.bound) == ("prefill", 1, 0.04, None)  # not the cold one
    assert prefill.share_fraction == pytest.approx(0.5) and prefill.tokens_per_s == pytest.approx(1600)
    assert (decode_.n, decode_.p50_s, decode_.bound, decode_.bound_steps) == (3, 0.01, "memory", 3)
    assert found.largest_batch == 8 and found.mean_batch == pytest.approx((90 + 40 + 80 + 160) / 170)
    assert kinds_of(StepTimes(SERVED.durations_ns, SERVED.phases)) is None


def test_the_longest_run_of_recorded_steps_stands_for_its_kind() -> None:
    rows = [(1.0, 1.0, 64.0)] * 2 + [(1.0, 2.0, 2.0)] * 2 + [(1.0, 1.0, 64.0)] + [(1.0, 2.0, 2.0)] * 3
    told = steps(*rows)
    assert recorded_kinds(told, 0, 8) == {"prefill": (0, 1), "decode": (5, 7)}
    assert recorded_kinds(told, 3, 2) == {"decode": (3, 3), "prefill": (4, 4)}
    assert recorded_kinds(told, 20, 3) == {}


def test_rates_and_requests_in_flight() -> None:
    told = RequestTimes(
        3, 0, 0, 1, (0, 0, 500 * MS), (100 * MS, 200 * MS, None), (500 * MS, 1000 * MS, 1000 * MS), (4, 4, 4),
        (10, 20, 0), {},
    )  # fmt: skip
    found = serving_use(told, SERVED, Telemetry(), {})
    assert found is not None and (found.requests_per_s, found.tokens_per_s, found.prompt_tokens_per_s) == (3, 30, 12)
    assert found.mean_in_flight == 2 and found.most_in_flight == 2
    assert found.time_to_first_token is not None and found.time_to_first_token.mean_s == pytest.approx(0.15)
    assert found.inter_token_latency is None and "twice" in found.reasons["inter_token_latency"]
    assert serving_use(None, SERVED, Telemetry(), {}) is None


def test_pauses_of_probes_own_are_in_no_rate_and_no_mean() -> None:
    told = RequestTimes(
        2, 0, 0, 1, (100 * MS, 500 * MS), (None, None), (1200 * MS, 650 * MS), (4, 4), (10, 20), {},
        ((0, 50 * MS), (200 * MS, 600 * MS), (700 * MS, 1100 * MS), (1150 * MS, 1300 * MS)),
    )  # fmt: skip
    found = serving_use(told, SERVED, Telemetry(), {})
    assert found is not None and found.paused_s == pytest.approx(0.85)
    assert found.requests_per_s == pytest.approx(2 / 0.25) and found.tokens_per_s == pytest.approx(30 / 0.25)
    assert found.mean_in_flight == pytest.approx((100 + 2 * 50 + 100) / 250) and found.most_in_flight == 2
    assert found.request_latency is not None and found.request_latency.max_s == pytest.approx(1.1)  # as clients saw it
    only = RequestTimes(1, 0, 0, 1, (100 * MS,), (None,), (200 * MS,), (1,), (1,), {}, ((0, 300 * MS),))
    found = serving_use(only, SERVED, Telemetry(), {})
    assert found is not None and found.requests_per_s is None and found.mean_in_flight is None


def test_a_session_notes_when_it_makes_the_loop_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edge = Tracer.edge
    with clock(monkeypatch) as at:
        monkeypatch.setattr(sessions, "perf_counter_ns", marks.perf_counter_ns)
        begins = iter((200, 700))

        def slow(self: Tracer, steps: int, duration_ns: int) -> bool:
            at(next(begins) + 400)
            return edge(self, steps, duration_ns)

        monkeypatch.setattr(Tracer, "edge", slow)
        with profile(tmp_path / "r", wait=1, warmup=0, active=1, telemetry=False) as prof:
            prof.quiet = True
            at(100)
            request = prof.request()
            for ms in (200, 700, 1110):  # the first ends calibration, the second the recording; then nothing is done
                at(ms)
                prof.step()
            at(1200)
            request.end()
    told = load(tmp_path / "r").main.requests
    assert told is not None and told.pauses_ns == ((200 * MS, 600 * MS), (700 * MS, 1100 * MS))
    found = serving_use(told, SERVED, Telemetry(), {})
    assert found is not None and found.requests_per_s == pytest.approx(1 / 0.3) and found.mean_in_flight == 1


def test_pauses_are_bounded_and_begin_with_the_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "MOST_PAUSES", 8)
    log = RequestLog()
    log.pause(0, 5 * MS)
    Request(log).end()
    log.pause(MS, MS + 50_000)
    for number in range(1, 21):
        log.pause(number * 100 * MS, (number * 100 + number) * MS)
    told = log.times(0)
    assert told is not None and len(told.pauses_ns) < 8
    assert sum(end - begin for begin, end in told.pauses_ns) == sum(range(1, 21)) * MS  # none is forgotten
    assert list(told.pauses_ns) == sorted(told.pauses_ns)


def test_requests_are_kept_with_the_run() -> None:
    told = RequestTimes(1, 0, 0, 1, (5,), (None,), (9,), (None,), (0,), {"3": 4}, ((6, 7),))
    assert decode(encode(RankPart(requests=told)), "here").requests == told
    assert decode(encode(RankPart()), "here").requests is None


def test_sessions_that_observe_nothing_give_a_handle(tmp_path: Path) -> None:
    off = profile(enabled=False).request(3)
    with off as request:
        request.token()
    assert off.end() is None
    with profile(tmp_path / "r", telemetry=False) as prof:
        prof.step()
        with prof.request(prompt_tokens=5) as request:
            request.token()
    prof.request().token()
    told = load(tmp_path / "r").main.requests
    assert told is not None and (told.total, told.prompt_tokens, told.tokens) == (1, (5,), (1,))


VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="m"}} {running}
vllm:num_requests_running{{engine="1",model_name="m"}} 1.0
vllm:num_requests_waiting{{engine="0",model_name="m"}} 2.0
vllm:kv_cache_usage_perc{{engine="0",model_name="m"}} 0.5
vllm:kv_cache_usage_perc{{engine="1",model_name="m"}} 0.3
vllm:generation_tokens_total{{engine="0",model_name="m"}} {tokens}
vllm:time_to_first_token_seconds_bucket{{engine="0",le="0.1",model_name="m"}} {quick}
vllm:time_to_first_token_seconds_bucket{{engine="0",le="0.5",model_name="m"}} {all}
vllm:time_to_first_token_seconds_bucket{{engine="0",le="+Inf",model_name="m"}} {all}
vllm:time_to_first_token_seconds_sum{{engine="0",model_name="m"}} {sum}
vllm:time_to_first_token_seconds_count{{engine="0",model_name="m"}} {all}
"""
SGLANG = """sglang:num_running_reqs{model_name="m"} 3.0
sglang:num_queue_reqs{model_name="m"} 1.0
sglang:token_usage{model_name="m"} 0.25
"""
TGI = """tgi_batch_current_size 4
tgi_queue_size 0
tgi_request_generated_tokens_sum 120
"""


class Page:
    """A server on loopback whose page is the test's."""

    def __init__(self) -> None:
        self.text = ""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:  # noqa: N805 - http.server's name; self is the page
                body = self.text.encode()
                handler.send_response(200)
                handler.send_header("Content-Length", str(len(body)))
                handler.end_headers()
                handler.wfile.write(body)

            def log_message(handler, *args: Any) -> None:  # noqa: N805
                return None

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/metrics"


@pytest.fixture
def page() -> Iterator[Page]:
    told = Page()
    thread = threading.Thread(target=told.server.serve_forever)
    thread.start()
    yield told
    told.server.shutdown()
    thread.join()
    told.server.server_close()


def test_vllms_page_becomes_rates_means_and_quantiles(page: Page) -> None:
    source = ServingSource(page.address, timeout_s=5)
    source.open()
    page.text = VLLM.format(running=3.0, tokens=1000, quick=10, all=10, sum=0.5)
    ((entity, first),) = source.read(Tick(0, 10**9))
    assert entity == "vLLM"
    assert first == {"running_requests": 4.0, "waiting_requests": 2.0, "cache_used_fraction": 0.4}
    page.text = VLLM.format(running=0.0, tokens=1300, quick=12, all=20, sum=3.5)
    ((_, second),) = source.read(Tick(0, 3 * 10**9))
    assert second["running_requests"] == 1 and second["generated_tokens_per_s"] == 150
    assert second["time_to_first_token_s"] == pytest.approx(0.3)
    told = source.about()["latencies"]["time_to_first_token"]
    assert told["n"] == 10 and told["p50_s"] == pytest.approx(0.1 + 0.4 * 3 / 8)  # two below 0.1 s, eight below 0.5 s
    page.text = VLLM.format(running=0.0, tokens=5, quick=1, all=1, sum=0.1)  # started anew
    ((_, third),) = source.read(Tick(0, 4 * 10**9))
    assert "generated_tokens_per_s" not in third and "time_to_first_token" not in source.about()["latencies"]


def test_other_servers_and_pages_that_are_none(page: Page) -> None:
    source = ServingSource(page.address, timeout_s=5)
    source.open()
    assert source.about() == {}
    for text, expected in (
        (SGLANG, ("SGLang", {"running_requests": 3, "waiting_requests": 1, "cache_used_fraction": 0.25})),
        (TGI, ("TGI", {"running_requests": 4, "waiting_requests": 0})),
    ):
        page.text = text
        fresh = ServingSource(page.address, timeout_s=5)
        assert list(fresh.read(Tick(0, 1))) == [expected]
    page.text = "node_load1 0.5\n"
    with pytest.raises(NotAvailable, match="but not vLLM's"):
        list(source.read(Tick(0, 1)))
    page.server.shutdown()
    page.server.server_close()
    with pytest.raises(NotAvailable, match=page.address):
        list(ServingSource(page.address, timeout_s=0.5).read(Tick(0, 1)))


def test_quantiles_of_histograms() -> None:
    inf = float("inf")
    assert quantile({1.0: 0.0, 2.0: 10.0, inf: 10.0}, 0.5) == pytest.approx(1.5)
    assert quantile({1.0: 4.0, inf: 10.0}, 0.9) == 1.0  # beyond the last bound nothing is known
    assert quantile({1.0: 0.0, inf: 0.0}, 0.5) is None and quantile({}, 0.5) is None
    assert server_of(parse("up 1\n")) is None and reduced(parse("a NaN\n")).values == {}


def test_addresses_are_refused_before_training() -> None:
    settings = settings_of({"serving": "http://127.0.0.1:8000/metrics"})
    assert settings is not None and settings.serving_hz == 1
    for wrong in ("localhost:8000", 5, "ftp://x/", "http://x:port/"):
        assert refused(wrong)
        with pytest.raises(UsageError, match="serving"):
            settings_of({"serving": wrong})


def test_what_a_servers_page_said_is_in_the_analysis() -> None:
    about = {
        "server": "vLLM",
        "latencies": {"time_to_first_token": {"n": 9, "p50_s": 0.2, "p95_s": 0.4, "p99_s": None}},
    }
    one = np.array([1], np.int64)
    beside = Samples("serving", one, one, np.zeros(1, np.int32), ("vLLM",), {"running_requests": np.ones(1)}, about)
    found = serving_use(None, StepTimes(SERVED.durations_ns, SERVED.phases), Telemetry((beside,)), {})
    assert found is not None and found.server == "vLLM" and found.requests == 0
    assert list(serving_lines(found)) == [("vLLM", "time to first token p50 200 ms, p95 400 ms")]


def example(name: str) -> ModuleType:
    path = ROOT / "examples" / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.flaky(reruns=2)
def test_the_example_is_diagnosed(tmp_path: Path) -> None:
    served = example("serve_a_model.py").serve(tmp_path / "r", clients=2, requests=4, prompt=8, tokens=12)
    found = analyze(served)
    use = found.serving
    assert use is not None and (use.requests, use.failed, use.unfinished) == (8, 0, 0)
    assert use.time_to_first_token is not None and use.time_to_first_token.n == 8
    assert use.inter_token_latency is not None and use.inter_token_latency.n == 8 * 11
    assert {kind.kind for kind in use.steps} == {"prefill", "decode"}
    decode_ = next(kind for kind in use.steps if kind.kind == "decode")
    assert decode_.bound is not None and 1 <= decode_.bound_steps <= 20
    assert use.largest_batch == 2 and use.mean_in_flight is not None and 1 <= use.mean_in_flight <= 2
    text = str(found)
    assert "first token" in text and "decode" in text and "8 requests" in text
