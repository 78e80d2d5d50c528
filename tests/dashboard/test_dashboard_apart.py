"""Large sources are read in a process of their own: the same result, the same errors, nothing left running."""

import threading
import time
from pathlib import Path

import pytest
from dashboard_runs import SAMPLES

from probe.dashboard import apart
from probe.dashboard.apart import Readings, analysed, laid_out
from probe.errors import ProbeError, TraceError, UnavailableError
from probe.executors.processes import WorkerDied

RUN = str(SAMPLES / "transformer_step")


def ignored(_: str) -> None:
    """Nobody wants to know."""


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(apart, "LARGE_BYTES", 0)
    monkeypatch.setenv("PROBE_CACHE_DIR", str(tmp_path / "cache"))


def test_a_large_source_is_read_elsewhere_and_comes_out_the_same(large: None, monkeypatch: pytest.MonkeyPatch) -> None:
    here = analysed(RUN, ignored)
    monkeypatch.setattr("probe.examine.examine.examine", None)  # whoever reads in this process fails
    news: list[str] = []
    there = Readings().read(analysed, RUN, told=news.append)
    assert there.to_json() == here.to_json()
    assert any(said.startswith("reading") for said in news)
    index = Readings().read(laid_out, RUN, there, told=ignored)
    assert index.events > 1000 and all(lane.until_ns[-1] <= index.end_ns for lane in index.lanes)
    assert any(lane.until_ns is lane.end_ns for lane in index.lanes)  # held once, as it was made


def test_a_small_source_is_read_in_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "Processes", None)
    assert Readings().read(lambda source, told: source, RUN, told=ignored) == RUN


def test_an_address_is_taken_for_large() -> None:
    assert apart._large("s3://bucket/trace.json.gz")


def test_what_is_wrong_with_a_large_source_is_said_as_ever(large: None, tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text('{"traceEvents": [')
    with pytest.raises(TraceError) as told:
        Readings().read(analysed, str(broken), told=ignored)
    assert "broken.json" in str(told.value) and "\n" not in str(told.value)


def _sleeps(source: str, told: apart.Told) -> None:
    told("asleep")
    time.sleep(600)


def test_readings_end_with_the_server(large: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    readings, asleep, errors = Readings(), threading.Event(), []

    def reading() -> None:
        try:
            readings.read(_sleeps, RUN, told=lambda _: asleep.set())
        except ProbeError as error:
            errors.append(error)

    thread = threading.Thread(target=reading)
    thread.start()
    assert asleep.wait(120)
    readings.end()
    thread.join(60)
    assert not thread.is_alive() and isinstance(errors[0], WorkerDied) and not readings._running
    with pytest.raises(UnavailableError, match="has ended"):
        readings.read(_sleeps, RUN, told=ignored)
