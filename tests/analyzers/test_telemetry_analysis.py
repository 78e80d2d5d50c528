"""Does the analysis of telemetry say what the readings say, and nothing where they are silent?"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import SAMPLES

import probe
from probe.analyzers.telemetry.bounds import OperatorFacts
from probe.analyzers.telemetry.overview import RunFacts, telemetry_use
from probe.analyzers.telemetry.readings import within
from probe.examine import telemetry as run_telemetry
from probe.report.conditions import telemetry_words
from probe.report.telemetry_phases import phase_words
from probe.results.analysis import Analysis
from probe.results.telemetry import Judgement, PhasesOfRows, Samples, Telemetry, TelemetryUse, Window
from probe.runs import telemetry_files
from probe.runs.run import RankPart

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


# --- phases -------------------------------------------------------------------------------------------------------


def phased(samples: Samples, *paths: tuple[str, ...], whole: int = 9) -> Samples:
    """The readings in turn in one of the paths; `whole` of a path were open ever since the reading before."""
    known = ((), *dict.fromkeys(path for path in paths if path))
    number = np.array([known.index(paths[row % len(paths)]) for row in range(len(samples))], np.int32)
    count = np.array([min(whole, len(paths[row % len(paths)])) for row in range(len(samples))], np.int32)
    return replace(samples, phases=PhasesOfRows(number, count, known))


def test_phases_have_shares_and_figures_of_their_own() -> None:
    power = np.where(np.arange(30) % 2, 100.0, 400.0)
    joules = 1e6 + np.cumsum(power)  # the counter at a reading: what was used since the one before is its own power
    one = phased(gpu(power_w=power, energy_j=joules), ("step", "forward"), ("step",))
    step, forward = used(one).phases
    assert (step.name, step.share_fraction, step.readings) == ("step", 1.0, 28)  # bare steps only
    assert (forward.name, forward.share_fraction, forward.readings) == ("forward", 0.5, 14)
    told = {q.name: q for q in forward.quantities}
    assert (told["power_w"].mean, told["power_w"].n, told["power_w"].window) == (400.0, 14, "bare")
    assert told["mean_power_w"].mean == pytest.approx(400) and told["energy_used_j"].mean == pytest.approx(13 * 400)
    assert {q.name: q.mean for q in step.quantities}["power_w"] == 250.0


def test_a_line_tells_the_longest_phases() -> None:
    two = used(phased(gpu(), ("forward",), ("forward",), ("back\x1bward",)), phased(host(), ("forward",)))
    assert phase_words(two).split(" · ") == [
        "forward 67.9 % (400 W, GPU busy 98.0 %, without a core 0.1 %)",
        "back\N{REPLACEMENT CHARACTER}ward 32.1 % (400 W, GPU busy 98.0 %)",
    ]
    short = used(phased(host(), ("short",), whole=0))
    assert phase_words(short) == "short 100.0 % · those without figures are shorter than the time between readings"
    assert phase_words(used(host())) == phase_words(None) == ""


def test_phases_that_are_too_short_have_a_share_and_a_reason() -> None:
    one = phased(host(), ("short",), (), (), whole=0)
    (short,) = used(one).phases
    assert short.share_fraction == pytest.approx(1 / 3, abs=0.05) and short.quantities == ()
    assert short.reason is not None and "100 ms" in short.reason and "sample more often" in short.reason
    outer, inner = used(phased(host(), ("outer", "inner"), whole=1)).phases
    assert outer.quantities and not inner.quantities and inner.reason is not None


def test_phases_of_two_sources_and_none() -> None:
    told = used(phased(gpu(), ("a",)), phased(host(), ("a",), ("b",)))
    assert [(one.name, one.readings) for one in told.phases] == [("a", 28)]  # the GPU's readings were as many
    assert {q.source for q in told.phases[0].quantities} == {"nvml", "host"}
    assert used(gpu(), host()).phases == ()
    many = used(phased(host(), *((f"p{number}",) for number in range(30))), windows=())
    assert len(many.phases) == 20


# --- operators ----------------------------------------------------------------------------------------------------


def operators(*ops: tuple[str, float], **columns: Any) -> dict[int, str]:
    """What is said of operators (class, seconds) of a step of 10 s in which kernels run for 8."""
    facts = tuple(OperatorFacts(index, "aten::x", bound, s) for index, (bound, s) in enumerate(ops))
    return {one.op: one.says for one in used(gpu(**columns), step_s=10.0, busy_s=8.0, ops=facts).ops}


@pytest.mark.parametrize(
    ("ops", "columns", "said"),
    [
        # DRAM was active for 1 s of the step: 0.2 at most of an operator of 5 s, anything of one of 2 s.
        ([("memory", 5.0), ("memory", 2.0)], {"dram_active_fraction": 0.1}, {0: "contradicted"}),
        # For 7 s: 4 of them at least in an operator of 5 s (others run 3 s), 0.8 of it; of 2 s: 1 at least, half.
        ([("memory", 5.0), ("memory", 2.0)], {"dram_active_fraction": 0.7}, {0: "confirmed"}),
        ([("compute", 5.0), ("unknown", 2.0)], {"dram_active_fraction": 0.7}, {0: "doubtful"}),
        ([("compute", 5.0), ("overhead", 3.0)], {"sm_active_fraction": 0.1}, {0: "contradicted"}),
        ([("compute", 5.0)], {"sm_active_fraction": 0.8}, {}),  # busy SMs may wait for memory
        ([("compute", 5.0)], {"sm_active_fraction": 0.8, "tensor_active_fraction": 0.65}, {0: "confirmed"}),
        ([("memory", 7.0), ("memory", 7.0)], {"dram_active_fraction": 0.1}, {}),  # kernels overlap
        ([("memory", 5.0)], {"dram_active_fraction": 0.95}, {}),  # the bare steps were not like the recorded ones
        ([("memory", 5.0)], {"dram_active_fraction": [0.0, 0.5] * 15}, {}),  # too uneven a mean
        ([("memory", 5.0)], {}, {}),
    ],
)  # fmt: skip
def test_an_operators_class_is_decided_only_where_limits_decide(
    ops: list[tuple[str, float]], columns: dict[str, Any], said: dict[int, str]
) -> None:
    assert operators(*ops, **columns) == said


def test_limits_are_the_evidence_and_several_gpus_say_nothing() -> None:
    facts = {"step_s": 10.0, "busy_s": 8.0, "ops": (OperatorFacts(4, "aten::mm", "memory", 5.0),)}
    one = gpu(dram_active_fraction=0.1)
    (told,) = used(one, **facts).ops
    assert (told.op, told.bound, told.name) == (4, "memory", "aten::mm")
    assert "DRAM active for 1.00 s" in told.evidence[0] and "runs for 5.00 s" in told.evidence[0]
    two = replace(one, entities=("GPU-a", "GPU-b"))
    assert used(two, **facts).ops == ()
    assert used(one, step_s=10.0, ops=facts["ops"]).ops == () and used(host(), **facts).ops == ()


def test_what_is_decided_stands_beside_the_operator_and_changes_no_figure(tmp_path: Path) -> None:
    def beside(dram: float) -> Analysis:
        clock, at = (5, 6), np.arange(30, dtype=np.int64)
        columns = {"dram_active_fraction": np.full(30, dram)}
        said = Samples("nvml", at, at, np.zeros(30, np.int32), ("GPU-a",), columns, {"via": "nvml"})
        telemetry_files.write_part(tmp_path / telemetry_files.part_name(0, "nvml", 0), said, {"clock": clock})
        part = RankPart(telemetry={"clock": {"monotonic_ns": 5, "unix_ns": 6}, "sources": {}})
        return run_telemetry.with_telemetry(analysis, tmp_path, part, None)

    base = probe.analyze(SAMPLES / "transformer_step")
    memory = replace(base.ops[0], index=7, name="aten::gelu", bound="memory", device_s=4.0, evidence=("its own",))
    steps = replace(base.steps, bare_mean_s=5.0, profiled_mean_s=5.0)
    on_gpu = replace(base.source, device_kind="cuda")
    use = replace(base.utilisation, device_busy_fraction=0.9)
    analysis = replace(base, ops=(memory,), steps=steps, source=on_gpu, utilisation=use, warnings=())
    idle = beside(0.02)
    assert idle.telemetry is not None and [one.says for one in idle.telemetry.ops] == ["contradicted"]
    evidence = idle.ops[0].evidence
    assert evidence[0] == "its own" and evidence[1].startswith("memory-bound is contradicted by telemetry: DRAM active")
    assert any(w.startswith("operator 7, aten::gelu: memory-bound is contradicted") for w in idle.warnings)
    assert replace(idle.ops[0], evidence=memory.evidence) == memory
    assert idle.to_json()["telemetry"]["ops"][0]["op"] == 7
    busy = beside(0.8)
    assert "memory-bound is confirmed by telemetry" in busy.ops[0].evidence[1]
    assert not any("operator 7" in warning for warning in busy.warnings)
    assert beside(0.4).ops == (memory,)


# --- units --------------------------------------------------------------------------------------------------------


def test_sources_that_contradict_each_other_in_a_unit_are_both_refused() -> None:
    two = used(gpu(power_w=400.0), readings("dcgm", FIXED, power_w=400e3, sm_clock_hz=1.9e9))
    (judgement,) = (one for one in two.judgements if one.code == "units")
    assert "NVML says power_w 400" in judgement.says and "DCGM says 400000" in judgement.says.replace(",", "")
    assert {q.name for q in two.quantities if q.source == "dcgm"} == {"sm_clock_hz"}
    assert not any(q.name == "power_w" for q in two.quantities)
    fine = used(gpu(power_w=400.0), readings("dcgm", FIXED, power_w=250.0))
    assert "units" not in codes(fine) and sum(q.name == "power_w" and q.window == "all" for q in fine.quantities) == 2
