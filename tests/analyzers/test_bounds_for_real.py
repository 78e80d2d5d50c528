"""Small programs, run for real on this CPU, come out with the bound they were written to have."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import probe

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.flaky(reruns=2)  # real programs: a busy machine deschedules them


def observed(folder: Path, step: Callable[[], object], steps: int = 12, **options: Any) -> probe.Analysis:
    """The analysis of a loop that calls `step`."""
    with probe.profile(folder / "run", **{"wait": 5, "warmup": 1, "active": 3, **options}) as prof:
        for _ in range(steps):
            step()
            prof.step()
    return probe.analyze(folder / "run")


def adding_up(analysis: probe.Analysis) -> bool:
    parts = [v for k, v in analysis.time_s.items() if k != "step"]
    return math.isclose(sum(parts), analysis.time_s["step"], rel_tol=0.01)


def programs() -> Iterator[tuple[str, str, Callable[[], Callable[[], object]]]]:
    yield "matmul", "compute", lambda: _call(torch.mm, torch.randn(1024, 1024), torch.randn(1024, 1024))
    yield "convolution", "compute", lambda: _call(torch.nn.Conv2d(64, 64, 3, padding=1), torch.randn(8, 64, 56, 56))
    yield "batched matmul", "compute", lambda: _call(torch.bmm, torch.randn(16, 256, 256), torch.randn(16, 256, 256))
    yield "large add", "memory", lambda: _call(torch.add, torch.randn(1 << 24), torch.randn(1 << 24))
    yield "transposed copy", "memory", lambda: _call(torch.Tensor.contiguous, torch.randn(4096, 4096).t())
    yield "reduction", "memory", lambda: _call(torch.sum, torch.randn(1 << 24))
    yield (
        "gather",
        "memory",
        lambda: _call(torch.index_select, torch.randn(1 << 18, 32), 0, torch.randint(1 << 18, (1 << 18,))),
    )
    yield "matrix times vector", "memory", lambda: _call(torch.mv, torch.randn(4096, 4096), torch.randn(4096))


def _call(function: Callable[..., object], *args: object) -> Callable[[], object]:
    def step() -> object:
        with torch.no_grad():
            return function(*args)

    return step


@pytest.mark.parametrize(("bound", "program"), [p[1:] for p in programs()], ids=[p[0] for p in programs()])
def test_one_operator(tmp_path: Path, bound: str, program: Callable[[], Callable[[], object]]) -> None:
    analysis = observed(tmp_path, program())
    largest = max(analysis.ops, key=lambda op: op.self_s)
    assert (analysis.bound, largest.bound) == (bound, bound), largest
    assert largest.evidence
    assert adding_up(analysis)


def test_thousands_of_tiny_adds_are_overhead(tmp_path: Path) -> None:
    one = torch.ones(16)

    def step() -> None:
        for _ in range(2000):
            torch.add(one, one)

    analysis = observed(tmp_path, step)
    assert analysis.bound == "overhead"
    assert [f.code for f in analysis.findings][:1] == ["H01"]
    assert adding_up(analysis)


class Sleepy(torch.utils.data.Dataset):  # type: ignore[misc]
    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: int) -> Any:
        time.sleep(0.01)
        return torch.ones(8)


def test_a_sleeping_loader_is_the_host(tmp_path: Path) -> None:
    batches = iter(torch.utils.data.DataLoader(Sleepy(), batch_size=2))
    analysis = observed(tmp_path, lambda: next(batches).sum())
    assert analysis.bound == "host"
    assert {f.code for f in analysis.findings[:2]} == {"H07", "H08"}
    assert analysis.findings[0].saving_fraction > 0.8
    assert adding_up(analysis)


def test_any_slow_iterable_is_seen_through_batches(tmp_path: Path) -> None:
    def slow() -> Iterator[Any]:
        while True:
            time.sleep(0.01)
            yield torch.ones(8)

    with probe.profile(tmp_path / "run", wait=3, warmup=1, active=3) as prof:
        for number, batch in enumerate(prof.batches(slow())):
            batch.sum()
            prof.step()
            if number == 10:
                break
    analysis = probe.analyze(tmp_path / "run")
    assert analysis.bound == "host"
    assert analysis.findings[0].code == "H07"


def test_python_between_operators_is_the_host(tmp_path: Path) -> None:
    one = torch.ones(16)

    def step() -> None:
        torch.add(one, one)
        sum(i * i for i in range(100_000))

    analysis = observed(tmp_path, step)
    assert analysis.bound == "host"
    assert adding_up(analysis)


def test_one_callable_is_placed() -> None:
    analysis = probe.roofline(torch.mm, torch.randn(512, 512), torch.randn(512, 512))
    largest = max(analysis.ops, key=lambda op: op.self_s)  # at its roof it has nothing to gain and stands last
    assert largest.name == "aten::mm"
    assert largest.flops == pytest.approx(2 * 512**3)
    assert analysis.source.path == "mm(…)"
