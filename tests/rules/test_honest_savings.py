"""A saving is what the named replacement saves, and none is told where that is slower or not known."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import GPU, Event, kernel, launch, op, step, write
from places import SAMPLES

import probe
from probe.analyzers import diagnosis as diagnosis_module
from probe.analyzers.rules.context import Context
from probe.analyzers.rules.loops import small_products

CEILINGS = SAMPLES / "ceilings.json"
ROWS, WIDTH, TABLE = 40_000, 32, 2_000


def called(name: str, start: float, duration: float, sizes: list[Any], types: list[str], **more: Any) -> Event:
    return op(f"aten::{name}", start, duration, **{"Input Dims": sizes, "Input type": types}, **more)


def on_cpu(folder: Path, events: list[Event]) -> dict[str, Any]:
    return {f.code: f for f in probe.analyze(write(folder, events), ceilings=CEILINGS).findings}


def put(start: float) -> Event:
    """An accumulating index_put of rows."""
    sizes = [[TABLE, WIDTH], [[ROWS]], [ROWS, WIDTH], []]
    given = {"Concrete Inputs": ["", "", "", "True"]}
    return called("index_put_", start, 20_000, sizes, ["float", "TensorList", "float", "Scalar"], **given)


def scattered(start: float, strides: list[int]) -> Event:
    """A scatter_add of rows whose index has an entry for each element, in memory or not."""
    sizes = [[TABLE, WIDTH], [], [ROWS, WIDTH], [ROWS, WIDTH]]
    laid = {"Input Strides": [[WIDTH, 1], [], strides, [WIDTH, 1]], "Concrete Inputs": ["", "0", "", ""]}
    return called("scatter_add_", start, 20_000, sizes, ["float", "Scalar", "long int", "float"], **laid)


def test_sums_by_index_that_a_cpu_does_no_faster_are_left_alone(tmp_path: Path) -> None:
    assert "F23" not in on_cpu(tmp_path, [step(1, 0, 21_000), put(10)])
    events = [step(1, 0, 21_000), put(10), launch(1, 20), kernel("indexing_backward", 40, 19_000, 1)]
    known = [{**GPU[0], "name": "NVIDIA H100 80GB HBM3"}]  # whose bandwidth is in the table
    (tmp_path / "gpu").mkdir()
    found = {f.code: f for f in probe.analyze(write(tmp_path / "gpu", events, deviceProperties=known)).findings}
    assert found["F23"].replacement == "index_add_"


def test_an_index_for_every_element_costs_its_bytes(tmp_path: Path) -> None:
    found = on_cpu(tmp_path, [step(1, 0, 21_000), scattered(10, [WIDTH, 1])])
    assert found["F23"].saving_s == pytest.approx(0.4 * 20e-3, rel=0.01)
    (tmp_path / "expanded").mkdir()
    assert "F23" not in on_cpu(tmp_path / "expanded", [step(1, 0, 21_000), scattered(10, [1, 0])])


def grown(start: float, kept: int) -> Event:
    sizes = [[[8, 8, kept, 64], [8, 8, 1, 64]], []]
    return called("cat", start, 3_000, sizes, ["TensorList", "Scalar"], **{"Concrete Inputs": ["", "2"]})


def test_a_cache_that_is_not_copied_still_has_to_be_read(tmp_path: Path) -> None:
    events = [step(1, 0, 8_000), grown(10, 1024), grown(4_000, 1024), step(2, 8_000, 8_000)]
    events += [grown(8_010, 1025), grown(12_000, 1025)]
    found = on_cpu(tmp_path, events)
    assert found["F29"].saving_s == pytest.approx(4e-3, rel=0.02)  # two thirds of 6 ms


def chain(apart: float) -> list[Event]:
    """Five pointwise operators in a row, of a millisecond each."""
    names = ("mul", "add", "tan", "sub", "neg")
    sizes, types = [[1024, 1024], []], ["float", "Scalar"]
    each = [called(name, 10 + i * (1_000 + apart), 1_000, sizes, types) for i, name in enumerate(names)]
    return [step(1, 0, 50_000), *each]


def test_between_operators_of_a_chain_its_arrays_are_freed(tmp_path: Path) -> None:
    savings = []
    for apart in (0, 300, 1_000, 8_000):
        folder = tmp_path / str(apart)
        folder.mkdir()
        savings.append(on_cpu(folder, chain(apart))["F01"].saving_s)
    assert savings[1] - savings[0] == pytest.approx(0.8 * 4 * 300e-6, rel=0.05)  # of ten arrays two are left
    assert savings[3] == pytest.approx(savings[2], rel=0.02)  # more than the operator itself takes is not the freeing


def contexts(folder: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch, **head: Any) -> Context:
    seen: list[Context] = []
    monkeypatch.setattr(diagnosis_module, "findings", lambda context, index, **options: seen.append(context) or ())
    probe.analyze(write(folder, events, **head), ceilings=CEILINGS if not head else None)
    return seen[0]


def test_what_a_batched_product_takes_is_not_shorter_without_the_profiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one: Callable[[int], Event] = lambda i: called("mm", 10 + 30 * i, 20, [[16, 32], [32, 32]], ["float"] * 2)  # noqa: E731
    context = contexts(tmp_path, [step(1, 0, 600), *(one(i) for i in range(16))], monkeypatch)
    floors = []
    for fraction in (1.0, 0.5):
        shorter = replace(context, step_s=context.recorded_s * fraction, claimed=set())
        (match,) = small_products.find(shorter)
        assert match.saving_s is not None
        spent_s = 16 * 20e-6 + 15 * 10e-6  # with the gaps between them
        floors.append((spent_s - match.saving_s) * fraction)
    assert floors[1] == pytest.approx(floors[0], rel=0.01)


def test_a_step_that_a_busy_machine_slowed_saves_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu").mkdir()
    context = contexts(tmp_path / "cpu", chain(0), monkeypatch)
    assert replace(context, step_s=2 * context.recorded_s).bare_fraction == pytest.approx(2.0)
    events = [step(1, 0, 500), op("aten::mm", 10, 20), launch(1, 15), kernel("gemm", 40, 300, 1)]
    on_device = contexts(tmp_path, events, monkeypatch, deviceProperties=GPU)
    assert replace(on_device, step_s=2 * on_device.recorded_s).bare_fraction == 1.0
