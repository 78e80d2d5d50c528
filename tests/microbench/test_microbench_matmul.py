"""Is the best shape found, are formats told apart, and is torch left as it was? With an injected timer, on the CPU."""

from collections.abc import Callable

import pytest
import torch

from probe.machine.device import Device
from probe.microbench import launch, matmul, memory, precisions, torch_bandwidth
from probe.microbench.precisions import Precision
from probe.microbench.suite import Context

SHAPES = ((8, 8, 8), (16, 16, 16), (32, 32, 32), (64, 64, 64))


class FakeTimer:
    """Calls once, and says that each call took the seconds it was told."""

    def __init__(self, seconds: Callable[[object], float] = lambda result: 1e-5) -> None:
        self._seconds = seconds

    def window(self, call: Callable[[], object], calls: int) -> float:
        return self._seconds(call()) * calls


def _context(kind: str = "cpu", **more: object) -> Context:
    return Context(Device(kind, "x", cores=2, l2_bytes=1 << 20, **more), 0.02)  # type: ignore[arg-type]


def test_the_fastest_shape_is_the_ceiling() -> None:
    rates = {8: 1e9, 16: 5e9, 32: 9e9, 64: 4e9}
    timer = FakeTimer(lambda out: 2 * out.shape[0] ** 3 / rates[out.shape[0]])  # type: ignore[attr-defined]
    context, float32 = _context(), Precision("float32")
    found = matmul.final(context, timer, float32, matmul.screen(context, timer, float32, SHAPES, 0.02), 0.02)

    assert found.value == pytest.approx(9e9)
    assert found.params["shape"] == [32, 32, 32]
    assert found.params["shapes_tried"] == 4
    assert (found.metric, found.unit, found.params["dtype"]) == ("flops_per_s", "FLOP/s", "float32")


def test_shapes_that_take_too_long_are_not_tried() -> None:
    timer = FakeTimer(lambda out: 0.1 * (out.shape[0] / 16) ** 3)  # type: ignore[attr-defined]
    tried = matmul.screen(_context(), timer, Precision("float32"), SHAPES, 0.02)

    assert [c.shape[0] for c in tried] == [8, 16, 32]


def test_a_shape_that_does_not_fit_ends_the_search() -> None:
    def seconds(out: torch.Tensor) -> float:
        if out.shape[0] > 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1e-5

    found = matmul.screen(_context(), FakeTimer(seconds), Precision("float32"), SHAPES, 0.02)  # type: ignore[arg-type]

    assert [c.shape[0] for c in found] == [8, 16]


def test_a_format_without_instructions_is_flagged_and_int8_left_out() -> None:
    plain = precisions.available(Device("cpu", "x", isa=("avx2", "fma")))
    full = precisions.available(Device("cpu", "x", isa=("avx512_bf16", "amx_int8", "avx512_fp16")))

    assert {p.name: p.emulated for p in plain} == {
        "float32": False,
        "float64": False,
        "bfloat16": True,
        "float16": True,
    }
    assert [p.name for p in full if p.emulated] == []
    assert "int8" in {p.name for p in full}


@pytest.mark.parametrize(
    ("capability", "lacking"),
    [("7.0", {"tf32", "bfloat16", "float8_e4m3fn"}), ("8.0", {"float8_e4m3fn"}), ("9.0", set()), ("10.0", set())],
)
def test_formats_of_gpus(capability: str, lacking: set[str]) -> None:
    found = precisions.available(Device("cuda", "x", compute_capability=capability))

    assert set(precisions.CUDA_PRECISIONS) - {p.name for p in found} == lacking


def test_tf32_is_on_only_within_its_block() -> None:
    before = torch.get_float32_matmul_precision()
    with precisions.arithmetic(Precision("tf32")):
        assert torch.get_float32_matmul_precision() == "high"

    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("name", ["float32", "tf32", "float64", "bfloat16", "float16", "int8"])
def test_products_have_the_right_shape(name: str) -> None:
    result = precisions.product(Precision(name), (32, 64, 16), "cpu")()

    assert tuple(result.shape) == (32, 16)  # type: ignore[attr-defined]


def test_a_format_torch_refuses_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise RuntimeError("addmm not implemented for 'Half'\nmore")

    monkeypatch.setattr(matmul, "product", refuse)
    context = _context()

    assert list(matmul.run(context, FakeTimer())) == []
    assert context.warnings[0] == "matmul: float32 failed: addmm not implemented for 'Half'"


def test_torch_bandwidth_counts_as_stream_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 1 << 26)
    context = _context()
    found = list(torch_bandwidth.run(context, FakeTimer()))

    assert {m.params["size_bytes"] for m in found} == {1 << 22, 1 << 23, 1 << 24}
    for m in found:
        arrays = 2 if m.params["kernel"] in ("copy", "scale") else 3
        moved = m.params["size_bytes"] // arrays // 4 * arrays * 4
        assert m.value == pytest.approx(moved / 1e-5)


def test_torch_operators_compute_the_stream_kernels() -> None:
    arrays = torch.rand(3, 100)
    _, x, y = arrays.clone()
    expected = {"copy": x, "scale": 3 * x, "add": x + y, "triad": x + 3 * y}

    for kernel, result in expected.items():
        torch_bandwidth.operator(kernel, arrays)()
        torch.testing.assert_close(arrays[0], result)


def test_launch_has_a_ceiling_and_an_empty_call_beside_it() -> None:
    found = {m.params["operator"]: m for m in launch.run(_context(), FakeTimer())}

    assert launch.CEILING in found
    assert found["python call"].min == pytest.approx(1e-5)
