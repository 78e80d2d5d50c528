"""Are curves found whatever the suite, drawn within 80 columns, and merged and split without losing a measurement?"""

import io

import pytest
from rich.console import Console

from probe.report import curves, microbench_plots
from probe.report.curves import Span, arrange, merged, published, split
from probe.results.measurement import Measurement, Reference

KIB = 1 << 10


def row(suite: str = "new_suite", value: float = 1.0, unit: str = "B/s", **params: object) -> Measurement:
    metric = {"s": "latency", "FLOP/s": "flops_per_s"}.get(unit, "bandwidth")
    reference = params.pop("reference", None)
    assert reference is None or isinstance(reference, Reference)
    name = f"{suite} {' '.join(str(v) for v in params.values())}"
    return Measurement(
        suite, name, metric, unit, value, value, value, (value, value), 8, dict(params), reference=reference
    )


def sweep(sizes: int = 4, suite: str = "new_suite", **params: object) -> list[Measurement]:
    return [row(suite, value=10.0 + i, size_bytes=KIB << i, **params) for i in range(sizes)]


def test_what_tells_series_apart_is_found() -> None:
    rows = [
        m
        for operation in ("all_reduce", "broadcast")
        for ranks in (2, 4)
        for m in sweep(operation=operation, ranks=ranks, backend="gloo", latency_s=0.5)
    ]
    [figure], alone = arrange(rows)

    assert not alone
    assert [series.name for series in figure.series] == [
        "all_reduce · 2 ranks", "all_reduce · 4 ranks", "broadcast · 2 ranks", "broadcast · 4 ranks",
    ]  # fmt: skip


def test_a_parameter_that_follows_the_size_is_no_label() -> None:
    rows = [row(size_bytes=KIB << i, elements=256 << i, level=f"L{i}", cpu=i, shape=[i, i]) for i in range(4)]
    [figure], _ = arrange(rows)

    assert [series.labels for series in figure.series] == [{}]
    assert [series.name for series in figure.series] == [""]


def test_a_parameter_that_one_measurement_lacks_is_no_label_where_others_do() -> None:
    rows = [m for threads in (1, 2) for m in sweep(threads=threads, bytes_counted="STREAM")]
    del rows[1].params["bytes_counted"]
    [figure], _ = arrange(rows)

    assert [series.name for series in figure.series] == ["1 thread", "2 threads"]


def test_a_parameter_that_another_implies_is_no_label() -> None:
    stores = {"read": "none", "sum": "none", "copy": "ordinary", "copy_nt": "past"}
    rows = [
        m for kernel, s in stores.items() for threads in (1, 2) for m in sweep(stores=s, kernel=kernel, threads=threads)
    ]
    [figure], _ = arrange(rows)

    assert list(figure.series[0].labels) == ["kernel", "threads"]


def test_points_are_in_the_order_of_their_sizes() -> None:
    [figure], _ = arrange(sweep()[::-1])

    assert [figure.x(m) for m in figure.series[0].points] == [KIB << i for i in range(4)]


def test_two_points_make_no_curve_and_nothing_is_lost() -> None:
    rows = [*sweep(2), row("other", dtype="float32"), row("other", dtype="float64"), *sweep(3, kernel="copy")]
    figures, alone = arrange(rows)
    found = [m for figure in figures for series in figure.series for m in series.points]
    found += [m for group in alone for m in group.measurements]

    assert sorted(map(id, found)) == sorted(map(id, rows))
    assert len(figures) == 1
    assert [len(group.measurements) for group in alone] == [2, 2]


def test_units_and_metrics_are_not_mixed() -> None:
    figures, _ = arrange([*sweep(), *(row(value=1.0, unit="s", size_bytes=KIB << i) for i in range(3))])

    assert [figure.unit for figure in figures] == ["B/s", "s"]


def test_tlb_runs_along_lines() -> None:
    rows = [
        row("tlb", unit="s", lines=16 << i, layout=layout, page_bytes=page, size_bytes=(16 << i) * page, pages=16 << i)
        for layout, page in (("dense", 64), ("one a page", 4096))
        for i in range(4)
    ]
    [figure], _ = arrange(rows)

    assert figure.along == "lines"
    assert [series.name for series in figure.series] == ["dense", "one a page"]
    assert figure.tick(1024.0) == "1024"


def streams() -> list[Measurement]:
    return [
        row("memory_bandwidth", kernel=kernel, threads=threads, value=rate * threads / (i + 1), size_bytes=KIB << i)
        for kernel, rate in (("copy", 5.0), ("scale", 6.0), ("add", 9.0), ("triad", 7.0))
        for threads in (1, 2)
        for i in range(5)
    ]


def test_many_series_are_split_by_the_label_with_the_fewest_values() -> None:
    [figure], _ = arrange(streams())
    parts = split(figure)

    assert [part.title for part in parts] == ["memory bandwidth, 1 thread", "memory bandwidth, 2 threads"]
    assert [series.name for series in parts[0].series] == ["copy", "scale", "add", "triad"]
    assert {m.params["threads"] for series in parts[1].series for m in series.points} == {2}


def test_few_series_stay_together() -> None:
    [figure], _ = arrange([*sweep(kernel="copy"), *sweep(kernel="read")])

    assert split(figure) == (figure,)
    assert merged(figure) == figure


def test_merging_keeps_the_best_at_each_place() -> None:
    [figure], _ = arrange(streams())
    one = merged(figure)

    assert one.title == "memory bandwidth, best of 4 kernels"
    assert [series.name for series in one.series] == ["1 thread", "2 threads"]
    assert [m.params["kernel"] for series in one.series for m in series.points] == ["add"] * 10


def test_what_are_not_ways_to_do_the_same_is_not_merged() -> None:
    [figure], _ = arrange([m for operation in "abcde" for m in sweep(operation=operation, ranks=2)])
    some = merged(figure)

    assert some.title == "new suite: bandwidth, 3 of 5"
    assert some.series == figure.series[:3]


def test_the_best_of_times_is_the_least() -> None:
    assert curves.is_better(row(value=1.0, unit="s"), row(value=2.0, unit="s"))
    assert curves.is_better(row(value=2.0), row(value=1.0))


def test_levels_where_all_series_agree() -> None:
    levels = ("L1", "L1", None, "DRAM")
    rows = [row(size_bytes=KIB << i, kernel=k, level=level) for k in "ab" for i, level in enumerate(levels)]
    [figure], _ = arrange(rows)
    assert figure.levels == (Span(KIB, 2 * KIB, "L1"), Span(8 * KIB, 8 * KIB, "DRAM"))

    [other], _ = arrange([*rows[:4], *(row(size_bytes=KIB << i, kernel="b", level="L1") for i in range(4))])
    assert other.levels == ()


def test_published_ranges_are_stretches() -> None:
    l1, l2 = Reference(1.0, 2.0, "a"), Reference(3.0, 4.0, "b")
    references = (l1, l1, None, l2, l2, l2)
    rows = [row(size_bytes=KIB << i, reference=reference) for i, reference in enumerate(references)]
    [figure], _ = arrange(rows)

    assert list(published(figure, figure.series[0])) == [
        (Span(KIB, 2 * KIB, "a"), 1.0, 2.0),
        (Span(8 * KIB, 32 * KIB, "b"), 3.0, 4.0),
    ]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("threads", 1, "1 thread"),
        ("threads", 8, "8 threads"),
        ("kernel", "copy", "copy"),
        ("page_bytes", 4096, "page 4 KiB"),
        ("direct", True, "direct"),
        ("direct", False, "not direct"),
        ("depth", 4, "depth 4"),
    ],
)
def test_words(key: str, value: object, expected: str) -> None:
    assert curves.word(key, value) == expected


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0.0, "s", "0"),
        (1.379e-9, "s", "1.4 ns"),
        (130.2e-9, "s", "130 ns"),
        (29.1e9, "B/s", "29 GB/s"),
        (3e9, "", "3 G"),
    ],
)
def test_ticks(value: float, unit: str, expected: str) -> None:
    assert curves.tick(value, unit) == expected


def drawn(rows: list[Measurement], ascii_only: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, width=80, color_system=None)
    for line in microbench_plots.draw(rows, ascii_only):
        console.print(line)
    return file.getvalue()


def test_a_suite_nobody_has_heard_of_is_drawn() -> None:
    text = drawn([*sweep(8, suite="warp_speed", engine="left"), *sweep(8, suite="warp_speed", engine="right")])

    assert "warp speed: bandwidth" in text
    assert all(part in text for part in ("left", "1 KiB", "128 KiB", "B/s"))


@pytest.mark.parametrize("ascii_only", [False, True])
def test_panels_are_80_columns_wide(ascii_only: bool) -> None:
    products = [row("matmul", rate, "FLOP/s", dtype=dtype) for dtype, rate in (("float32", 2e11), ("bfloat16", 3e9))]
    rates = [row("a_suite_with_a_very_long_name_indeed", 1e12 * (i + 1), size_bytes=KIB << i) for i in range(30)]
    text = drawn([*streams(), *rates, *products], ascii_only)

    assert max(map(len, text.splitlines())) <= 80
    assert "float32  ####" in text or "float32  ████" in text
    assert text.isascii() is ascii_only


def test_a_flat_curve_and_impossible_values_are_drawn() -> None:
    flat = [row(size_bytes=KIB << i, value=5.0) for i in range(4)]

    assert "1 KiB" in drawn([*flat, row(size_bytes=KIB << 5, value=0.0), row(size_bytes=KIB << 6, value=float("inf"))])


def test_nothing_to_draw() -> None:
    assert drawn([row("launch", unit="s", operator="add")]) == ""
