"""What stands behind the figures, in words: each count of a trace's quality is told, with what it means."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from builders import GPU, gpu_step, kernel, launch, op, step, write
from real_traces import trace_in

from probe.analyzers.diagnosis import diagnose
from probe.machine.device import Ceilings
from probe.readers.kineto import read
from probe.results.analysis import Analysis, Source
from probe.trace import Quality, Trace

CEILINGS = Ceilings("measured", "NVIDIA Test GPU", 3e12, {"float32": 60e12}, 2.5e-6)


def analysed(trace: Trace) -> Analysis:
    return diagnose(trace, Source("t.json", "kineto", None, trace.device.kind, 1, None, {}), CEILINGS).analysis


def reasons(folder: Path, events: list[dict[str, Any]], **head: Any) -> tuple[str, ...]:
    return analysed(read(write(folder, events, **{"deviceProperties": GPU, **head}))).quality.reasons


def test_a_whole_trace_gives_no_reasons(tmp_path: Path) -> None:
    found = analysed(read(write(tmp_path, gpu_step(), deviceProperties=GPU))).quality
    assert (found.included, found.excluded, found.reasons) == (11, 0, ())


def test_every_count_has_words_of_its_own(tmp_path: Path) -> None:
    whole = read(write(tmp_path, gpu_step(), deviceProperties=GPU))
    told = [f.name for f in fields(Quality) if f.name != "events"]
    said = {
        name: analysed(replace(whole, quality=replace(Quality(1000), **{name: 17}))).quality.reasons for name in told
    }
    assert all(len(reason) == 1 for reason in said.values()), said
    assert len(set(said.values())) == len(told)
    assert all(reason[0].startswith("17 ") for name, reason in said.items() if name != "truncated")


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (
            [*gpu_step(), kernel("k", 0, 5, 99, stream=8)],
            (
                "1 kernel or copy outside every recorded step, or of an earlier one",
                "1 kernel or copy without a launch or operator in the trace: launched before the recording began, "
                "or without a correlation id",
            ),
        ),
        (
            [step(1, 0, 100), op("x", 0, 9), *(kernel("k", 10 * n, 5, n) for n in (1, 2))],
            ("2 kernels or copies without a launch or operator in the trace: it records no runtime calls",),
        ),
        (
            [*gpu_step(), launch(9, 70), kernel("k", 75, 5, 9, stream=8)],
            ("1 kernel or copy without an operator: in no operator's figures",),
        ),
        (
            [*gpu_step(), op("x", 70, 5, **{"External id": 10**6}), kernel("k", 80, 5, 9, **{"External id": 10**6})],
            (
                "1 kernel or copy without a launch in the trace: launched before the recording began, "
                "or without a correlation id",
            ),
        ),
        (
            [*gpu_step(), launch(9, 70), launch(10, 72)],
            ("2 launch calls without device work: it had not ended when the recording did",),
        ),
        (
            [*gpu_step(), op("replay", 70, 9), launch(9, 71, name="cudaGraphLaunch"), kernel("g", 80, 2, 9)],
            ("1 kernel or copy run by the replay of a graph: in the figures of the operator that replayed it",),
        ),
        (
            [*gpu_step(), op("a", 80, 2, **{"External id": 10**6}), op("b", 84, 2, **{"External id": 10**6})],
            ("1 operator with the external id of another: it names neither",),
        ),
        (
            [*gpu_step(), op("a", 70, 10), op("b", 75, 10), launch(9, 76), kernel("k", 45, 1, 9)],
            (
                "1 kernel or copy begun before earlier work of the same stream had ended",
                "1 operator cut at the end of the operator that called it, which it outlasted",
            ),
        ),
        ([*gpu_step(), op("bad", 0, float("nan"))], ("1 event could not be read",)),
    ],
)
def test_hand_made_cases(tmp_path: Path, events: list[dict[str, Any]], expected: tuple[str, ...]) -> None:
    assert reasons(tmp_path, events) == expected


def test_a_device_that_probe_does_not_know(tmp_path: Path) -> None:
    events = [{**launch(1, 2, name="mtiaLaunch"), "cat": "mtia_runtime"}, op("x", 0, 5)]
    assert reasons(tmp_path, events, deviceProperties=[]) == ("1 event of a device that probe does not know: no roofs",)


def test_a_cut_file(tmp_path: Path) -> None:
    path = write(tmp_path, gpu_step(), deviceProperties=GPU)
    path.write_text(path.read_text()[:-1].rstrip("]"))
    assert analysed(read(path)).quality.reasons == ("the file is cut: what followed the cut is missing",)


def test_normal_traces_are_not_called_damaged(foreign_traces: Path) -> None:
    """What is normal for a format gives no reason; work of the step before the recording is said to be that."""
    for name in ("v100_resnet50_training", "v100_ns_resolution_rank0", "a100_nccl_rank0", "h100_bert_small"):
        said = analysed(trace_in(foreign_traces / f"{name}.json.gz")).quality.reasons
        assert all("outside every recorded step" in r for r in said), (name, said)


def test_work_of_an_earlier_step_is_told(tmp_path: Path) -> None:
    late = [step(1, 0, 100), op("aten::mm", 5, 10), launch(1, 6), kernel("k", 20, 30, 1)]
    plain = analysed(read(write(tmp_path, late, deviceProperties=GPU)))
    begun = analysed(read(write(tmp_path, [*late, kernel("k", 60, 30, 99)], deviceProperties=GPU)))
    assert not any("of an earlier step" in warning for warning in plain.warnings)
    assert any(warning.startswith("50% of the device's time") for warning in begun.warnings)
