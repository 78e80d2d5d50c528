"""Tables of Nsight Compute, and the join of what they measured to a trace's kernels."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.analyzers.gpu.kernel_counters import function, join, per_group, spelling
from probe.errors import InputError
from probe.machine.device import Device
from probe.readers import assemble, ncu
from probe.readers.events import About, CollectiveEvents, Events, OpEvents, RuntimeEvents, WorkEvents, empty
from probe.readers.ncu import KernelCounters
from probe.trace import Annotations, LaunchShape, Trace

NOISE = "==PROF== Connected to process 7 (python)\nepoch 1, loss 0.5\n"
FLOP_METRICS = [metric for metric in ncu.METRICS if "sass" in metric]
LONG = ["ID", "Process ID", "Kernel Name", "Block Size", "Grid Size", "Metric Name", "Metric Unit", "Metric Value"]
ADD = "void at::native::vectorized_elementwise_kernel<(int)4, at::native::CUDAFunctor_add<float>>(int, T2, T3)"


def unit_of(metric: str) -> str:
    return "ns" if "time" in metric else "byte" if "bytes" in metric else "inst"


def all_metrics(value: str = "1000") -> dict[str, str]:
    return dict.fromkeys(ncu.METRICS, value) | {"sm__inst_executed_pipe_tensor.sum": "0"}


def table(rows: list[list[str]], noise: str = NOISE) -> str:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    return noise + text.getvalue()


def long_form(launches: list[dict[str, str]], name: str = ADD, units: dict[str, str] | None = None) -> str:
    rows = [LONG]
    for i, metrics in enumerate(launches):
        for metric, value in metrics.items():
            unit = (units or {}).get(metric, unit_of(metric))
            rows.append([str(i), "7", name, "(128, 1, 1)", "(8, 1, 1)", metric, unit, value])
    return table(rows)


def wide_form(launches: list[dict[str, str]]) -> str:
    head = ["ID", "Process ID", "Kernel Name", "Block Size", "Grid Size"]
    metrics = list(launches[0])
    rows = [head + metrics, [""] * len(head) + [unit_of(metric) for metric in metrics]]
    rows += [[str(i), "7", ADD, "(128, 1, 1)", "(8, 1, 1)", *launch.values()] for i, launch in enumerate(launches)]
    return table(rows)


def parsed(tmp_path: Path, text: str) -> tuple[KernelCounters, ...]:
    path = tmp_path / "counters.csv"
    path.write_text(text)
    return ncu.read(path)


@pytest.mark.parametrize("form", [long_form, wide_form])
def test_both_forms_say_the_same(tmp_path: Path, form: object) -> None:
    launches = [all_metrics(), {**all_metrics(), "dram__bytes.sum": "27595520", "gpu__time_duration.sum": "117344.5"}]
    first, second = parsed(tmp_path, form(launches))  # type: ignore[operator]  # both are functions of the launches
    assert (first.id, first.name, first.grid, first.block) == (0, ADD, (8, 1, 1), (128, 1, 1))
    assert first.flops == 3 * (1000 + 1000 + 2 * 1000) and first.unknown == ()
    assert second.bytes == 27595520 and second.duration_s == pytest.approx(117344.5e-9)


@given(counts=st.lists(st.integers(0, 10**15), min_size=9, max_size=9))
def test_flops_are_counted_once_or_twice(tmp_path_factory: pytest.TempPathFactory, counts: list[int]) -> None:
    metrics = all_metrics() | dict(zip(FLOP_METRICS, (f"{n}.0" for n in counts), strict=True))
    (launch,) = parsed(tmp_path_factory.mktemp("ncu"), long_form([metrics]))
    expected = sum(n * (2 if "fma" in metric else 1) for metric, n in zip(FLOP_METRICS, counts, strict=True))
    assert launch.flops == pytest.approx(expected)


@pytest.mark.parametrize(
    ("unit", "value", "expected"),
    [
        ("byte", "1,234,567", 1_234_567), ("Kbyte", "12.50", 12_500), ("Mbyte", "2,000.00", 2e9),
        ("Gbyte", "1.5", 1.5e9), ("byte", "1e3", 1000), ("byte", "27595520", 27_595_520), ("byte", "0", 0),
    ],
)  # fmt: skip
def test_units_and_numbers_that_are_clear(tmp_path: Path, unit: str, value: str, expected: float) -> None:
    metrics = {"dram__bytes.sum": value}
    assert parsed(tmp_path, long_form([metrics], units={"dram__bytes.sum": unit}))[0].bytes == pytest.approx(expected)


@pytest.mark.parametrize("value", ["27.595.520", "65,77", "1.234,5", "117.344", "1,234", "27 595 520", "many", "1.2.3"])
def test_numbers_that_can_be_read_in_two_ways_are_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(InputError) as error:
        parsed(tmp_path, long_form([{"dram__bytes.sum": value}]))
    message = str(error.value)
    assert "line 4" in message and repr(value) in message and "--print-units base --print-fp" in message
    assert "\n" not in message


def test_other_numbers_decide_what_one_means(tmp_path: Path) -> None:
    metrics = {"dram__bytes.sum": "1,234", "dram__throughput.avg.pct_of_peak_sustained_elapsed": "65.77"}
    units = {"dram__throughput.avg.pct_of_peak_sustained_elapsed": "%"}
    assert parsed(tmp_path, long_form([metrics], units=units))[0].bytes == 1234
    ungrouped = {"dram__bytes.sum": "117.344", "gpu__time_duration.sum": "12345"}
    assert parsed(tmp_path, long_form([ungrouped]))[0].bytes == pytest.approx(117.344)
    with pytest.raises(InputError, match="two ways"):  # thousands are not set apart: the comma is a decimal one
        parsed(tmp_path, long_form([{"dram__bytes.sum": "117,344", "gpu__time_duration.sum": "12345"}]))


def test_a_unit_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'12' Mbit: the unit is not one of byte, Kbyte"):
        parsed(tmp_path, long_form([{"dram__bytes.sum": "12"}], units={"dram__bytes.sum": "Mbit"}))


def test_what_was_not_collected_is_unknown_with_the_reason(tmp_path: Path) -> None:
    (launch,) = parsed(tmp_path, long_form([{"dram__bytes_read.sum": "30", "dram__bytes_write.sum": "12"}]))
    assert launch.bytes == 42 and launch.duration_s is None and launch.flops is None
    assert any("gpu__time_duration.sum" in reason for reason in launch.unknown)
    (half,) = parsed(tmp_path, long_form([{"dram__bytes_read.sum": "30"}]))
    assert half.bytes is None and any("dram__bytes.sum" in reason for reason in half.unknown)
    single = {metric: value for metric, value in all_metrics().items() if "_op_d" not in metric}
    (partial,) = parsed(tmp_path, long_form([single]))
    assert partial.flops is None and "FLOP: instructions of double precision not collected" in partial.unknown
    (unread,) = parsed(tmp_path, long_form([all_metrics() | {"dram__bytes.sum": "n/a"}]))
    assert unread.bytes is None and unread.flops == 12_000


def test_work_of_tensor_cores_is_not_guessed(tmp_path: Path) -> None:
    (used,) = parsed(tmp_path, long_form([all_metrics() | {"sm__inst_executed_pipe_tensor.sum": "512"}]))
    assert used.flops is None and used.scalar_flops == 12_000 and used.tensor_instructions == 512
    assert any("tensor cores ran 512 instructions" in reason for reason in used.unknown)
    without = {metric: value for metric, value in all_metrics().items() if "tensor" not in metric}
    (unsure,) = parsed(tmp_path, long_form([without]))
    assert unsure.flops is None and any("tensor cores may have run" in reason for reason in unsure.unknown)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("==PROF== nothing was profiled\n", "not a table of Nsight Compute"),
        ("", "not a table of Nsight Compute"),
        ('"ID","Name"\n"0","a"\n', "no column Kernel Name"),
        ('"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"\n"0","a","b', "not CSV"),
        ('"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"\n"0","a","x__y.sum","","1"\n', "ncu --metrics"),
        ('"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"\n"x","a","b","","1"\n', "not a number"),
    ],
)
def test_a_file_that_is_no_such_table_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        parsed(tmp_path, text)
    assert "\n" not in str(error.value) and "counters.csv" in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        ncu.read(tmp_path / "none.csv")


@pytest.fixture
def samples(foreign_traces: Path) -> Path:
    """Tables made by others; the test is skipped where they are not at hand."""
    folder = foreign_traces.parent / "samples" / "ncu"
    if not folder.is_dir():
        pytest.skip("no folder samples/ncu beside the traces recorded by others")
    return folder


def test_tables_made_by_others(samples: Path) -> None:
    (launch,) = ncu.read(samples / "ncu_units_synthetic.csv")
    assert (launch.bytes, launch.duration_s) == (2e9, pytest.approx(0.01)) and launch.grid == ()
    with pytest.raises(InputError, match=r"line 4: dram__bytes.sum is '27\.595\.520' byte"):
        ncu.read(samples / "ncu_locale_eu_excerpt.csv")


SPELLINGS = [
    (
        "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>, std::array<char*, 3ul> >"
        "(int, at::native::CUDAFunctor_add<float>, std::array<char*, 3ul>)",
        "void at::native::vectorized_elementwise_kernel<(int)4, at::native::CUDAFunctor_add<float>, "
        "std::array<char *, (unsigned long)3>>(int, T2, T3)",
    ),
    (
        "void (anonymous namespace)::elementwise_kernel_with_index<int, at::native::arange_cuda_out(c10::Scalar const&,"
        " at::Tensor&)::{lambda()#1}::operator()() const::{lambda()#4}::operator()() const::{lambda(long)#1}>(int)",
        "void <unnamed>::elementwise_kernel_with_index<int, at::native::arange_cuda_out(const c10::Scalar &, "
        "at::Tensor &)::[lambda() (instance 1)]::operator ()() const::[lambda() (instance 4)]::operator ()() "
        "const::[lambda(long) (instance 1)]>(T1, T2, function_traits<T2>::result_type *)",
    ),
    (
        "void (anonymous namespace)::softmax_warp_forward<float, float, float, 6, false, false>(float*, float const*)",
        "void <unnamed>::softmax_warp_forward<float, float, float, (int)6, (bool)0, (bool)0>(T2 *, const T1 *)",
    ),
    (
        "void flash::flash_fwd_kernel<flash::Flash_fwd_kernel_traits<128, 64>, true>(flash::Flash_fwd_params)",
        "void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<(int)128, (int)64>, (bool)1>(flash::Flash_fwd_params)",
    ),
    ("nvjet_tst_96x64_64x10", "nvjet_tst_96x64_64x10"),
    ("ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)", "ncclDevKernel_SendRecv"),
]


@pytest.mark.parametrize(("kineto", "nsight"), SPELLINGS)
def test_two_demanglers_spell_one_name(kineto: str, nsight: str) -> None:
    assert spelling(kineto) == spelling(nsight)


def test_names_that_differ_stay_apart() -> None:
    assert len({spelling(kineto) for kineto, _ in SPELLINGS}) == len(SPELLINGS)
    add = "void vectorized_elementwise_kernel<4, CUDAFunctor_add<float> >(int)"
    assert spelling(add) != spelling(add.replace("float", "double")) != spelling(add.replace("4", "2"))
    assert spelling("void f<at::a_cuda(T&)::{lambda()#1}>()") != spelling("void f<at::b_cuda(T&)::{lambda()#1}>()")
    assert function(add) == "vectorized_elementwise_kernel"


def trace_of(*kernels: tuple[str, int, int]) -> Trace:
    """A trace of kernels (name, grid, start), launched in the order given."""
    count = len(kernels)
    names = (*dict.fromkeys(name for name, _, _ in kernels), "cudaLaunchKernel")
    grids = tuple(dict.fromkeys(grid for _, grid, _ in kernels))
    start = np.array([start for _, _, start in kernels], np.int64)
    numbers, zeros = np.arange(count, dtype=np.int64), np.zeros(count, np.int32)
    work = WorkEvents(
        name=np.array([names.index(name) for name, _, _ in kernels], np.int32),
        start_ns=start, end_ns=start + 5, device=zeros, stream=numbers, correlation=numbers,
        external_id=numbers - count, bytes=numbers,
        launch_shape=np.array([grids.index(grid) for _, grid, _ in kernels], np.int32),
        crosses_bus=zeros.astype(bool), graph=np.full(count, -1),
    )  # fmt: skip
    calls = RuntimeEvents(np.full(count, len(names) - 1, np.int32), zeros, numbers, numbers + 1, correlation=numbers)
    events = Events(
        names=names, signatures=(), threads=(), collective_calls=(), ops=empty(OpEvents), runtime=calls, kernels=work,
        launch_shapes=tuple(LaunchShape((grid, 1, 1), (128, 1, 1)) for grid in grids), copies=empty(WorkEvents),
        annotations=empty(Annotations), collectives=empty(CollectiveEvents),
    )  # fmt: skip
    return assemble.trace(events, About("made", Device("cuda", "test")))


def measured(name: str = ADD, flops: float | None = 10, moved: float | None = 100, grid: int = 8) -> KernelCounters:
    return KernelCounters(0, name, (grid, 1, 1) if grid else (), (128, 1, 1), 1e-6, moved, flops, flops, 0)


KINETO_ADD = "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float> >(int, float)"
KINETO_MUL = KINETO_ADD.replace("CUDAFunctor_add", "MulFunctor")


def test_launches_are_joined_in_their_order() -> None:
    trace = trace_of((KINETO_ADD, 8, 300), (KINETO_MUL, 8, 200), (KINETO_ADD, 8, 100))  # the last ran first
    found = join(trace, [measured(flops=1), measured(flops=2)])
    assert trace.kernels.start_ns.tolist() == [100, 200, 300]
    assert found.columns.matched.tolist() == [True, False, True] and (found.used, found.ambiguous) == (2, 0)
    np.testing.assert_array_equal(found.columns.flops, [2, np.nan, 1])


def test_grid_and_block_tell_launches_apart() -> None:
    found = join(trace_of((KINETO_ADD, 8, 0), (KINETO_ADD, 16, 10)), [measured(flops=1, grid=16)])
    np.testing.assert_array_equal(found.columns.flops, [np.nan, 1])


def test_launches_that_measured_the_same_stand_for_all_kernels() -> None:
    trace = trace_of(*((KINETO_ADD, 8, 10 * i) for i in range(4)))
    found = join(trace, [measured(moved=100), measured(moved=104)])
    assert found.columns.bytes.tolist() == [102] * 4 and found.used == 2
    other = join(trace, [measured(moved=100), measured(moved=150)])
    assert not other.columns.matched.any() and other.ambiguous == 4
    assert any("4 kernels could be any of several" in warning for warning in other.warnings)
    unsure = join(trace, [measured(flops=None), measured()])
    assert unsure.ambiguous == 4


def test_launches_of_no_kernel_are_counted() -> None:
    found = join(trace_of((KINETO_ADD, 8, 0)), [measured(), measured("_Z3addv"), measured(grid=99)])
    assert (found.launches, found.used) == (3, 1)
    assert any("2 of 3 measured launches" in w and "--print-kernel-base demangled" in w for w in found.warnings)


def test_a_name_without_arguments_stands_for_one_kernel_only() -> None:
    bare = measured("vectorized_elementwise_kernel")
    assert join(trace_of((KINETO_ADD, 8, 0)), [bare]).used == 1
    assert join(trace_of((KINETO_ADD, 8, 0), (KINETO_MUL, 8, 9)), [bare]).used == 0
    assert join(trace_of((KINETO_ADD, 8, 0), (KINETO_MUL, 16, 9)), [bare]).columns.matched.tolist() == [True, False]


def test_a_launch_without_a_grid_is_joined_by_name() -> None:
    found = join(trace_of((KINETO_ADD, 8, 0), (KINETO_MUL, 8, 9)), [measured(grid=0)])
    assert found.columns.matched.tolist() == [True, False]


def test_a_trace_without_kernels() -> None:
    found = join(replace(trace_of((KINETO_ADD, 8, 0)), kernels=trace_of((KINETO_ADD, 8, 0)).kernels.where(
        np.empty(0, np.int64))), [measured()])  # fmt: skip
    assert len(found.columns) == 0 and found.used == 0


def test_groups_are_measured_whole_or_not_at_all() -> None:
    trace = trace_of((KINETO_ADD, 8, 0), (KINETO_ADD, 16, 10), (KINETO_MUL, 8, 20), (KINETO_ADD, 8, 30))
    found = join(trace, [measured(flops=1, moved=10), measured(flops=3, moved=None, grid=16)])
    groups = per_group(found, np.array([0, 0, 1, 0], np.int32), 3)
    assert groups.kernels.tolist() == [3, 1, 0]
    np.testing.assert_allclose(groups.flops, [5 / 3, np.nan, np.nan])
    np.testing.assert_array_equal(groups.bytes, [np.nan] * 3)
    flops, _ = groups.per_call(np.array([2, 1, 0]))
    np.testing.assert_allclose(flops, [2.5, np.nan, np.nan])
    outside = per_group(found, np.array([0, 0, -1, 0], np.int32), 1)
    np.testing.assert_allclose(outside.flops, [5 / 3])
