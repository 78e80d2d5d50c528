"""Rules on loops, optimizers, layouts and element types: on a GPU, and what they leave alone."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import kernel, launch, op, shapes, step, write
from planted.program import Program, record
from planted.sizes import by_sizes, rules_see
from real_traces import analysis_of

from probe.analyzers.rules.efficiency import layout
from probe.analyzers.rules.loops import small_products
from probe.analyzers.rules.matching.repeats import Repeat, repeats
from probe.analyzers.rules.updates.parameter_loops import parameter_loops
from probe.examine.examine import Request, examine
from probe.trace import Signature

pytestmark = pytest.mark.flaky(reruns=2)  # real programs: a busy machine deschedules them
H100 = [{"id": 0, "name": "NVIDIA H100 80GB HBM3", "computeMajor": 9, "computeMinor": 0, "numSms": 132}]


def context_of(folder: Path, make: Callable[[], Callable[[], object]], monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the rules see of a program."""
    seen = rules_see(monkeypatch)
    record(Program(make.__name__, make, None), folder)
    return seen[0]


def test_a_sequence_without_repeats_has_none() -> None:
    assert repeats([1, 2, 3, 4, 5, 6, 7, 8], 2) == []
    assert repeats([], 2) == []


def test_the_shortest_body_and_the_longest_stretch_win() -> None:
    assert repeats([9, 1, 2, 1, 2, 1, 2, 1, 2, 9], 3) == [Repeat(1, 2, 4)]
    assert repeats([5, 5, 5, 7, 5, 5, 5, 7, 5, 5, 5, 7], 3) == [Repeat(0, 4, 3)]


def test_repeats_are_what_they_say() -> None:
    for seed in range(50):
        keys = random.Random(seed).choices([0, 1, 2], k=60)
        found = repeats(keys, 3)
        covered: set[int] = set()
        for r in found:
            body = keys[r.first : r.first + r.period]
            assert keys[r.first : r.last] == body * r.times
            assert r.times >= 3
            assert not covered & set(range(r.first, r.last))
            covered |= set(range(r.first, r.last))


def several(*sizes: tuple[int, ...]) -> list[Any]:
    return [torch.randn(*size) for _ in range(6) for size in sizes]


def kinds(context: Any) -> set[str]:
    context = replace(context, claimed=set())
    asked = ("zero", "clamp", "norm", "scale", "average", "cast", "update")
    return {loop.kind for loop in parameter_loops(context, *asked)}


def one_tensor_again_and_again() -> Callable[[], object]:
    x, noise = torch.randn(100, 100), torch.randn(100, 100)

    def run() -> None:
        for _ in range(20):
            x.mul_(0.9).add_(noise, alpha=0.1)

    return run


def penalty_of_the_weights() -> Callable[[], object]:
    weights = [w.requires_grad_() for w in several((64, 64), (64,))]
    return lambda: sum(w.pow(2).sum() for w in weights).backward()  # type: ignore[union-attr]


def features_of_several_sizes() -> Callable[[], object]:
    """A loss over scales: out of place, with gradients of its own."""
    ours, theirs = several((64, 64), (32, 32)), several((64, 64), (32, 32))
    return lambda: sum((a - b).abs().mean() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("make", [one_tensor_again_and_again, penalty_of_the_weights, features_of_several_sizes])
def test_what_is_no_loop_over_parameters(tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(tmp_path, make, monkeypatch)
    assert kinds(context) == set()
    assert kinds(by_sizes(context)) == set()


def spelled(body: Callable[[Any, Any], object]) -> Callable[[], Callable[[], object]]:
    def make() -> Callable[[], object]:
        first, second = several((64, 64), (64,)), several((64, 64), (64,))

        @torch.no_grad()
        def run() -> None:
            for a, b in zip(first, second, strict=True):
                body(a, b)

        return run

    return make


SPELLINGS: dict[str, tuple[str, Callable[[Any, Any], object]]] = {
    "ema, in place": ("average", lambda e, p: e.mul_(0.99).add_(p, alpha=0.01)),
    "ema, weighted apart": ("average", lambda e, p: e.mul_(0.99).add_(0.01 * p)),
    "ema, copied": ("average", lambda e, p: e.copy_(e * 0.99 + p * 0.01)),
    "ema, by the difference": ("average", lambda e, p: e.sub_(0.01 * (e - p))),
    "ema, difference with alpha": ("average", lambda e, p: e.add_(p - e, alpha=0.01)),
    "ema, lerp": ("average", lambda e, p: e.lerp_(p, 0.01)),
    "ema, lerp out of place": ("average", lambda e, p: e.copy_(torch.lerp(e, p, 0.01))),
    "sgd": ("update", lambda p, g: p.sub_(0.01 * g)),
    "sgd, with decay": ("update", lambda p, g: p.mul_(0.99).add_(g, alpha=-0.01)),
    "sgd, alpha": ("update", lambda p, g: p.add_(g, alpha=-0.01)),
    "momentum alone": ("update", lambda v, g: v.mul_(0.9).add_(g)),
    "clamp": ("clamp", lambda g, _: g.clamp_(-1, 1)),
    "clamp, copied": ("clamp", lambda g, _: g.copy_(torch.clamp(g, -1, 1))),
    "norm": ("norm", lambda g, _: torch.linalg.vector_norm(g)),
    "squares": ("norm", lambda g, _: (g * g).sum()),
    "zeros": ("zero", lambda g, _: g.zero_()),
    "fill": ("zero", lambda g, _: g.fill_(0)),
    "cast": ("cast", lambda p, _: p.to(torch.bfloat16)),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_what_a_loop_over_parameters_does(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, body = SPELLINGS[name]
    context = context_of(tmp_path, spelled(body), monkeypatch)
    assert kinds(context) == {kind}
    assert kinds(by_sizes(context)) == {kind}


# On a GPU


def gpu_trace(folder: Path, calls: list[tuple[str, list[list[int]], str, str, float]]) -> Path:
    """A step of operators, each with one kernel: (name, sizes, element type, kernel, microseconds)."""
    events: list[Any] = []
    at = 10.0
    for number, (name, sizes, dtype, kernel_name, length) in enumerate(calls, 1):
        events += [op(name, at, 5, **shapes(*sizes, dtype=dtype)), launch(number, at + 1)]
        events.append(kernel(kernel_name, at + 3, length, number, grid=[4096, 1, 1]))
        at += length + 5
    events.append(launch(0, 12.0 + 6.0 * len(calls), at, name="cudaDeviceSynchronize"))  # the host waits for the rest
    return write(folder, [step(1, 0, at + 20 + 6.0 * len(calls)), *events], deviceProperties=H100)


def gpu_codes(folder: Path, calls: list[tuple[str, list[list[int]], str, str, float]], *, preview: bool = False) -> Any:
    found = examine(gpu_trace(folder, calls), Request(preview=preview)).analysis.findings
    return {f.code: f for f in found}


PRODUCT = [[4096, 4096], [4096, 4096]]  # 137 GFLOP: 2.05 ms in float32 on an H100, 0.28 ms in TF32


def test_products_without_tf32(tmp_path: Path) -> None:
    found = gpu_codes(tmp_path, [("aten::mm", PRODUCT, "float", "ampere_sgemm_128x128_nn", 2500.0)])
    assert found["E01"].saving_fraction > 0.5
    assert found["E02"].saving_fraction < 1 - found["E01"].saving_fraction


@pytest.mark.parametrize(
    "name", ["cutlass_80_tensorop_s1688gemm_128x128_32x3_nn", "sm80_xmma_gemm_f32f32_tf32f32_f32_nn_n_tilesize128x128"]
)
def test_products_in_tf32_are_left_to_amp(tmp_path: Path, name: str) -> None:
    found = gpu_codes(tmp_path, [("aten::mm", PRODUCT, "float", name, 400.0)])
    assert "E01" not in found
    assert found["E02"].saving_fraction > 0.2


def test_products_in_half_precision_are_as_they_should_be(tmp_path: Path) -> None:
    found = gpu_codes(tmp_path, [("aten::mm", PRODUCT, "c10::BFloat16", "nvjet_hsh_128x256_64x4_1x2", 200.0)])
    assert not {"E01", "E02", "E03"} & set(found)


def test_a_vocabulary_that_is_no_multiple_of_eight(tmp_path: Path) -> None:
    odd = [("aten::mm", [[8192, 1024], [1024, 50257]], "c10::BFloat16", "cutlass_gemm_align1", 5000.0)]
    even = [("aten::mm", [[8192, 1024], [1024, 50304]], "c10::BFloat16", "cutlass_gemm_align8", 1400.0)]
    assert gpu_codes(tmp_path, odd)["E03"].saving_fraction > 0.4
    assert "E03" not in gpu_codes(tmp_path, even)


CONVOLUTION = [[32, 64, 56, 56], [64, 64, 3, 3]]


def convolved(*around: tuple[str, list[list[int]], str, str, float]) -> list[Any]:
    return [("aten::convolution", CONVOLUTION, "float", "sm80_xmma_fprop_implicit_gemm_tf32f32", 300.0), *around]


def test_kernels_that_turn_the_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turned = ("aten::convolution", CONVOLUTION, "float", "void cudnn::ops::nchwToNhwcKernel<float>", 200.0)
    path = gpu_trace(tmp_path, convolved(turned))
    assert "E09" not in {f.code for f in examine(path, Request()).analysis.findings}  # strides not recorded: not known
    text = path.read_text().replace(
        '"Input type"', '"Input Strides": [[200704, 3136, 56, 1], [576, 9, 3, 1]], "Input type"'
    )
    path.write_text(text)
    found = {f.code: f for f in examine(path, Request()).analysis.findings}
    assert found["E09"].saving_fraction == pytest.approx(200 / 530, abs=0.05)


def test_untuned_convolutions_are_a_preview(tmp_path: Path) -> None:
    assert "E10" in gpu_codes(tmp_path, convolved(*convolved()), preview=True)
    assert "E10" not in gpu_codes(tmp_path, convolved(*convolved()))
    searched = ("aten::add", [[4], [4]], "float", "cudnnFindConvolution", 1.0)
    assert "E10" not in gpu_codes(tmp_path, convolved(*convolved(), searched), preview=True)


def update(sizes: list[int], length: float) -> list[tuple[str, list[list[int]], str, str, float]]:
    return [
        ("aten::mul_", [sizes, []], "float", "vectorized_elementwise_kernel<mul>", length),
        ("aten::add_", [sizes, sizes], "float", "vectorized_elementwise_kernel<add>", length),
        ("aten::add_", [sizes, sizes], "float", "vectorized_elementwise_kernel<add>", length),
    ]


def test_a_loop_on_a_device_takes_the_time_of_its_kernels_and_what_lies_between(tmp_path: Path) -> None:
    calls = [call for n in range(12) for call in update([64 + n, 64], 2.0)]
    found = gpu_codes(tmp_path, calls)
    assert found["F24"].saving_s == pytest.approx((len(calls) * 7.0 - 5) * 1e-6, rel=0.2)


def told_of(folder: Path, make: Callable[[], Callable[[], object]], code: str) -> Any:
    """The finding of one rule on a program; None where it has none."""
    analysis = record(Program(make.__name__, make, None), folder)
    return next((f for f in analysis.findings if f.code == code), None)


def a_model_asked_row_by_row() -> Callable[[], object]:
    model, rows = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.GELU(), torch.nn.Linear(128, 8)), 100
    x = torch.randn(rows, 64)
    return torch.inference_mode()(lambda: torch.stack([model(row[None]).argmax(-1) for row in x]))


def layers_that_read_one_embedding() -> Callable[[], object]:
    """Every layer needs the one before it, and all of them a product of the same embedding."""
    layers = [(torch.nn.Linear(64, 64), torch.nn.Linear(128, 128)) for _ in range(10)]
    time, x = torch.randn(4, 64), torch.randn(4, 128)

    def run() -> torch.Tensor:
        y = x
        for shift, layer in layers:
            y = torch.tanh(layer(y) + shift(time).repeat(1, 2))
        return y

    return torch.inference_mode()(run)


def test_a_loop_around_small_products_counts_whole(tmp_path: Path) -> None:
    told = told_of(tmp_path, a_model_asked_row_by_row, "F21")
    assert told is not None and told.saving_fraction > 0.6
    assert "each pass: addmm → gelu → addmm → argmax" in told.evidence


def test_a_loop_whose_passes_need_one_another_is_not_run_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_of(tmp_path, layers_that_read_one_embedding, monkeypatch)
    context = replace(context, claimed=set())
    for flow in context.flows:
        products = [i for i, unit in enumerate(flow.units) if unit.name == "addmm" and unit.dims[1] == (4, 64)]
        assert len(products) == 10 and small_products._period(flow, products) == 1


def a_tensor_printed() -> Callable[[], object]:
    x, w = torch.randn(64, 64), torch.randn(128, 64)
    return lambda: (str(x), str(w))


def test_a_tensor_that_is_printed_is_told_as_such(tmp_path: Path) -> None:
    told = told_of(tmp_path, a_tensor_printed, "F20")
    assert told is not None and told.replacement == "no tensor printed in the step"


W, X = (1024, 1024), (6, 1024, 1024)


@pytest.mark.parametrize(
    ("dims", "strides", "across"),
    [
        ((X, W), ((1 << 20, 1024, 1), (1, 1024)), True),
        ((X, W), ((1 << 20, 1024, 1), (1024, 1)), False),
        ((X, (64, 64)), ((1 << 20, 1024, 1), (1, 64)), False),  # a cache holds it
        ((X, (6, 1, 1024)), ((1 << 20, 1024, 1), (1, 6, 6)), False),
        (((8, 64, 96, 96), (64, 96, 96)), ((589824, 1, 6144, 64), (1, 6144, 64)), False),  # both with the channels last
        (((8, 64, 96, 96), (64, 96, 96)), ((589824, 9216, 96, 1), (1, 6144, 64)), True),
        (((64, 64), (64, 64)), ((64, 1), (1, 64)), False),
        ((W, W), ((1024, 1), (1, 1024)), True),
    ],
)
def test_operands_lie_across_one_another_after_broadcasting(dims: Any, strides: Any, across: bool) -> None:
    assert layout._jumps(Signature(dims, ("float",) * 2, strides)) == across


def pixels_mixed_and_normed() -> Callable[[], object]:
    """Kernels of one pixel: no reordering; norms in inference: no faster with the channels last."""
    model = torch.nn.Sequential(torch.nn.Conv2d(32, 64, 1), torch.nn.BatchNorm2d(64), torch.nn.Conv2d(64, 32, 1)).eval()
    x = torch.randn(4, 32, 56, 56)
    return torch.inference_mode()(lambda: model(x))


def test_kernels_of_one_pixel_gain_nothing_from_the_channels_last(tmp_path: Path) -> None:
    assert told_of(tmp_path, pixels_mixed_and_normed, "E09") is None


def test_foreign_traces_have_the_findings_a_reader_would_sign(foreign_traces: Path) -> None:
    def found(name: str) -> dict[str, Any]:
        return {f.code: f for f in analysis_of(foreign_traces / name).findings}

    resnet = found("v100_resnet50_training.json.gz")
    assert {"F24", "H13"} <= set(resnet)  # torch.optim.SGD without foreach, zero_grad() of torch 1.x
    assert "E09" in found("mi300x_resnet_checkpointing_rank0.json.gz")  # batched_transpose around its convolutions
    assert "F24" not in found("h100_qwen_0.5b_chat.json.gz")


def test_numbers_are_finite(tmp_path: Path) -> None:
    for finding in gpu_codes(tmp_path, [("aten::mm", PRODUCT, "double", "dgemm", 9000.0)], preview=True).values():
        assert finding.saving_s is None or np.isfinite(finding.saving_s)
