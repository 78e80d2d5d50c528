"""Adapters of other libraries against modules with exactly their signatures; and against the real one where it is."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from places import ROOT
from torch.nn import functional

from probe.verify.adapters.installed import ADAPTERS, libraries
from probe.verify.adapters.kinds import KINDS

HIDDEN, ROWS, WORDS = 16, 6, 11


# Liger-Kernel 0.8.5, transformers/functional.py; its own names of arguments, which the last test compares
def liger_rms_norm(
    X: Any,  # noqa: N803
    W: Any,  # noqa: N803
    eps: Any,
    offset: float = 0.0,
    casting_mode: str = "llama",
    in_place: bool = True,
) -> Any:
    assert not in_place, "in place it overwrites the gradient that it is given"
    return functional.rms_norm(X, W.shape, W + offset, eps)


def liger_layer_norm(X: Any, W: Any, B: Any, eps: Any) -> Any:  # noqa: N803
    return functional.layer_norm(X, W.shape, W, B, eps)


def liger_swiglu(a: Any, b: Any) -> Any:
    return functional.silu(a) * b


def liger_geglu(a: Any, b: Any) -> Any:
    return functional.gelu(a, approximate="tanh") * b


def liger_fused_linear_cross_entropy(
    input: Any, weight: Any, target: Any, bias: Any = None, ce_weight: Any = None, ignore_index: int = -100,
    lse_square_scale: float = 0.0, label_smoothing: float = 0.0, reduction: str = "mean", softcap: Any = None,
    return_z_loss: bool = False, accum_dtype: Any = None, use_token_scaling: bool = False,
    return_token_accuracy: bool = False, return_predicted_tokens: bool = False, chunk_mem_const: int = 1,
) -> Any:  # fmt: skip
    return functional.cross_entropy(functional.linear(input, weight, bias), target, ignore_index=ignore_index)


# apex at 014f30f, normalization/fused_layer_norm.py
def fused_rms_norm_affine(
    input: Any, weight: Any, normalized_shape: Any, eps: float = 1e-6, memory_efficient: bool = False
) -> Any:
    return functional.rms_norm(input, normalized_shape, weight, eps)


def fused_layer_norm_affine(
    input: Any, weight: Any, bias: Any, normalized_shape: Any, eps: float = 1e-6, memory_efficient: bool = False
) -> Any:
    return functional.layer_norm(input, normalized_shape, weight, bias, eps)


# flash-attention at 0053002, flash_attn_interface.py: [batch, positions, heads, head_dim]
def flash_attn_func(
    q: Any, k: Any, v: Any, dropout_p: float = 0.0, softmax_scale: Any = None, causal: bool = False,
    window_size: Any = (-1, -1), softcap: float = 0.0, alibi_slopes: Any = None, deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:  # fmt: skip
    rows = (t.transpose(1, 2) for t in (q, k, v))
    return functional.scaled_dot_product_attention(*rows, is_causal=causal, scale=softmax_scale).transpose(1, 2)


# quack at 05bce72, rmsnorm.py
def rmsnorm(
    x: Any, weight: Any = None, bias: Any = None, residual: Any = None, out_dtype: Any = None,
    residual_dtype: Any = None, eps: float = 1e-6, prenorm: bool = False,
) -> Any:  # fmt: skip
    assert x.dim() == 2
    return functional.rms_norm(x, (x.shape[-1],), weight, eps)


# xformers at 00afc12, ops/fmha: [batch, positions, heads, head_dim]
class LowerTriangularMask:
    pass


def memory_efficient_attention(
    query: Any, key: Any, value: Any, attn_bias: Any = None, p: float = 0.0, scale: Any = None, *, op: Any = None
) -> Any:
    assert attn_bias is None or isinstance(attn_bias, LowerTriangularMask)
    rows = (t.transpose(1, 2) for t in (query, key, value))
    causal = attn_bias is not None
    return functional.scaled_dot_product_attention(*rows, is_causal=causal, scale=scale).transpose(1, 2)


# Transformer Engine at 0288e53, pytorch/module: parameters named weight and bias, of the innermost dimension
class RMSNorm(torch.nn.RMSNorm):
    def __init__(
        self, normalized_shape: Any = None, eps: float = 1e-5, sequence_parallel: Any = None, params_dtype: Any = None,
        zero_centered_gamma: bool = False, hidden_size: Any = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(normalized_shape, eps, **kwargs)


class LayerNorm(torch.nn.LayerNorm):
    def __init__(
        self, normalized_shape: Any, *, sequence_parallel: Any = None, params_dtype: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(normalized_shape, **kwargs)


MODULES: dict[str, tuple[Any, ...]] = {
    "liger_kernel.transformers.functional": (
        liger_rms_norm, liger_layer_norm, liger_swiglu, liger_geglu, liger_fused_linear_cross_entropy,
    ),
    "apex.normalization.fused_layer_norm": (fused_rms_norm_affine, fused_layer_norm_affine),
    "flash_attn": (flash_attn_func,),
    "quack": (rmsnorm,),
    "xformers.ops": (memory_efficient_attention, LowerTriangularMask),
    "transformer_engine.pytorch": (RMSNorm, LayerNorm),
}  # fmt: skip


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every library, with what the adapters call."""
    for path, members in MODULES.items():
        parts = path.split(".")
        for end in range(1, len(parts) + 1):
            name = ".".join(parts[:end])
            module = ModuleType(name)
            module.__spec__ = importlib.util.spec_from_loader(name, loader=None)
            module.__path__ = []
            monkeypatch.setitem(sys.modules, name, module)
        for member in members:
            setattr(sys.modules[path], member.__name__, member)
    yield


def given(kind: str) -> tuple[tuple[Any, ...], torch.Tensor]:
    """What a kernel of that kind is called with, and what it gives by torch's own operators."""
    torch.manual_seed(0)
    x, other, weight, bias = (torch.randn(2, ROWS, HIDDEN), torch.randn(2, ROWS, HIDDEN), *torch.rand(2, HIDDEN))
    q, k, v = torch.randn(3, 2, 4, ROWS, 8)
    rows, words, targets = torch.randn(ROWS, HIDDEN), torch.randn(WORDS, HIDDEN), torch.arange(ROWS)
    targets[1] = -7
    return {
        "rms_norm": ((x, weight, 1e-3), functional.rms_norm(x, (HIDDEN,), weight, 1e-3)),
        "layer_norm": ((x, weight, bias, 1e-3), functional.layer_norm(x, (HIDDEN,), weight, bias, 1e-3)),
        "swiglu": ((x, other), functional.silu(x) * other),
        "geglu_tanh": ((x, other), functional.gelu(x, approximate="tanh") * other),
        "linear_cross_entropy": (
            (rows, words, targets, -7), functional.cross_entropy(rows @ words.t(), targets, ignore_index=-7),
        ),
        "attention": (
            (q, k, v, True, 0.3), functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3),
        ),
    }[kind]  # fmt: skip


CALLS = [(adapter, kind) for adapter in ADAPTERS for kind in adapter.kernels]


@pytest.mark.parametrize(("adapter", "kind"), CALLS, ids=[f"{a.library} {kind}" for a, kind in CALLS])
@pytest.mark.usefixtures("stand_ins")
def test_an_adapter_calls_its_library_as_it_is(adapter: Any, kind: str) -> None:
    arguments, expected = given(kind)
    line, kernel = adapter.kernels[kind]
    assert kind in KINDS and line
    torch.testing.assert_close(kernel(*arguments), expected)


@pytest.mark.usefixtures("stand_ins")
def test_libraries_are_found_without_importing_them() -> None:
    assert {one.library for one in libraries()} == {one.library for one in ADAPTERS}


@pytest.mark.parametrize("stand_in", MODULES["liger_kernel.transformers.functional"], ids=lambda one: one.__name__)
def test_the_real_liger_has_these_signatures(stand_in: Any) -> None:
    real = pytest.importorskip("liger_kernel.transformers.functional")
    found = inspect.signature(getattr(real, stand_in.__name__)).parameters
    assert [(p.name, p.default) for p in found.values()] == [
        (p.name, p.default) for p in inspect.signature(stand_in).parameters.values()
    ]


def test_the_real_ligers_kernels_compute_the_same() -> None:
    """In a process of its own: Triton interprets from the first import on, or not at all."""
    pytest.importorskip("liger_kernel")
    script = ROOT / "tests" / "fixtures" / "liger_interpreted.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    worst = dict(line.split() for line in done.stdout.splitlines() if line.split()[0] in KINDS)
    assert len(worst) == 5
    assert all(float(difference) < 1e-5 for difference in worst.values()), done.stdout
