"""Findings about the host: in traces built event by event, for what no CPU shows, and in the order they are told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import GPU, Event, copy, event, kernel, launch, op, shapes, step, write
from real_traces import analysis_of

import probe
from probe.analyzers import diagnosis as diagnosis_module
from probe.analyzers.rules import catalogue
from probe.analyzers.rules.catalogue import RULES
from probe.analyzers.rules.context import Context
from probe.analyzers.rules.host import launches, pauses
from probe.analyzers.rules.order import order
from probe.results.findings import Finding

MS = 1000.0  # microseconds


def found(folder: Path, events: list[Event], code: str) -> Finding | None:
    """The finding of one rule in a GPU's trace."""
    folder.mkdir(exist_ok=True)
    analysis = probe.analyze(write(folder, events, deviceProperties=GPU))
    return next((f for f in analysis.findings if f.code == code), None)


def context_of(folder: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch, **head: Any) -> Context:
    """What the rules see of a trace."""
    seen: list[Context] = []

    def listening(context: Context, index_of_group: dict[int, int], **options: Any) -> Any:
        seen.append(context)
        return catalogue.findings(context, index_of_group, **options)

    monkeypatch.setattr(diagnosis_module, "findings", listening)
    probe.analyze(write(folder, events, **head))
    return seen[0]


class Device:
    """A loop whose host launches kernels on one stream; times in microseconds."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.host = 0.0
        self.device = 0.0
        self.calls = 0

    def kernel(self, name: str, duration: float, *, call: float = 3.0, operator: str = "aten::mm", **args: Any) -> None:
        """Launch a kernel and go on."""
        self.calls += 1
        begin = max(self.device + 1.0, self.host + 4.0)
        self.events += [
            op(operator, self.host, call + 4.0, **shapes([64, 64], [64, 64])),
            launch(self.calls, self.host + 2.0, call),
            kernel(name, begin, duration, self.calls, **args),
        ]
        self.host += call + 6.0
        self.device = begin + duration

    def copy(self, kind: str, size: int, duration: float, *, operators: tuple[str, ...] = ("aten::copy_",)) -> None:
        """Copy and wait until it is done, as from and to pageable memory."""
        self.calls += 1
        begin = max(self.device + 1.0, self.host + 6.0)
        end = begin + duration
        for depth, name in enumerate(operators):
            self.events.append(op(name, self.host + depth, end - self.host + 6.0 - 2 * depth))
        self.events += [
            launch(self.calls, self.host + 4.0, end - self.host - 3.0, name="cudaMemcpyAsync"),
            copy(f"Memcpy {kind}", begin, duration, self.calls, size),
        ]
        self.host, self.device = end + 8.0, end

    def operator(self, name: str, duration: float, **args: Any) -> None:
        """An operator of the host alone."""
        self.events.append(op(name, self.host, duration, **args))
        self.host += duration + 2.0

    def step(self, number: int, begin: float) -> None:
        """Mark all since `begin` as a step, until the device has done its work."""
        self.host = max(self.host, self.device) + 1.0
        self.events.append(step(number, begin, self.host - begin))


def steps_of(body: Any, count: int = 3) -> list[Event]:
    """A loop of some steps."""
    device = Device()
    for number in range(count):
        begin = device.host
        body(device)
        device.step(number, begin)
        device.host += 1.0
    return device.events


def busy(device: Device, kernels: int = 40) -> None:
    """Work that keeps the device busier than the host."""
    for _ in range(kernels):
        device.kernel("gemm", 50.0)


def read_value(device: Device) -> None:
    busy(device)
    device.copy("DtoH (Device -> Pageable)", 4, 2.0, operators=("aten::item", "aten::_local_scalar_dense"))
    device.host += 300.0  # Python decides something while the device idles
    busy(device)


def test_h02_a_value_that_is_read_in_every_step_empties_the_queue(tmp_path: Path) -> None:
    finding = found(tmp_path / "a", steps_of(read_value), "H02")
    assert finding is not None and finding.saving_s is not None
    assert 280e-6 < finding.saving_s < 340e-6
    assert "aten::item" in finding.evidence[0]
    assert found(tmp_path / "b", steps_of(lambda device: busy(device, 80)), "H02") is None


def test_h02_a_wait_costs_nothing_where_the_device_idles_as_long_between_all_kernels(tmp_path: Path) -> None:
    def slow_host(device: Device) -> None:
        for _ in range(40):
            device.kernel("gemm", 5.0)
            device.host += 60.0
        device.copy("DtoH (Device -> Pageable)", 4, 2.0, operators=("aten::item",))
        device.host += 50.0
        device.kernel("gemm", 5.0)

    assert found(tmp_path, steps_of(slow_host), "H02") is None


def test_h02_a_synchronisation_of_the_users_own(tmp_path: Path) -> None:
    def timed(device: Device) -> None:
        busy(device)
        device.events.append(launch(0, device.host, device.device - device.host + 2.0, name="cudaDeviceSynchronize"))
        device.host = device.device + 200.0
        busy(device)

    finding = found(tmp_path, steps_of(timed), "H02")
    assert finding is not None and finding.where is not None
    assert finding.where.startswith("cudaDeviceSynchronize")


def test_h03_a_size_that_depends_on_values(tmp_path: Path) -> None:
    def select(device: Device) -> None:
        busy(device)
        device.copy("DtoH (Device -> Pageable)", 8, 2.0, operators=("aten::index", "aten::nonzero"))
        device.host += 300.0
        busy(device)

    events = steps_of(select)
    finding = found(tmp_path / "a", events, "H03")
    assert finding is not None and "aten::index" in finding.evidence[0]
    assert found(tmp_path / "b", events, "H02") is None
    assert found(tmp_path / "c", steps_of(read_value), "H03") is None


@pytest.mark.parametrize(
    ("kind", "size", "told"),
    [
        ("HtoD (Pageable -> Device)", 1 << 22, True),
        ("HtoD (Pinned -> Device)", 1 << 22, False),
        ("HtoD (Pageable -> Device)", 1 << 12, False),
    ],
)
def test_h04_copies_from_pageable_memory(tmp_path: Path, kind: str, size: int, told: bool) -> None:
    def fed(device: Device) -> None:
        device.copy(kind, size, 400.0, operators=("aten::to", "aten::_to_copy", "aten::copy_"))
        busy(device)

    finding = found(tmp_path, steps_of(fed), "H04")
    assert (finding is not None) == told
    if finding is not None:
        assert finding.saving_s == pytest.approx(400e-6, rel=0.02)
        assert finding.how is not None and "pin_memory=True" in finding.how


def test_h05_tensors_that_are_copied_to_the_host(tmp_path: Path) -> None:
    def kept(size: int) -> Any:
        def body(device: Device) -> None:
            busy(device)
            device.copy("DtoH (Device -> Pageable)", size, 300.0, operators=("aten::to", "aten::copy_"))
            busy(device)

        return body

    finding = found(tmp_path / "a", steps_of(kept(1 << 22)), "H05")
    assert finding is not None and finding.saving_s is not None
    assert 300e-6 <= finding.saving_s < 360e-6
    assert found(tmp_path / "b", steps_of(kept(4)), "H05") is None


def test_h06_a_tensor_that_is_made_on_the_host(tmp_path: Path) -> None:
    def made(device: Device) -> None:
        busy(device, 10)
        device.operator("aten::zeros", 20.0)
        device.copy("HtoD (Pageable -> Device)", 1 << 12, 60.0, operators=("aten::to", "aten::copy_"))
        busy(device, 10)

    def kept(device: Device) -> None:
        busy(device, 10)
        device.copy("HtoD (Pageable -> Device)", 1 << 12, 60.0, operators=("aten::to", "aten::copy_"))
        busy(device, 10)

    assert found(tmp_path / "a", steps_of(made), "H06") is not None
    assert found(tmp_path / "b", steps_of(kept), "H06") is None


def loading(begin: float, duration: float) -> Event:
    name = "enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__"
    return event("user_annotation", name, begin, duration)


@pytest.mark.parametrize(("hidden", "told"), [(False, True), (True, False)])
def test_h07_only_a_wait_that_the_device_notices_counts(tmp_path: Path, hidden: bool, told: bool) -> None:
    def fed(device: Device) -> None:
        if hidden:
            device.kernel("gemm", 2000.0)
        device.events.append(loading(device.host, 1000.0))
        device.host += 1000.0
        busy(device)

    finding = found(tmp_path, steps_of(fed), "H07")
    assert (finding is not None) == told
    if finding is not None:
        assert finding.saving_s == pytest.approx(1e-3, rel=0.05)
        assert finding.how is not None and "num_workers=MORE" in finding.how


def thinking(device: Device, call: float = 3.0) -> None:
    for _ in range(20):
        device.kernel("gemm", 20.0, call=call)
    device.host = device.device + 500.0
    for _ in range(20):
        device.kernel("gemm", 20.0, call=call, operator="aten::add")


def test_h09_python_while_the_device_idles(tmp_path: Path) -> None:
    finding = found(tmp_path / "a", steps_of(thinking), "H09")
    assert finding is not None and finding.saving_s is not None
    assert 360e-6 < finding.saving_s < 420e-6  # four fifths of the pause
    assert finding.where == "between aten::mm and aten::add"
    assert found(tmp_path / "b", steps_of(busy), "H09") is None


def test_h09_a_pause_in_one_step_is_the_machines(tmp_path: Path) -> None:
    steps = [0]

    def once(device: Device) -> None:
        steps[0] += 1
        (thinking if steps[0] == 2 else lambda d: busy(d, 40))(device)

    assert found(tmp_path, steps_of(once), "H09") is None


def full(device: Device) -> None:
    """Launches that block until the device has taken the kernel, now and then; and one pause."""
    for _ in range(8):
        for _ in range(10):
            device.kernel("gemm", 60.0)
        device.kernel("gemm", 60.0, call=max(device.device - device.host - 60.0, 3.0))
    device.host = device.device + 1500.0


def test_h11_a_full_queue_silences_what_speaks_of_the_hosts_time(tmp_path: Path) -> None:
    finding = found(tmp_path / "a", steps_of(full), "H11")
    assert finding is not None and finding.saving_s is None
    assert found(tmp_path / "b", steps_of(full), "H09") is None
    assert found(tmp_path / "c", steps_of(busy), "H11") is None


def test_h12_launches_that_wait_for_their_kernels(tmp_path: Path) -> None:
    def blocking(device: Device) -> None:
        for _ in range(20):
            device.kernel("gemm", 40.0, call=50.0)
            device.host += 20.0

    finding = found(tmp_path / "a", steps_of(blocking), "H12")
    assert finding is not None and finding.how == "unset CUDA_LAUNCH_BLOCKING"
    assert found(tmp_path / "b", steps_of(lambda device: busy(device, 40)), "H12") is None


def test_e11_a_convolution_whose_algorithms_are_tried_again(tmp_path: Path) -> None:
    def convolve(kernels: int) -> Any:
        def body(device: Device) -> None:
            begin = device.host
            device.events.append(op("aten::cudnn_convolution", begin, 12.0 * kernels, **shapes([8, 3, 64, 64])))
            for number in range(kernels):
                device.calls += 1
                device.events += [
                    launch(device.calls, begin + 10.0 * number + 2.0),
                    kernel(f"algorithm{number}", begin + 60.0 * number + 8.0, 50.0, device.calls),
                ]
            device.host = device.device = begin + 62.0 * kernels + 10.0
            busy(device, 5)

        return body

    finding = found(tmp_path / "a", steps_of(convolve(8)), "E11")
    assert finding is not None and finding.saving_s == pytest.approx(7 * 50e-6)
    assert found(tmp_path / "b", steps_of(convolve(2)), "E11") is None


def test_e16_many_short_generated_kernels(tmp_path: Path) -> None:
    def compiled(name: str, duration: float) -> Any:
        def body(device: Device) -> None:
            for _ in range(150):
                device.kernel(name, duration)

        return body

    assert found(tmp_path / "a", steps_of(compiled("triton_poi_fused_add_0", 2.0)), "E16") is not None
    assert found(tmp_path / "b", steps_of(compiled("triton_poi_fused_add_0", 40.0)), "E16") is None
    assert found(tmp_path / "c", steps_of(compiled("elementwise_kernel", 2.0)), "E16") is None


def cpu_step(number: int, begin: float, pauses_us: tuple[float, ...]) -> Iterator[Event]:
    """A step of a CPU: operators of 1 ms and different names, each followed by a pause."""
    at = begin + 50.0
    for index, pause in enumerate(pauses_us):
        yield op(f"aten::op{index}", at, MS)
        at += MS + pause
    yield step(number, begin, at - begin)


def cpu_steps(*pauses_us: tuple[float, ...]) -> list[Event]:
    events: list[Event] = []
    begin = 0.0
    for number, lengths in enumerate(pauses_us):
        events += cpu_step(number, begin, lengths)
        begin = events[-1]["ts"] + events[-1]["dur"]
    return events


def tiny(name: str | None = None, interrupted_us: float = 0.0) -> list[Event]:
    """Steps of 700 operators of 2 µs, all inside one where it has a name; one of them is interrupted."""
    events: list[Event] = []
    for number in range(4):
        begin = number * 4000.0
        outer = [op(name, begin + 1, 3000.0, **shapes([8, 8]))] if name else []
        events += [step(number, begin, 3300.0), *outer]
        events += [op("aten::tanh", begin + 2 + 4 * at, 2.0, **shapes([8])) for at in range(700)]
        events.append(op("aten::tanh", begin + 3010, 2.0 + interrupted_us, **shapes([8])))
    return events


def overhead(folder: Path, events: list[Event], **head: Any) -> Finding | None:
    folder.mkdir(exist_ok=True)
    return next((f for f in probe.analyze(write(folder, events, **head)).findings if f.code == "H01"), None)


def test_h01_what_a_library_calls_is_no_dispatch_that_a_compiler_spares(tmp_path: Path) -> None:
    told = overhead(tmp_path, tiny())
    assert told is not None and told.saving_s is not None
    assert told.saving_s == pytest.approx(launches.SPARED * 2.8e-3, rel=0.05)
    assert overhead(tmp_path, tiny("aten::sequential")) is not None
    for name in ("aten::gru", "aten::bmm", "aten::linalg_solve_ex", "aten::_fft_r2c"):
        assert overhead(tmp_path, tiny(name)) is None


def test_h01_an_interrupted_call_is_no_overhead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(tmp_path, tiny(interrupted_us=280.0), monkeypatch)
    assert context.trace.host_ops.self_ns.max() == 282_000
    assert launches._usual_self_ns(context).max() == 2000


def test_h01_promises_nothing_where_backward_passes_are_differentiated(tmp_path: Path) -> None:
    events = tiny()
    events.append(op("aten::tanh_backward", 3200.0, 2.0, **shapes([8]), **{"Sequence number": 4, "Fwd thread id": 0}))
    told = overhead(tmp_path, events)
    assert told is not None and told.saving_s is None
    assert "torch.compile(" not in (told.how or "")


def read_and_filled(number: int, filling_us: float) -> Iterator[Event]:
    """A step that reads 80 values; each begins a list, which torch.tensor goes through."""
    at = begin = number * 80 * (14.0 + (3 * filling_us + 3.0 if filling_us else 0.0))
    for _ in range(80):
        yield op("aten::item", at, 4.0)
        at += 4.0 + 2 * filling_us
        if filling_us:
            yield op("aten::empty", at, 2.0)
            yield op("aten::lift_fresh", at + 2.0 + filling_us, 1.0)
            at += 3.0 + filling_us
        at += 10.0
    yield step(number, begin, at - begin)


@pytest.mark.parametrize("filling_us", [0.0, 40.0])
def test_h02_does_not_have_the_time_of_lists_made_into_tensors(tmp_path: Path, filling_us: float) -> None:
    events = [event_ for number in range(3) for event_ in read_and_filled(number, filling_us)]
    told = next(f for f in probe.analyze(write(tmp_path, events)).findings if f.code == "H02")
    assert told.saving_s == pytest.approx(80 * 14e-6, rel=0.1)


def test_h09_proposes_no_loader_to_a_program_without_one(tmp_path: Path) -> None:
    events: list[Event] = []
    for number in range(3):
        events += [step(number, 20 * MS * number, 20 * MS), op("aten::mm", 20 * MS * number + 9 * MS, 11 * MS)]
    told = next(f for f in probe.analyze(write(tmp_path, events)).findings if f.code == "H09")
    assert told.how is not None and "DataLoader" not in told.how


def test_h10_pauses_in_the_rhythm_of_pythons_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    switching = cpu_steps(*[(5100.0, 3.0, 5200.0, 5050.0, 3.0)] * 2)
    (match,) = pauses.other_threads(context_of(tmp_path, switching, monkeypatch))
    assert match.saving_s == pytest.approx(15.35e-3, rel=0.02)
    asleep = cpu_steps(*[(5100.0, 3.0, 3.0, 3.0, 3.0)] * 2)
    assert not list(pauses.other_threads(context_of(tmp_path, asleep, monkeypatch)))


def test_h15_a_pause_at_the_end_of_one_step_in_several(tmp_path: Path) -> None:
    rare = cpu_steps((3.0, 3.0), (3.0, 20 * MS), (3.0, 3.0), (3.0, 3.0))
    finding = next(f for f in probe.analyze(write(tmp_path, rare)).findings if f.code == "H15")
    assert finding.saving_s == pytest.approx(5e-3, rel=0.05)
    assert "one of the recorded steps goes on for 20" in finding.summary


def test_h15_a_short_pause_in_one_step_alone_is_the_machines(tmp_path: Path) -> None:
    alone = cpu_steps((3.0, 3.0), (3.0, 8 * MS), (3.0, 3.0), (3.0, 3.0))
    assert "H15" not in {f.code for f in probe.analyze(write(tmp_path, alone)).findings}


@pytest.mark.parametrize(("size", "there"), [([64, 64], True), ([4096, 4096], False)])
def test_h15_freeing_a_large_result_is_no_pause(tmp_path: Path, size: list[int], there: bool) -> None:
    events: list[Event] = []
    for number in range(3):
        at = number * 30 * MS
        events += [op("aten::relu", at + 50.0, 20 * MS - 50.0, **shapes(size)), step(number, at, 30 * MS)]
    assert ("H15" in {f.code for f in probe.analyze(write(tmp_path, events)).findings}) == there


def test_h15_the_end_of_the_recording_is_no_pause(tmp_path: Path) -> None:
    last = cpu_steps((3.0, 3.0), (3.0, 3.0), (3.0, 3.0), (3.0, 20 * MS))
    assert "H15" not in {f.code for f in probe.analyze(write(tmp_path, last)).findings}


def test_h15_what_the_pause_begins_with(tmp_path: Path) -> None:
    def saved(name: str) -> list[Event]:
        events: list[Event] = []
        for number in range(3):
            at = number * 30 * MS
            events += [op("aten::mm", at + 50.0, 10 * MS), *(op(name, at + 11 * MS + 5 * i, 2.0) for i in range(8))]
            events.append(step(number, at, 30 * MS))
        return events

    for name, word in (("aten::detach", "checkpoint"), ("aten::item", "logging"), ("aten::add_", "aten::add_")):
        findings = probe.analyze(write(tmp_path, saved(name))).findings
        assert word in next(f for f in findings if f.code == "H15").evidence[0]


def test_h12_filled_memory(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model, x = torch.nn.Linear(256, 256), torch.randn(64, 256)
    torch.use_deterministic_algorithms(True)
    try:
        with probe.profile(tmp_path / "run", wait=1, warmup=1, active=2) as prof:
            prof.quiet = True
            for _ in range(5):
                torch.empty(1 << 22)
                torch.empty(1 << 21)
                torch.empty(1 << 20)
                model(x)
                prof.step()
    finally:
        torch.use_deterministic_algorithms(False)
    findings = probe.analyze(tmp_path / "run").findings
    assert any(f.id == "H12:deterministic" for f in findings), findings


def finding(code: str, saving_s: float | None, saving_bytes: int | None = None) -> Finding:
    return Finding(
        id=code, code=code, rule="", title="", summary="", evidence=(), where=None, ops=(), saving_s=saving_s,
        saving_fraction=None, saving_bytes=saving_bytes, matched="order", replacement=None, how=None,
    )  # fmt: skip


def ordered(parts: dict[str, float], *findings: Finding) -> list[str]:
    host = {"H02", "H07", "H08", "H09", "H15"}
    return [findings[i].code for i in order(findings, parts, host)]


def test_a_step_that_waits_for_its_host_has_that_first() -> None:
    told = (
        finding("F04", 3.0),
        finding("H02", 1.0),
        finding("H07", 2.0),
        finding("F06", None, 10),
        finding("E03", 0.5),
    )
    waiting = {"compute": 2.0, "memory": 1.0, "host": 3.0, "overhead": 0.5}
    assert ordered(waiting, *told) == ["H07", "H02", "F04", "E03", "F06"]
    computing = waiting | {"compute": 4.0}
    assert ordered(computing, *told) == ["F04", "H07", "H02", "E03", "F06"]


def test_overhead_that_the_hosts_findings_do_not_explain_does_not_count() -> None:
    told = (finding("F24", 5.0), finding("H02", 0.5))
    assert ordered({"compute": 0.2, "host": 0.1, "overhead": 6.0}, *told) == ["F24", "H02"]


def test_what_says_more_of_another_is_the_first_of_those_without_seconds() -> None:
    told = (finding("M05", None, 9), finding("H08", None), finding("F04", 1.0), finding("H07", 2.0))
    assert ordered({"compute": 9.0, "host": 2.0}, *told) == ["H07", "F04", "H08", "M05"]
    assert ordered({"compute": 9.0, "host": 2.0}, *told[:3]) == ["F04", "M05", "H08"]
    timed = (finding("H09", 1.0), finding("H15", 2.0), finding("F01", 1.5))
    assert ordered({"compute": 9.0}, *timed) == ["H15", "F01", "H09"]


def test_memory_orders_what_saves_no_time() -> None:
    assert ordered({"compute": 1.0}, finding("F09", None, 5), finding("M05", None, 9)) == ["M05", "F09"]
    assert ordered({}) == []


@pytest.mark.parametrize(
    ("pace", "takes", "there"),
    [(170.0, 16.0, True), (20.0, 2.0, True), (20.0, 19.0, False), (20.0, 200.0, False)],
)
def test_h01_is_the_pace_of_the_host_against_the_devices(
    tmp_path: Path, pace: float, takes: float, there: bool
) -> None:
    """However long the kernels are: the device waits where the host takes longer from one launch to the next."""
    events, free = [], 0.0
    for i in range(60):
        begin = max(pace * i + 8, free)
        free = begin + takes
        events += [op("aten::add", pace * i, pace - 2), launch(i, pace * i + 2, 4), kernel("add", begin, takes, i)]
    told = found(tmp_path, [step(1, 0, max(60 * pace, free + 1)), *events], "H01")
    assert (told is not None) == there
    if told is not None:
        assert told.saving_fraction == pytest.approx(1 - takes / pace, abs=0.03)
        assert f"{pace:.0f}" in told.summary and "60 times per step" in told.summary


def test_h01_is_not_a_few_calls_that_take_long(tmp_path: Path) -> None:
    """Sixty launches 10 µs apart of kernels of 8 µs, and one call of 10 ms."""
    events = [launch(900, 700, 10_000, name="cudaMalloc")]
    for i in range(60):
        at = 10.0 * i if i < 40 else 10_400 + 10.0 * i
        events += [op("aten::add", at, 9), launch(i, at + 1, 2), kernel("add", at + 4, 8, i)]
    assert found(tmp_path, [step(1, 0, 11_100), *events], "H01") is None


def test_h01_leaves_out_what_lies_between_operators_of_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [op("aten::add", 10.0 * i, 4.0) for i in range(800)]
    context = context_of(tmp_path, [step(0, 0.0, 8000.0), *events], monkeypatch)
    rule = next(r for r in RULES if r.code == "H01")
    context.claimed.clear()
    (alone,) = rule.find(context)
    context.claimed.update(range(0, 800, 4))
    assert not list(rule.find(context))
    context.claimed.clear()
    context.claimed.update(range(100))
    (rest,) = rule.find(replace(context, claimed=context.claimed))
    assert alone.saving_s and rest.saving_s
    assert rest.saving_s == pytest.approx(alone.saving_s * 7 / 8, rel=0.02)


def test_operators_of_the_loader_and_of_the_compiler_are_none_of_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"
    events = [
        step(1, 0, 1000), event("user_annotation", loader, 0, 100),
        op("aten::stack", 10, 20), op("aten::mul", 50, 10),
        op("aten::mm", 110, 20), op("aten::mul", 600, 10),
        op("entire_frame_compile", 200, 300), op("aten::add", 210, 10),
        op("aten::exp", 20, 500, tid=5),
    ]  # fmt: skip
    context = context_of(tmp_path, events, monkeypatch)
    assert sorted([unit.name for unit in run] for run in context.runs) == [["exp"], ["mm", "mul"]]


def test_operators_without_a_gradient_have_no_backward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Autograd notes its next number with all that it sees: the last one to bear it, and what calls it, has it."""

    def numbered(name: str, start: float, duration: float, number: int, **args: Any) -> Event:
        return op(name, start, duration, **{"Sequence number": number, "Fwd thread id": 0, **args})

    events = [
        step(1, 0, 1000), numbered("aten::mul", 10, 5, 7), numbered("aten::add", 20, 5, 7),
        numbered("aten::linear", 30, 30, 7), numbered("aten::t", 32, 5, 7), numbered("aten::addmm", 40, 10, 8),
        numbered("aten::exp", 70, 5, 9),
        numbered("AddmmBackward0", 100, 50, 8, tid=2, **{"Fwd thread id": 1}),
        numbered("TBackward0", 160, 10, 7, tid=2, **{"Fwd thread id": 1}),
    ]  # fmt: skip
    context = context_of(tmp_path, events, monkeypatch)
    names, ops = context.trace.names, context.trace.host_ops
    row = {names[ops.name[i]]: i for i in range(len(ops))}
    backward = {name: [names[ops.name[i]] for i in context.backward_rows([at])] for name, at in row.items()}
    assert backward["aten::linear"] == backward["aten::t"] == ["TBackward0"]
    assert backward["aten::addmm"] == ["AddmmBackward0"]
    assert backward["aten::mul"] == backward["aten::add"] == backward["aten::exp"] == []


def test_real_traces(foreign_traces: Path) -> None:
    """What a reader of them finds: a full queue, pageable batches, and else silence."""
    told = {
        name: {f.code for f in analysis_of(foreign_traces / f"{name}.json.gz").findings}
        for name in ("v100_ns_resolution_rank0", "v100_resnet50_training", "h100_qwen_0.5b_chat")
    }
    assert "H11" in told["v100_ns_resolution_rank0"]
    assert "H04" in told["v100_resnet50_training"] and "H07" not in told["v100_resnet50_training"]
    assert not {"H01", "H02", "H07", "H09", "H15"} & told["h100_qwen_0.5b_chat"]
