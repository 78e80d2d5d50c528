"""Does the analysis of telemetry say what the readings say, and nothing where they are silent?"""

from typing import Any

import numpy as np
import pytest

from probe.analyzers.telemetry import RunFacts, telemetry_use, within
from probe.report.conditions import telemetry_words
from probe.telemetry import Judgement, Samples, Telemetry, TelemetryUse, Window

NS = 1_000_000_000
NAN = float("nan")
# Steps of ten seconds: waiting 0 to 10, recorded 10 to 12, after 12 to 30.
WINDOWS = (
    Window("wait", 0, 0, 10 * NS), Window("active", 5, 10 * NS, 11 * NS), Window("active", 6, 11 * NS, 12 * NS),
    Window("after", 7, 12 * NS, 30 * NS),
)  # fmt: skip
BUSY = {
    "gpu_utilisation_fraction": 0.98, "sm_clock_hz": 1.9e9, "clocks_event_reasons": 0.0, "power_w": 400.0,
    "busy_other_processes": 0.0, "refused_questions": 0.0, "ecc_uncorrected_errors": 0.0,
}  # fmt: skip
FIXED = {"gpus": {"GPU-a": {"max_sm_clock_hz": 1.98e9, "power_limit_w": 700.0}}, "via": "nvml", "period_s": 0.1}
HOST = {"gil_wait_s": 1e-4, "gc_pause_s": 0.0, "loop_run_queue_fraction": 0.001}


def readings(source: str, about: dict[str, Any], **columns: Any) -> Samples:
    """A reading each second, from 0 to 29; a column is one value, or one for each."""
    at = np.arange(30, dtype=np.int64) * NS + 1
    values = {name: np.broadcast_to(np.asarray(value, float), 30).copy() for name, value in columns.items()}
    entity = "GPU-a" if source in ("nvml", "dcgm") else "host"
    return Samples(source, at, at, np.zeros(30, np.int32), (entity,), values, about)


def gpu(**changed: Any) -> Samples:
    return readings("nvml", FIXED, **{**BUSY, **changed})


def host(**changed: Any) -> Samples:
    return readings("host", {"via": "heartbeat", "period_s": 0.1}, **{**HOST, **changed})


def used(*samples: Samples, windows: tuple[Window, ...] = WINDOWS, **facts: Any) -> TelemetryUse:
    return telemetry_use(Telemetry(samples, windows), {}, RunFacts(**facts))


def codes(use: TelemetryUse) -> list[str]:
    return [judgement.code for judgement in use.judgements]


def only(use: TelemetryUse) -> Judgement:
    (judgement,) = use.judgements
    return judgement


def test_windows_are_bare_recorded_and_all() -> None:
    told = Telemetry((), WINDOWS)
    assert [int(within(gpu(), told, window).sum()) for window in ("all", "bare", "recorded")] == [30, 28, 2]
    assert within(gpu(), Telemetry(), "all").all() and not within(gpu(), Telemetry(), "bare").any()
    calibrating = Telemetry((), (Window("calibrate", 0, 0, 5 * NS),))
    assert not within(gpu(), calibrating, "recorded").any() and within(gpu(), calibrating, "all").sum() == 5


def test_means_and_extremes_of_each_kind_of_step() -> None:
    power = np.full(30, 400.0)
    power[10:12] = 500.0
    power[3] = NAN
    found = {(q.name, q.window): q for q in used(gpu(power_w=power, energy_j=np.arange(30) * 400.0)).quantities}
    bare, recorded = found["power_w", "bare"], found["power_w", "recorded"]
    assert (bare.n, bare.mean, bare.low, bare.high) == (27, 400, 400, 400)
    assert (recorded.n, recorded.mean) == (2, 500) and found["power_w", "all"].high == 500
    assert found["energy_used_j", "recorded"].mean == 400 and found["energy_used_j", "all"].mean == 29 * 400
    assert not any(name in ("clocks_event_reasons", "energy_j", "ecc_uncorrected_errors") for name, _ in found)


def test_a_healthy_run_is_left_in_peace() -> None:
    assert used(gpu(), host(), bound="compute", step_s=0.1, data_wait_s=0.001, busy_fraction=0.97).judgements == ()


@pytest.mark.parametrize("mask", [0x8, 0x20, 0x40, 0x80])
def test_a_slowdown_is_told_with_its_share(mask: int) -> None:
    masks = np.zeros(30)
    masks[:15] = mask
    said = only(used(gpu(clocks_event_reasons=masks, sm_clock_hz=1.2e9)))
    assert said.code == "throttled" and said.entity == "GPU-a"
    assert "1.20 GHz of 1.98 GHz" in said.evidence[0] and "in 46% of the readings" in said.evidence[1]


def test_a_reason_among_few_readings_and_one_while_idle_are_not_told() -> None:
    rare = np.zeros(30)
    rare[:2] = 0x40
    assert used(gpu(clocks_event_reasons=rare)).judgements == ()
    idle = gpu(clocks_event_reasons=0x1, sm_clock_hz=3e8, gpu_utilisation_fraction=0.0)
    assert used(idle).judgements == ()


def test_a_power_cap_is_told_with_the_power() -> None:
    said = only(used(gpu(clocks_event_reasons=0x4, power_w=698, sm_clock_hz=1.3e9)))
    assert said.code == "power-capped" and said.evidence == (
        "SM clock 1.30 GHz of 1.98 GHz",
        "698 W drawn of 700 W allowed",
    )


def test_a_low_clock_without_a_reason_is_told() -> None:
    said = only(used(gpu(clocks_event_reasons=0x2, sm_clock_hz=0.99e9)))
    assert said.code == "low-clock" and "50% of its highest clock" in said.says
    assert "applications clocks setting in 100%" in said.evidence[1]
    assert used(gpu(sm_clock_hz=NAN, clocks_event_reasons=NAN)).judgements == ()


@pytest.mark.parametrize(
    ("bound", "dram", "busy", "code"),
    [("memory", 0.8, 1.0, "dram-saturated"), ("memory", 0.4, 0.5, "dram-saturated"), ("memory", 0.1, 1.0, "dram-idle"),
     ("memory", 0.45, 1.0, None), ("compute", 0.8, 1.0, "dram-busy"), ("compute", 0.2, 1.0, None),
     ("overhead", 0.9, 1.0, None), ("memory", 0.1, None, "dram-idle"), ("memory", 0.8, 0.01, "dram-saturated")],
)  # fmt: skip
def test_dram_confirms_or_contradicts_the_class(bound: str, dram: float, busy: float | None, code: str | None) -> None:
    found = codes(used(gpu(dram_active_fraction=dram, gpu_utilisation_fraction=0.9), bound=bound, busy_fraction=busy))
    assert found == ([] if code is None else [code])


def test_what_dcgm_says_counts_where_nvml_is_silent() -> None:
    dcgm = readings("dcgm", {"via": "dcgmi"}, dram_active_fraction=0.1, clocks_event_reasons=0x40)
    both = used(gpu(clocks_event_reasons=0x40), dcgm, bound="memory")
    assert codes(both) == ["throttled", "dram-idle"]


def test_other_processes_errors_and_refusals_are_told() -> None:
    xid, errors, refused = np.full(30, NAN), np.zeros(30), np.zeros(30)
    xid[20], errors[25:], refused[28:] = 79, 2, 12
    found = used(
        gpu(xid=xid, ecc_uncorrected_errors=errors, refused_questions=refused, busy_other_processes=1.0)
    ).judgements
    assert [one.code for one in found] == ["xid", "ecc", "refused", "neighbours"]
    assert "Xid 79" in found[0].says and "2 uncorrected" in found[1].says and "12 questions" in found[2].says


@pytest.mark.parametrize(("own", "whose"), [(1.0, "other processes took them"), (15.0, "own threads took them")])
def test_a_loop_without_a_core_names_whose_work_is_in_the_way(own: float, whose: str) -> None:
    machine = readings("machine", {}, machine_busy_cores=16.0, process_cpu_cores=own)
    said = only(used(host(loop_run_queue_fraction=0.3), machine))
    assert (said.code, said.entity) == ("neighbours", "host") and whose in said.says and "30% of the time" in said.says
    assert codes(used(host(loop_run_queue_fraction=0.3))) == ["neighbours"]


def test_the_gil_collections_and_quota_are_told() -> None:
    machine = readings("machine", {}, cgroup_throttled_fraction=0.25)
    found = used(host(gil_wait_s=5e-3, gc_pause_s=0.004), machine)
    assert codes(found) == ["gil-held", "gc-pauses", "cpu-quota"]
    assert "5.00 ms" in found.judgements[0].says and "4.0%" in found.judgements[1].says


@pytest.mark.parametrize(
    ("wait_s", "use", "starved"),
    [(0.05, 0.4, True), (0.05, NAN, True), (0.05, 0.99, False), (0.005, 0.1, False), (None, 0.1, False)],
)
def test_starvation_needs_a_wait_and_an_idle_device(wait_s: float | None, use: float, starved: bool) -> None:
    found = used(gpu(gpu_utilisation_fraction=use), host(), step_s=0.1, data_wait_s=wait_s)
    assert codes(found) == (["starved"] if starved else [])


def test_a_wall_clock_that_was_set_is_told_once() -> None:
    stepped = host()
    unix = stepped.unix_ns.copy()
    unix[15:] -= 90 * NS
    told = Samples("host", stepped.at_ns, unix, stepped.entity, stepped.entities, stepped.columns, stepped.about)
    both = used(told, Samples("machine", told.at_ns, unix, told.entity, told.entities, {}, {}))
    assert codes(both) == ["clock-set"] and "set back by 90.0 s" in only(both).says


def test_few_readings_conclude_nothing_and_no_windows_count_the_whole_run() -> None:
    short = gpu(clocks_event_reasons=0x40)
    two = Samples("nvml", short.at_ns[:2], short.unix_ns[:2], short.entity[:2], short.entities,
                  {name: column[:2] for name, column in short.columns.items()}, FIXED)  # fmt: skip
    assert used(two).judgements == ()
    assert codes(used(short, windows=())) == ["throttled"]
    assert used().judgements == () and used().quantities == ()


def test_each_source_says_how_it_was_read_and_what_was_not() -> None:
    sources = {
        "nvml": {"via": None, "period_s": 0.1, "reason": "no library", "missing": {}},
        "dcgm": {"via": "dcgmi", "period_s": 1.0, "reason": None, "missing": {"GPU-a: x": "not supported"},
                 "unused": {"exporter": "refused"}},
        "odd": 3,
    }  # fmt: skip
    told = {one.source: one for one in telemetry_use(Telemetry((host(),)), sources, RunFacts()).sources}
    assert (told["nvml"].via, told["nvml"].hz, told["nvml"].reasons) == (None, None, {"nvml": "no library"})
    assert told["dcgm"].hz == 1.0 and told["dcgm"].reasons == {"GPU-a: x": "not supported", "exporter": "refused"}
    assert told["host"].hz == pytest.approx(10) and "odd" not in told


@pytest.mark.parametrize(
    ("bound", "columns", "says"),
    [("memory", {"dram_active_fraction": 0.8}, "confirmed"), ("memory", {"dram_active_fraction": 0.1}, "contradicted"),
     ("compute", {"dram_active_fraction": 0.8}, "doubtful"), ("compute", {"sm_active_fraction": 0.9}, "confirmed"),
     ("compute", {"sm_active_fraction": 0.1}, "contradicted"), ("compute", {"sm_active_fraction": 0.45}, None),
     ("compute", {"sm_active_fraction": 0.1, "dram_active_fraction": 0.8}, "contradicted"),
     ("host", {"gpu_utilisation_fraction": 0.99}, "doubtful"), ("host", {"gpu_utilisation_fraction": 0.5}, None),
     ("overhead", {"gpu_utilisation_fraction": 0.99}, "doubtful"), ("memory", {"sm_active_fraction": 0.1}, None)],
)  # fmt: skip
def test_the_class_gains_or_loses_confidence(bound: str, columns: dict[str, float], says: str | None) -> None:
    found = used(gpu(**columns), bound=bound, busy_fraction=1.0)
    assert (found.bound and found.bound.says) == says
    if found.bound is not None:
        assert found.bound.bound == bound and found.bound.evidence
        assert f"{bound}-bound is {says}" in telemetry_words(found)


def test_waiting_for_data_confirms_the_host_and_a_line_tells_the_readings() -> None:
    found = used(gpu(gpu_utilisation_fraction=0.4), bound="host", step_s=0.1, data_wait_s=0.05)
    assert found.bound is not None and found.bound.says == "confirmed"
    words = telemetry_words(found)
    assert words == "GPU busy 40.0 % · SM clock 1.90 GHz · power 400 W · host-bound is confirmed"
    assert telemetry_words(None) == telemetry_words(used()) == ""
