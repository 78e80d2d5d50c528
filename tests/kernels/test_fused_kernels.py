"""Do our fused kernels compute what they replace, with every gradient, and does torch see them?"""

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import fused_cases
import pytest
import triton_interpreted
from fused_cases import FAMILIES
from made_once import made_once
from places import ROOT

pytest.importorskip("triton")

INTERPRETED = str(ROOT / "tests" / "fixtures" / "fused_interpreted.py")


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What one process with the interpreter says of everything: to start it takes as long as a family."""
    answers: Mapping[str, Any] = made_once(tmp_path_factory, "fused", lambda: triton_interpreted.answers(INTERPRETED))
    return answers


@pytest.fixture(scope="module")
def seen(interpreted: Mapping[str, Any]) -> Mapping[str, Any]:
    answers: Mapping[str, Any] = interpreted["seen"]
    return answers


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_and_gradients_are_as_exact_as_torchs(family: str, interpreted: Mapping[str, Any]) -> None:
    found = interpreted[family]

    assert len(found["cases"]) == len(fused_cases.cases(family)) >= 10
    assert {name: wrong for name, wrong in found["cases"].items() if wrong} == {}
    assert found["sizes"] is None
    assert found["registered"] == []


def test_without_triton_the_chunked_loss_is_left() -> None:
    code = """
import sys
sys.modules["triton"] = None
import torch
from probe.kernels.fused.catalogue import KERNELS
[kernel] = KERNELS
x, weight = torch.randn(6, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
kernel.function(x, weight, torch.tensor([0, 1, 2, 3, 4, -100])).backward()
assert kernel.name == "linear_cross_entropy" and x.grad is not None and weight.grad is not None
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_wrong_kernel_is_noticed() -> None:
    """The judge: results that are off by four roundings of float16 fail, those of torch itself pass."""
    [case] = [c for c in fused_cases.cases("bias_activation") if c.name == "silu-float16"]
    torchs = fused_cases.Case(case.label, case.reference, case.reference, case.make, case.dtype, case.options)
    off = fused_cases.Case(
        case.label, lambda *i, **o: case.reference(*i, **o) * 1.004, case.reference, case.make, case.dtype, case.options
    )

    assert fused_cases.failures(torchs) == []
    assert len(fused_cases.failures(off)) == 3  # the output, and two gradients


@pytest.mark.parametrize("case", fused_cases.cases("linear_cross_entropy"), ids=lambda c: c.name)
def test_linear_cross_entropy_without_triton(case: fused_cases.Case) -> None:
    assert fused_cases.failures(case) == []


def test_torch_sees_the_operators(seen: Mapping[str, Any]) -> None:
    assert seen["compiled"] == seen["exported"] == ["probe.bias_activation.default"]
    assert {"probe::bias_activation", "probe::bias_activation_backward"} <= set(seen["profiled"])


def test_torch_compile_takes_them_whole(seen: Mapping[str, Any]) -> None:
    assert len(seen["traced"]) >= 10
    assert {name: wrong for name, wrong in seen["traced"].items() if wrong is not True} == {}


def test_dropout_depends_on_seed_and_place_alone(seen: Mapping[str, Any]) -> None:
    dropout = seen["dropout"]

    assert abs(dropout["share"] - 0.25) < 4 * (0.25 * 0.75 / 64000) ** 0.5
    assert dropout["kept"] == pytest.approx(1 / 0.75)
    assert dropout["same_seed"] and dropout["other_tiles"] and dropout["torchs_seed"] and dropout["rows_differ"]
    assert not dropout["other_seed"]
    assert dropout["all"] == 0.0


@pytest.mark.gpu
@pytest.mark.parametrize("case", [c for family in FAMILIES for c in fused_cases.cases(family)], ids=lambda c: c.name)
def test_on_a_gpu(case: fused_cases.Case) -> None:
    assert fused_cases.failures(case, "cuda") == []


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", fused_cases.DTYPES)
@pytest.mark.parametrize(("rows", "columns"), [(1000, 4096), (257, 1000), (33, 16384), (4099, 17)])
def test_examples_on_a_gpu(dtype: str, rows: int, columns: int) -> None:
    """The calls that the benchmark times, with numbers in place of its zeros, and results that repeat bit by bit."""
    import torch

    from probe.kernels.fused.examples import examples
    from probe.kernels.fused.resources import run

    for example in examples(getattr(torch, dtype), "cuda", rows, columns):
        if example.kernel.why_not(*example.inputs, **example.options):
            continue
        for leaf in example.leaves():
            leaf.data.normal_()
        runs = [run(example), run(example)]
        assert all(a.equal(b) and bool(a.isfinite().all()) for a, b in zip(*runs, strict=True)), example.label
