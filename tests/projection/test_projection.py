"""A step elsewhere: what is known to move moves by its roofs, what is not stays, and the interval says what is open."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from builders import Event, copy, kernel, launch, op, shapes, step, write
from places import ROOT, SAMPLES

from probe import cli
from probe.analyzers.cost_models import Cost
from probe.analyzers.projection import devices
from probe.analyzers.projection.arguments import Carriers, carrying, with_batch, with_dtype
from probe.analyzers.projection.devices import all_targets, target
from probe.analyzers.projection.layout import Layout, Model, check
from probe.analyzers.projection.links import (
    Collective,
    Link,
    among_cores,
    best_seconds,
    path,
    seconds,
    spread_seconds,
    volume_bytes,
)
from probe.analyzers.projection.links import Path as LinkPath
from probe.analyzers.projection.move import Factor, Rates, moved
from probe.analyzers.projection.result import WhatIfResult
from probe.analyzers.projection.scale import Observed, crossover, curve, scaled
from probe.analyzers.projection.unfolding import unfolding_s
from probe.analyzers.projection.validated import MEASURED
from probe.analyzers.roofline import Placement
from probe.errors import UsageError
from probe.machine.datasheets import DATASHEETS
from probe.machine.device import Ceilings, Level
from probe.projecting.question import Wish
from probe.projecting.whatif import what_if
from probe.trace import Signature

H100 = [{"id": 0, "name": "NVIDIA H100 80GB HBM3", "computeMajor": 9, "computeMinor": 0, "numSms": 132}]
COST = Cost(1e9, 1e6, "matmul", "bfloat16")
EVEN = Rates(1.0, 1.0)


def placement(compute_s: float, memory_s: float) -> Placement:
    return Placement(compute_s, memory_s, "float32", 1.0, "DRAM", 1.0)


def recording(folder: Path, *, training: bool = False) -> Path:
    """10 ms of a memory-bound addition and 10 ms of a copy from the host, one after the other, twice as marked."""
    size = [1 << 28]
    events: list[Event] = []
    for n in range(2):
        at = n * 30_000
        events += [
            step(n, at, 29_000),
            op("aten::add", at + 10, 20, **shapes(size, size)),
            launch(10 * n + 1, at + 12, 3),
            kernel("add", at + 20, 1100, 10 * n + 1),
            op("aten::copy_", at + 40, 10, **shapes(size, size)),
            launch(10 * n + 2, at + 42, 3, name="cudaMemcpyAsync"),
            copy("Memcpy HtoD (Pinned -> Device)", at + 1130, 10_000, 10 * n + 2, 1 << 30),
            launch(10 * n + 3, at + 60, 28_000, name="cudaDeviceSynchronize"),
        ]
        if training:
            events.append(op("Optimizer.step#SGD.step", at + 28_500, 100))
    return write(folder, events, deviceProperties=H100)


def asked(source: Path, **wish: object) -> WhatIfResult:
    return what_if(str(source), Wish(**wish))  # type: ignore[arg-type]


def test_unchanged_device_takes_the_recorded_time(tmp_path: Path) -> None:
    found = asked(recording(tmp_path), onto=("H100 SXM",))
    assert found.targets[0].step_s == pytest.approx(found.base.step_s)
    assert found.base.replay_error_fraction == 0


def test_memory_traffic_scales_with_bandwidth_and_host_copies_stay(tmp_path: Path) -> None:
    found = asked(recording(tmp_path), onto=("H200",))
    rows = {row.name: row for row in found.targets[0].ops}
    assert rows["aten::add"].after_s == pytest.approx(1100e-6 * 3350 / 4800, rel=0.01)
    low, high = found.targets[0].interval_s
    assert low < found.targets[0].step_s < high
    saved = found.base.step_s - found.targets[0].step_s
    assert saved <= rows["aten::add"].before_s - rows["aten::add"].after_s + 1e-9


def test_removing_and_roofing_take_names_and_indices(tmp_path: Path) -> None:
    source = recording(tmp_path)
    gone = asked(source, remove=("aten::add",)).targets[0]
    at_roof = asked(source, roof=("aten::add",)).targets[0]
    row = next(row for row in gone.ops if row.name == "aten::add")
    assert row.after_s == 0
    assert gone.step_s <= at_roof.step_s
    with pytest.raises(UsageError, match="no operator of that index or name"):
        asked(source, remove=("aten::none",))


def test_every_device_has_facts_and_a_projection(tmp_path: Path) -> None:
    assert {sheet.device for sheet in DATASHEETS} == set(devices._FACTS)
    found = asked(recording(tmp_path), onto=("all",))
    assert len(found.targets) == len(all_targets())
    steps = [one.step_s for one in found.targets]
    assert steps == sorted(steps)
    priced = [one for one in found.targets if one.usd_per_step is not None]
    assert priced and all(one.price_origin for one in priced)


def test_a_price_given_replaces_the_table(tmp_path: Path) -> None:
    found = asked(recording(tmp_path), onto=("H200",), price=7.2).targets[0]
    assert found.usd_per_step == pytest.approx(7.2 * found.step_s / 3600)
    assert found.price_origin == "--price"
    assert found.j_per_step == pytest.approx(700 * found.step_s)


@pytest.mark.parametrize(("name", "near"), [("H100", "H100 SXM"), ("B300", "B200"), ("A100", "A100 80GB SXM")])
def test_unknown_devices_are_never_guessed(name: str, near: str) -> None:
    with pytest.raises(UsageError, match=near):
        target(name)


def test_what_has_no_model_leaves_the_interval_open() -> None:
    found = moved(Cost(None, None, "unknown"), placement(0, 0), placement(0, 0), 1.0, 0.0, Rates(0.5, 0.2))
    assert (found.value, found.low, found.high) == (0.5, 0.2, 1.0)


def test_starting_a_call_takes_what_it_took() -> None:
    found = moved(COST, placement(10e-6, 1e-6), placement(5e-6, 1e-6), 10e-6, 2e-6, EVEN)
    assert found.value == pytest.approx(0.2 + 0.8 * 0.5)


def test_crossing_to_the_other_roof_takes_that_roof() -> None:
    found = moved(COST, placement(10e-6, 9e-6), placement(1e-6, 9e-6), 10e-6, 0.0, EVEN)
    assert found.value == pytest.approx(0.9)
    assert found.low == pytest.approx(0.1)


def test_far_from_every_roof_it_may_stay_as_it_is() -> None:
    found = moved(COST, placement(1e-6, 0), placement(0.5e-6, 0), 10e-6, 0.0, EVEN)
    assert (found.value, found.high) == (pytest.approx(0.5), 1.0)


def test_time_beyond_the_arithmetic_goes_with_the_bytes_where_nothing_overlaps() -> None:
    found = moved(COST, placement(1.0, 0.5), placement(2.0, 0.6), 3.0, 0.0, EVEN, overlaps=False)
    assert found.value == pytest.approx((2.0 + 2.0 * 1.2) / 3.0)
    fast = moved(COST, placement(4.0, 0.5), placement(2.0, 0.6), 3.0, 0.0, EVEN, overlaps=False)
    assert fast.value == pytest.approx(0.5)


def test_leaving_a_cache_adds_the_slower_level_and_slows_nothing_else() -> None:
    inside = Placement(1.0, 1.0, "float32", 1.0, "L3", 100.0)  # 10 ms of traffic in 3 s
    outside = Placement(2.0, 2.0, "float32", 1.0, "DRAM", 10.0)
    found = moved(COST, inside, outside, 3.0, 0.0, EVEN, overlaps=False)
    assert found.value == pytest.approx((2.0 + 2.0 * 2 + (0.2 - 0.02)) / 3.0)


def test_a_type_that_is_unfolded_into_columns_takes_the_time_to_write_and_read_them() -> None:
    """By hand: 2 samples, 8 channels in and 4 out, a kernel of 3 by 3, 16 by 16 places."""
    ceilings = Ceilings("measured", "CPU", 1e9, {"float64": 1e9}, levels={"L2": Level(1 << 20, None, 4e9)})
    columns = 2 * 8 * 9 * 16 * 16
    arguments = signature((2, 8, 16, 16), (4, 8, 3, 3), dtype="double")
    cost = Cost(2.0 * columns * 4, 1e5, "convolution", "float64")
    assert unfolding_s("aten::mkldnn_convolution", cost, arguments, ceilings) == pytest.approx(2 * columns * 8 / 4e9)
    both = signature((2, 4, 16, 16), (2, 8, 16, 16), (4, 8, 3, 3), dtype="double")
    twice = replace(cost, flops=2 * (cost.flops or 0.0))
    assert unfolding_s("aten::convolution_backward", twice, both, ceilings) == pytest.approx(4 * columns * 8 / 4e9)
    small = Ceilings("measured", "CPU", 1e9, {"float64": 1e9})
    assert unfolding_s("aten::mkldnn_convolution", cost, arguments, small) == pytest.approx(2 * columns * 8 / 1e9)


@pytest.mark.parametrize(
    ("name", "dtype", "kernel"),
    [
        ("aten::mkldnn_convolution", "float32", 3),
        ("aten::mm", "float64", 3),
        ("aten::mkldnn_convolution", "float64", 1),
    ],
)
def test_nothing_else_is_unfolded(name: str, dtype: str, kernel: int) -> None:
    ceilings = Ceilings("measured", "CPU", 1e9, {"float64": 1e9})
    arguments = signature((2, 8, 16, 16), (4, 8, kernel, kernel))
    assert unfolding_s(name, Cost(1e6, 1e5, "convolution", dtype), arguments, ceilings) == 0


def test_what_stands_beside_a_call_is_neither_faster_nor_slower() -> None:
    """Of 10 ms 2 were something else that falls away and 3 come: (8 × 2 + 3) / 10."""
    assert Factor(2.0, 1.0, 4.0, "").beside(2e-3, 3e-3, 10e-3).value == pytest.approx(1.9)
    assert Factor(2.0, 1.0, 4.0, "same").beside(0.0, 0.0, 10e-3).why == "same"


def test_collectives_are_moved_by_no_roof() -> None:
    stays = moved(Cost(1.0, 1.0, "collective"), placement(1, 1), placement(2, 2), 1.0, 0.0, EVEN)
    assert stays == Factor(1.0, 1.0, 1.0, "kept")


def signature(*dims: Sequence[int], dtype: str = "float") -> Signature:
    return Signature(tuple(tuple(d) for d in dims), (dtype,) * len(dims))


def test_the_batch_is_found_through_flattened_and_head_dimensions() -> None:
    calls = [signature((8, 12, 64)), signature((96, 64), (64, 256)), signature((64, 96), (96, 256))]
    assert carrying(calls, 8) == Carriers(8, frozenset({8}), frozenset({8, 96}), frozenset({12}))
    assert [s.dims for s in with_batch(calls, 8, 2) if s] == [
        ((16, 12, 64),), ((192, 64), (64, 256)), ((64, 192), (192, 256)),
    ]  # fmt: skip


def test_the_batch_is_found_behind_the_length_of_a_transposed_sequence() -> None:
    """8 sequences of 12 with 4 heads, as nn.MultiheadAttention turns them; a weight of 12 × 8 stays."""
    calls = [signature((8, 12, 64), (8, 4, 12, 16)), signature((12, 8, 64), (3, 12, 8, 64), (12, 32, 16))]
    calls.append(signature((12, 8), (24, 8, 3)))
    assert [s.dims for s in with_batch(calls, 8, 2) if s] == [
        ((16, 12, 64), (16, 4, 12, 16)), ((12, 16, 64), (3, 12, 16, 64), (12, 64, 16)), ((12, 16), (24, 8, 3)),
    ]  # fmt: skip


def test_what_is_expanded_over_the_batch_stays_so() -> None:
    """A mean's gradient is one number: at another batch it is as little to read. Steps over the batch grow with it."""
    dims = ((8, 12, 64), (8, 12, 64), (12, 8, 64))
    strides = ((0, 0, 0), (768, 64, 1), (64, 768, 1))
    before = Signature(dims, ("float",) * 3, strides)
    (after,) = with_batch([before], 8, 2)
    assert after is not None and after.strides == ((0, 0, 0), (768, 64, 1), (64, 768, 1))
    (turned,) = with_batch([Signature(((8, 4), (12, 8, 64), (8, 12, 1)), ("float",) * 3, ((1, 8), (512, 64, 1)))], 8, 2)
    assert turned is not None and turned.strides == ((1, 16), (1024, 64, 1))


def test_weights_whose_sizes_the_batch_divides_stay() -> None:
    """8 pictures of 64 channels: a weight of 512 channels is not their product; heads of a batch are."""
    calls = [signature((8, 64, 16, 16), (512, 64, 3, 3)), signature((512, 16, 16), (8, 64))]
    assert [s.dims for s in with_batch(calls, 8, 2) if s] == [
        ((16, 64, 16, 16), (512, 64, 3, 3)), ((1024, 16, 16), (16, 64)),
    ]  # fmt: skip


def test_rows_that_could_be_features_are_not_guessed_at() -> None:
    with pytest.raises(UsageError, match="rows and features both come to 64"):
        with_batch([signature((64, 64), (64, 64))], 64, 2)


def test_a_batch_of_half_a_sample_is_refused() -> None:
    with pytest.raises(UsageError, match="whole number of samples"):
        with_batch([signature((3, 4))], 3, 0.5)


def test_another_type_leaves_whole_numbers_alone() -> None:
    mixed = Signature(((2,), (2,)), ("float", "long int"))
    assert [s.dtypes for s in with_dtype([mixed, None], "bfloat16") if s] == [("c10::BFloat16", "long int")]
    with pytest.raises(UsageError, match="write one of"):
        with_dtype([mixed], "int4")


@pytest.mark.parametrize(("kind", "sent"), [("all_reduce", 1.75), ("all_gather", 0.875), ("all_to_all", 0.875)])
def test_volumes_are_those_of_a_ring(kind: str, sent: float) -> None:
    assert volume_bytes(kind, 1.0, 8) == sent  # type: ignore[arg-type]
    assert volume_bytes(kind, 1.0, 1) == 0  # type: ignore[arg-type]


def test_trees_win_small_messages_and_rings_large_ones() -> None:
    way = path(Link.NVLINK4)
    assert best_seconds("all_reduce", 1e3, 64, way) == seconds("all_reduce", 1e3, 64, way, "tree")
    small, large = (seconds("all_reduce", size, 64, way, "ring") for size in (1e3, 1e9))
    assert large > small
    assert best_seconds("all_reduce", 1e9, 8, way, nvls=True) < best_seconds("all_reduce", 1e9, 8, way)


def test_nodes_cost_what_their_network_does() -> None:
    near, far = path(Link.NVLINK4), path(Link.NDR)
    inside = spread_seconds("all_reduce", 1e9, 8, 8, near, far)
    across = spread_seconds("all_reduce", 1e9, 16, 8, near, far)
    assert inside == best_seconds("all_reduce", 1e9, 8, near, nvls=True)  # eight are joined by switches that reduce
    assert spread_seconds("all_reduce", 1e9, 4, 8, near, far) == best_seconds("all_reduce", 1e9, 4, near)
    assert spread_seconds("all_reduce", 1e9, 8, 8, far, far) == best_seconds("all_reduce", 1e9, 8, far)
    assert inside < across < 1.25 * inside  # two nodes exchange what their switches reduced


def test_all_reduces_over_nodes_take_what_was_published_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    docs = projection_docs(monkeypatch)
    rows = [line.split("|") for line in "\n".join(docs._over_nodes()).splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(docs.PUBLISHED) == 4
    assert all(abs(float(row[5].strip(" %"))) < 10 for row in rows)


LINE = LinkPath("measured", 1e9, 1e-5)
CROWDED = among_cores("gloo", 1e9, 1e-5, 2, 2)


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "reduce_scatter"])
@pytest.mark.parametrize("size", [1e3, 1e6, 1e9])
@pytest.mark.parametrize("near", [path(Link.NVLINK4), LINE, CROWDED], ids=lambda way: way.name)
def test_more_nodes_never_take_less_time(kind: Collective, size: float, near: LinkPath) -> None:
    times = [spread_seconds(kind, size, ranks, 8, near, path(Link.NDR)) for ranks in (8, 16, 32, 64, 512)]
    assert times == sorted(times)


@pytest.mark.parametrize("kind", ["all_gather", "reduce_scatter"])
@pytest.mark.parametrize("size", [1e3, 1e6, 1e9])
def test_a_link_and_its_own_times_agree(kind: Collective, size: float) -> None:
    """What was measured of each size holds the latency of its hops, which are not counted once more."""
    sizes = [10.0**n for n in range(2, 11)]
    times = tuple((volume_bytes("all_reduce", n, 2), seconds("all_reduce", n, 2, LINE)) for n in sizes)
    measured = replace(LINE, times=times, among=2)
    for ranks in (8, 16, 64):
        for near, far in ((measured, path(Link.NDR)), (path(Link.NVLINK4), measured), (measured, measured)):
            lines = [LINE if way is measured else way for way in (near, far)]
            took_s = spread_seconds(kind, size, ranks, 8, near, far)
            assert took_s == pytest.approx(spread_seconds(kind, size, ranks, 8, *lines))


def test_nothing_takes_no_time_over_nodes() -> None:
    assert spread_seconds("all_reduce", 0.0, 16, 8, path(Link.NVLINK4), path(Link.NDR)) == 0


def test_the_bubble_is_the_schedules() -> None:
    layout = Layout(4, 1, pipeline=4, micro_batches=12)
    assert layout.bubble_fraction == pytest.approx(3 / 15)
    assert Layout(4, 1, pipeline=4, micro_batches=12, interleave=2).bubble_fraction == pytest.approx(3 / 27)
    model = Model(hidden=64, tokens=1024, layers=4)
    found = scaled(Observed(1.0, 0.0), layout, model, path(Link.NVLINK4), path(Link.NDR))
    assert found.compute_s == pytest.approx(0.25)
    assert found.bubble_s / (found.bubble_s + found.compute_s) == pytest.approx(0.2)


def test_zero_three_sends_half_as_much_again() -> None:
    model, ways = Model(parameters=1e9, gradient_bytes=2), (path(Link.NVLINK4), path(Link.NDR))
    volumes = [
        scaled(Observed(1.0, 0.0), Layout(8, 1, zero=stage), model, *ways).communication[0].volume_bytes
        for stage in (0, 1, 2, 3)
    ]
    assert volumes == pytest.approx([3.5e9, 3.5e9, 3.5e9, 5.25e9])


def test_observed_overlap_counts_where_the_run_communicated() -> None:
    model, ways = Model(parameters=1e9), (path(Link.ETHERNET100), path(Link.ETHERNET100))
    layout = Layout(8, 8)
    half = scaled(Observed(10.0, 0.0, overlap=0.5), layout, model, *ways).communication[0]
    assert half.exposed_s == pytest.approx(half.time_s / 2)


def test_communication_takes_over_where_the_network_is_slow() -> None:
    model, ways = Model(parameters=7e9), (path(Link.NVLINK4), path(Link.ETHERNET100))
    points = curve(Observed(0.1, 0.0), Layout(64, 8), model, *ways)
    assert [p.ranks for p in points] == [1, 2, 4, 8, 16, 32, 64]
    assert points[0].efficiency_fraction == pytest.approx(1.0)
    assert crossover(points) == 16


@pytest.mark.parametrize(
    ("layout", "model", "said"),
    [
        (Layout(6, 4), Model(parameters=1), "not the same number of ranks on each node"),
        (Layout(6, 1, tensor=4), Model(), "no product of"),
        (Layout(4, 1, tensor=4), Model(layers=2, hidden=4, tokens=1, heads=6), "does not divide the 6 attention heads"),
        (Layout(4, 1, pipeline=4), Model(layers=6, hidden=4, tokens=1), "does not divide the 6 layers"),
        (Layout(4, 1), Model(), "give --parameters"),
        (Layout(0, 1), Model(), "--ranks 0"),
        (Layout(4, 1, zero=4), Model(parameters=1), "ZeRO has stages"),
        (Layout(4, 1, expert=3), Model(parameters=1), "does not divide the 4 data-parallel ranks"),
        (Layout(4, 0), Model(parameters=1), "--nodes 0"),
        (Layout(4, 1, tensor=-2), Model(parameters=1), "--tensor -2"),
        (Layout(4, 1), Model(parameters=math.inf), "--parameters inf"),
        (Layout(4, 1), Model(parameters=1, gradient_bytes=math.nan), "--gradient-bytes nan"),
        (Layout(4, 1, tensor=2), Model(parameters=1, layers=2, hidden=2, tokens=1, heads=0), "--heads 0"),
        (Layout(4, 1), Model(parameters=1, layers=2, moe_layers=3), "--moe-layers 3: the model has 2 layers"),
    ],
)
def test_impossible_layouts_are_refused_in_a_line(layout: Layout, model: Model, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check(layout, model)


def test_the_command_prints_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(recording(tmp_path, training=True))
    arguments = ["--onto", "MI300X", "--ranks", "64", "--nodes", "8", "--parameters", "1e9", "--json"]
    assert cli.main(["whatif", source, *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "probe.whatif/1"
    assert set(found["base"]) >= {"device", "step_s"}
    [one] = found["targets"]
    assert {"device", "ranks", "step_s", "interval_s", "bound", "time_s", "usd_per_step", "j_per_step", "ops"} <= set(
        one
    )
    assert one["ranks"] == 64 and one["communication"][0]["kind"] == "all_reduce"
    assert set(found["validation"]) >= {"median_error_fraction", "n"}


def test_the_report_says_how_far_off_it_may_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["whatif", str(recording(tmp_path)), "--onto", "H200"]) == 0
    told = capsys.readouterr().out
    assert "would take" in told and "how far off: median" in told
    assert max(map(len, told.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing is asked"),
        (["--onto", "H300"], "near to it"),
        (["--batch", "2"], "give --batch-size"),
        (["--batch", "-1", "--batch-size", "8"], "give a factor above 0"),
        (["--batch", "nan", "--batch-size", "8"], "give a factor above 0"),
        (["--batch", "2", "--batch-size", "-8"], "whole number of samples"),
        (["--batch", "2", "--batch-size", "999"], "no recorded tensor begins with 999"),
        (["--dtype", "int4"], "write one of"),
        (["--roof", "9999"], "no operator of that index or name"),
        (["--onto", ""], "no such device is known"),
        (["--onto", "no.json"], "no such device is known"),
        (["--ranks", "0"], "'--ranks': Input should be greater than or equal to 1"),
        (["--ranks", "8", "--nodes", "3", "--parameters", "1e9"], "not the same number of ranks"),
        (["--onto", "H200", "--price", "-3"], "give US dollars"),
        (["--ranks", "8", "--link", "string"], "no such link"),
    ],
)
def test_bad_questions_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert cli.main(["whatif", str(recording(tmp_path)), *arguments]) == 2
    told = capsys.readouterr().err
    assert said in told and len(told.splitlines()) == 1


def test_a_trace_without_shapes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = [step(1, 0, 100), op("aten::mm", 0, 50), launch(1, 5, 2), kernel("gemm", 10, 80, 1)]
    source = write(tmp_path, events, deviceProperties=H100)
    assert cli.main(["whatif", str(source), "--onto", "H200"]) == 2
    assert "no shapes were recorded" in capsys.readouterr().err


def test_a_cpus_run_is_not_taken_to_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    source = SAMPLES / "resnet_step"
    assert cli.main(["whatif", str(source), "--onto", "H200"]) == 2
    assert "recorded on a CPU" in capsys.readouterr().err


def test_the_errors_that_are_told_are_those_that_were_measured() -> None:
    results = ROOT / "benchmarks" / "results"
    files = [results / f"projection.{name}.json" for name in ("devices", "pairs", "changes")]
    rows = [row for file in files for row in json.loads(file.read_text())]
    rows = [row for row in rows if row.get("memory", "returned") == "returned"]  # as programs find it
    for kind in {row.get("kind", "device") for row in rows} | set(MEASURED):
        errors = sorted(abs(row["error"]) for row in rows if row.get("kind", "device") == kind)
        told = MEASURED[kind]
        assert (told.n, told.median, told.worst) == (len(errors), round(median(errors), 3), round(errors[-1], 3))
        assert kind == "device" or (told.n >= 8 and (told.median or 1) < 0.15)


def projection_docs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program that writes the page of errors."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("projection_docs")


def test_the_page_of_errors_is_that_of_the_measured_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    root, docs = ROOT, projection_docs(monkeypatch)
    assert docs.text(root / "benchmarks" / "results") == (root / "docs" / "validation.md").read_text()
    told = root / "analyzers" / "projection" / "validated.py"
    assert docs.with_errors(told.read_text(), root / "benchmarks" / "results") == told.read_text()
