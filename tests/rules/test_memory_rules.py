"""M01 to M05 and M07 on built traces of a GPU, and on real runs: what they find, and when they are silent."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import GPU, Event, kernel, launch, op, shapes, step, write
from memory_marks import memory
from real_traces import analysis_of

import probe
from probe.results.analysis import Analysis
from probe.results.findings import Finding

GIB = 1 << 30
DEVICE = [GPU[0] | {"totalGlobalMem": 80 * GIB}]
STEP_US = 1000.0


def analysed(folder: Path, events: list[Event]) -> Analysis:
    return probe.analyze(write(folder, events, deviceProperties=DEVICE))


def found(analysis: Analysis, code: str) -> Finding | None:
    return next((f for f in analysis.findings if f.code == code), None)


def loop(
    calls: list[tuple[str, float, float, bool]], steps: range = range(3, 6), only: int | None = None
) -> list[Event]:
    """Steps of two kernels with a gap between them, and in it runtime calls: (name, start, duration, in the operator).

    The gap lasts from 300 to 700 µs of a step. only: the one step in which the calls are made.
    """
    events = []
    for index, number in enumerate(steps):
        start = index * STEP_US
        events += [
            step(number, start, STEP_US), op("aten::mm", start + 1, 250, **shapes([64, 64], [64, 64])),
            launch(10 * number, start + 2), kernel("gemm", start + 10, 290, 10 * number),
            op("aten::relu", start + 302, 390, **shapes([64, 64])),
            launch(10 * number + 1, start + 690), kernel("relu", start + 700, 290, 10 * number + 1),
        ]  # fmt: skip
        for name, at, duration, inside in calls if only in (None, number) else []:
            tid = 1 if inside else 2
            events.append(launch(-1, start + at, duration, name, tid))
    return events


MALLOC = ("cudaMalloc", 310, 300, True)


def test_allocating_in_every_step_is_found_with_the_time_it_takes(tmp_path: Path) -> None:
    finding = found(analysed(tmp_path, loop([MALLOC])), "M01")
    assert finding is not None and finding.saving_s == pytest.approx(300e-6)
    assert finding.where == "aten::relu" and "cudaMalloc once per step" in finding.evidence[0]
    assert "expandable_segments" in (finding.how or "")


def test_a_free_drains_the_queue_until_the_next_kernel(tmp_path: Path) -> None:
    finding = found(analysed(tmp_path, loop([("cudaFree", 310, 100, True)])), "M01")
    assert finding is not None and finding.saving_s == pytest.approx(390e-6)
    assert any("tried again" in fact for fact in finding.evidence)


@pytest.mark.parametrize(
    "events",
    [
        loop([MALLOC], range(3)),  # of which only the last is no longer new
        loop([MALLOC], only=3),  # and no more
        loop([("cudaMallocAsync", 310, 300, True)]),
        loop([("cudaMalloc", 30, 200, False)]),  # while the device is busy
        loop([]),
    ],
    ids=["warm-up", "once", "in order of the stream", "hidden", "none"],
)
def test_allocations_that_cost_nothing_in_the_long_run_are_left_alone(tmp_path: Path, events: list[Event]) -> None:
    analysis = analysed(tmp_path, events)
    assert found(analysis, "M01") is None and found(analysis, "M02") is None


def test_emptying_the_cache_is_found_instead(tmp_path: Path) -> None:
    calls = [("cudaFree", 310, 50, False), ("cudaFree", 365, 50, False), ("cudaMalloc", 500, 100, True)]
    analysis = analysed(tmp_path, loop(calls))
    finding = found(analysis, "M02")
    assert finding is not None and found(analysis, "M01") is None
    assert finding.saving_s == pytest.approx(390e-6) and "2 times per step" in finding.summary


def test_pinned_buffers_have_their_own_advice(tmp_path: Path) -> None:
    finding = found(analysed(tmp_path, loop([("cudaHostAlloc", 310, 300, True)])), "M01")
    assert finding is not None and "pin_memory" in (finding.how or "")


def gpu_memory(used: int, reserved: int, block: int, *, tiny: bool = False) -> list[Event]:
    """One step that takes and gives back a block in its forward pass; `used` bytes are there before."""
    length = 20 if tiny else 4000
    count = 40 if tiny else 1
    events = [step(4, 0, 5000)]
    for number in range(count):
        at = 10 + number * 120
        events += [
            op("aten::mm", at, 118, **shapes([64, 64], [64, 64])), launch(number + 1, at + 2),
            kernel("gemm", at + 20, length, number + 1),
        ]  # fmt: skip
    told = [memory(20, 512, block, used + block), memory(40, 512, -block, used)]
    for event in told:
        event["args"]["Total Reserved"] = reserved
    return events + told


def test_memory_that_is_nearly_full_is_found(tmp_path: Path) -> None:
    analysis = analysed(tmp_path, gpu_memory(70 * GIB, 76 * GIB, 4 * GIB))
    finding = found(analysis, "M03")
    assert finding is not None and finding.saving_s is None and "95.0 %" in finding.summary
    assert analysis.memory is not None and analysis.memory.peak_bytes == 74 * GIB
    assert analysis.memory.capacity_bytes == 80 * GIB and analysis.memory.reserved_peak_bytes == 76 * GIB
    assert found(analysed(tmp_path, gpu_memory(60 * GIB, 70 * GIB, 4 * GIB)), "M03") is None


def test_pieces_are_found_where_they_add_up(tmp_path: Path) -> None:
    finding = found(analysed(tmp_path, gpu_memory(10 * GIB, 20 * GIB, 2 * GIB)), "M04")
    assert finding is not None and finding.saving_bytes == 8 * GIB
    assert found(analysed(tmp_path, gpu_memory(10 * GIB, 15 * GIB, 2 * GIB)), "M04") is None
    assert found(analysed(tmp_path, gpu_memory(10 << 20, 30 << 20, 2 << 20)), "M04") is None


def test_a_large_transient_is_found_by_what_the_peak_falls(tmp_path: Path) -> None:
    finding = found(analysed(tmp_path, gpu_memory(10 * GIB, 16 * GIB, 5 * GIB)), "M05")
    assert finding is not None and finding.saving_bytes == 5 * GIB and "aten::mm" in finding.summary
    assert found(analysed(tmp_path, gpu_memory(60 * GIB, 66 * GIB, 5 * GIB)), "M05") is None


def test_room_for_a_larger_batch_is_told_where_it_would_help(tmp_path: Path) -> None:
    finding = found(analysed(tmp_path, gpu_memory(GIB, 4 * GIB, 2 * GIB, tiny=True)), "M07")
    assert finding is not None and finding.saving_s is None and "larger batch" in (finding.replacement or "")
    assert found(analysed(tmp_path, gpu_memory(50 * GIB, 60 * GIB, 2 * GIB, tiny=True)), "M07") is None


def test_without_allocations_the_rules_of_memory_say_nothing(tmp_path: Path) -> None:
    analysis = analysed(tmp_path, [e for e in gpu_memory(70 * GIB, 76 * GIB, 4 * GIB) if e["name"] != "[memory]"])
    assert not [f for f in analysis.findings if f.code.startswith("M")] and analysis.memory is None


@pytest.mark.parametrize(
    "name",
    ["h100_bert_small", "h100_qwen_0.5b_chat", "mi300x_qwen_0.5b_chat", "mi300x_resnet_checkpointing_rank0",
     "a100_training_rank3", "a100_alexnet_inference", "v100_resnet50_training"],
)  # fmt: skip
def test_real_steps_allocate_from_the_cache(foreign_traces: Path, name: str) -> None:
    analysis = analysis_of(foreign_traces / f"{name}.json.gz")
    codes = {f.code for f in analysis.findings}
    assert not codes & {"M01", "M02", "M03", "M04", "M05"}


def test_a_large_vocabulary_is_told_once(tmp_path: Path) -> None:
    """The cross-entropy's own rule comes first where there is one; the forecast knows the logits in any case."""
    torch = pytest.importorskip("torch")
    x, weight = torch.randn(320, 16), torch.nn.Parameter(torch.randn(16384, 16))
    targets = torch.randint(0, 16384, (320,))
    with probe.profile(tmp_path / "run", wait=1, warmup=1, active=2, telemetry=False, memory=True) as session:
        session.quiet = True
        for _ in range(4):
            weight.grad = None
            torch.nn.functional.cross_entropy(x @ weight.t(), targets).backward()
            session.step()
    analysis = probe.analyze(tmp_path / "run")
    assert analysis.memory is not None
    told = {f.change: f for f in analysis.memory.forecast}["fused or chunked cross-entropy"]
    assert told.saving_bytes > 2 * 320 * 16384 * 4
    assert sum(f.code in ("M05", "F09") for f in analysis.findings) == 1
