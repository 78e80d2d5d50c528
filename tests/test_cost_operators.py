"""Flops and bytes of single calls equal those derived by hand; each case spells its derivation out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from probe.analyzers.cost_models import cost, known, register
from probe.analyzers.cost_models.attribution import delegates
from probe.analyzers.cost_models.call import Hints
from probe.analyzers.cost_models.registry import unregister
from probe.analyzers.cost_models.terms import Cost
from probe.trace import Dims, Signature


@dataclass(frozen=True)
class Arg:
    dims: Dims
    dtype: str
    strides: Dims = ()
    text: str = ""


def f32(*sizes: int, strides: Dims = ()) -> Arg:
    return Arg(sizes, "float", strides)


def bf16(*sizes: int) -> Arg:
    return Arg(sizes, "c10::BFloat16")


def i64(*sizes: int) -> Arg:
    return Arg(sizes, "long int")


def boolean(*sizes: int) -> Arg:
    return Arg(sizes, "bool")


def tensors(*sizes: Dims) -> Arg:
    return Arg(sizes, "TensorList")


def value(text: Any) -> Arg:
    return Arg((), "ScalarList" if isinstance(text, list) else "Scalar", (), str(text))


NONE = Arg((), "")


def signature(*args: Arg) -> Signature:
    return Signature(
        tuple(a.dims for a in args), tuple(a.dtype for a in args),
        tuple(a.strides for a in args) if any(a.strides for a in args) else (), tuple(a.text for a in args),
    )  # fmt: skip


def no_scalars(*args: Arg) -> Signature:
    """The same in a trace without concrete inputs."""
    return Signature(tuple(a.dims for a in args), tuple(a.dtype for a in args))


S, P, D = value([2, 2]), value([1, 1]), value([1, 1])  # stride, padding, dilation
CONV = (f32(2, 4, 9, 9), f32(6, 4, 3, 3))  # stride 2, padding 1: output [2, 6, 5, 5]
QKV = (f32(2, 3, 8, 4),) * 3  # batch 2, 3 heads, 8 positions, width 4
LSE = f32(2, 3, 8)
BTHD = (f32(2, 8, 3, 4),) * 3
ADAM = (tensors((4, 5), (7,)),) * 4

# Name, arguments, flops, bytes, derivation.
CASES: list[tuple[str, tuple[Arg, ...], float, float, str]] = [
    # matrix products
    ("aten::mm", (f32(2, 3), f32(3, 5)), 60, 4 * 31, "2·M·N·K = 2·2·5·3; 6 + 15 in, 10 out"),
    ("aten::mm", (bf16(2, 3), bf16(3, 5)), 60, 2 * 31, "the same at 2 bytes"),
    ("aten::mm", (f32(2, 3), f32(3, 5), f32(2, 5)), 60, 4 * 31, "a given result is no operand"),
    ("aten::mm", (Arg((2, 3), "c10::complex<float>"), Arg((3, 5), "c10::complex<float>")), 240, 8 * 31,
     "complex: 4 products and 4 sums for each of 30 terms"),
    ("aten::addmm", (f32(5), f32(2, 3), f32(3, 5), value(1), value(1)), 60, 4 * (5 + 31), "and the bias of 5"),
    ("aten::addmm", (f32(5), f32(2, 3), f32(3, 5), value(0), value(1)), 60, 4 * 31, "beta = 0: nothing is added"),
    ("aten::addmm_", (f32(2, 5), f32(2, 3), f32(3, 5), value(1), value(1)), 60, 4 * (21 + 20), "result read, written"),
    ("aten::bmm", (f32(7, 2, 3), f32(7, 3, 5)), 420, 4 * 7 * 31, "7 times the product"),
    ("aten::baddbmm", (f32(7, 2, 5), f32(7, 2, 3), f32(7, 3, 5), value(1), value(1)), 420, 4 * 7 * 41, "and 10 each"),
    ("aten::addbmm", (f32(2, 5), f32(7, 2, 3), f32(7, 3, 5), value(1), value(1)), 420, 4 * (7 * 21 + 10 + 10),
     "7 products summed into one [2, 5], which is added to another"),
    ("aten::matmul", (f32(7, 2, 3), f32(3, 5)), 420, 4 * (42 + 15 + 70), "the second factor is shared"),
    ("aten::linear", (f32(7, 2, 3), f32(5, 3), f32(5)), 420, 4 * (42 + 15 + 5 + 70), "2·14·5·3 and the bias"),
    ("aten::mv", (f32(6, 4), f32(4)), 48, 4 * (24 + 4 + 6), "2·M·K"),
    ("aten::addmv_", (f32(6), f32(6, 4), f32(4), value(0), value(1)), 48, 4 * 34, "beta = 0"),
    ("aten::dot", (f32(9), f32(9)), 18, 4 * 19, "2·N; two vectors in, one number out"),
    ("aten::_int_mm", (Arg((2, 3), "signed char"), Arg((3, 5), "signed char")), 60, 6 + 15 + 40, "int32 out"),
    ("aten::_scaled_mm", (Arg((2, 3), "Float8_e4m3fn"), Arg((3, 5), "Float8_e4m3fn"), f32(), f32(), NONE, NONE,
                          value(15), value("True")), 60, 6 + 15 + 8 + 20, "two scales of 4 bytes, bfloat16 out"),
    ("aten::_grouped_mm", (bf16(8, 3), bf16(2, 3, 5), Arg((2,), "int"), NONE, NONE), 240, 2 * (24 + 30 + 40) + 8,
     "2·8·5·3, each row in one group; offsets of 8 bytes"),
    # convolutions
    ("aten::mkldnn_convolution", (*CONV, f32(6), P, S, D, value(1)), 2 * 300 * 36, 4 * (648 + 216 + 6 + 300),
     "2·N·Cout·H·W·Cin·k² = 2·(2·6·5·5)·(4·9)"),
    ("aten::convolution", (*CONV, NONE, S, P, D, value("False"), value([0, 0]), value(1)), 21600, 4 * 1164, "no bias"),
    ("aten::cudnn_convolution", (*CONV, P, S, D, value(1), value(0), value(0), value(1)), 21600, 4 * 1164, "as above"),
    ("aten::miopen_convolution", (*CONV, NONE, P, S, D, value(1), value(0), value(0)), 21600, 4 * 1164, "as above"),
    ("aten::_slow_conv2d_forward", (*CONV, value([3, 3]), f32(6), S, P), 21600, 4 * 1170, "with a bias"),
    ("aten::conv1d", (f32(1, 2, 10), f32(3, 2, 3), NONE, value([1]), value([0]), value([1]), value(1)), 288,
     4 * (20 + 18 + 24), "output [1, 3, 8]: 2·24·(2·3)"),
    ("aten::_conv_depthwise2d", (f32(1, 4, 8, 8), f32(4, 1, 3, 3), value([3, 3]), NONE, value([1, 1]), P, D), 4608,
     4 * (256 + 36 + 256), "one input channel per output: 2·256·9"),
    ("aten::conv2d", (f32(1, 1, 9, 9), f32(1, 1, 3, 3), NONE, value([1, 1]), value([0, 0]), value([2, 2]), value(1)),
     2 * 25 * 9, 4 * (81 + 9 + 25), "dilation 2 reaches 5: 9 − 5 + 1 = 5"),
    ("aten::convolution", (f32(1, 2, 4, 4), f32(2, 3, 2, 2), NONE, value([2, 2]), value([0, 0]), D, value("True"),
                           value([0, 0]), value(1)), 2 * 32 * 12, 4 * (32 + 24 + 192),
     "transposed: 2·N·Cin·H·W·Cout·k²; output [1, 3, 8, 8]"),
    ("aten::convolution_backward", (f32(2, 6, 5, 5), *CONV, value([6]), S, P, D, value("False"), value([0, 0]),
                                    value(1), value([True, True, False])), 43200, 4 * (1164 + 1164),
     "two gradients: dy, w → dx and dy, x → dw"),
    ("aten::convolution_backward", (f32(2, 6, 5, 5), *CONV, value([6]), S, P, D, value("False"), value([0, 0]),
                                    value(1), value([False, True, True])), 21600 + 300, 4 * (1164 + 6),
     "dy, x → dw; the bias sums dy"),
    ("aten::cudnn_convolution_backward", (CONV[0], f32(2, 6, 5, 5), CONV[1], P), 43200, 4 * 2328, "arguments by 2020"),
    # attention
    ("aten::_scaled_dot_product_flash_attention", (*QKV, value(0.0), value("False"), value("False")), 6144,
     4 * (4 * 192 + 48), "4·B·H·T²·D = 4·6·64·4; Q, K, V, O and 48 row sums"),
    ("aten::_scaled_dot_product_flash_attention", (*QKV, value(0.0), value("True"), value("False")), 3072,
     4 * (4 * 192 + 48), "causal: half the pairs"),
    ("aten::_scaled_dot_product_flash_attention_for_cpu", (*QKV, value(0.0), value("False"), f32(8, 8)), 6144,
     4 * (4 * 192 + 48 + 64), "with a mask of 64"),
    ("aten::_flash_attention_forward", (*BTHD, NONE, NONE, value(8), value(8), value(0.0), value("True"),
                                        value("False"), value(0.5)), 3072, 4 * 816, "[B, T, H, D]"),
    ("aten::_scaled_dot_product_flash_attention", (f32(2, 6, 8, 4), f32(2, 3, 8, 4), f32(2, 3, 8, 4), value(0.0),
                                                   value("False")), 12288, 4 * (2 * 384 + 2 * 192 + 96),
     "grouped queries: flops by query heads, bytes by what is stored"),
    ("aten::_efficient_attention_forward", (*BTHD, NONE, NONE, NONE, value(8), value(8), value(0.0), value(1),
                                            value("False")), 3072, 4 * 768, "mask type 1 is causal; no row sums"),
    ("aten::_scaled_dot_product_attention_math", (*QKV, NONE, value(0.0), value("False")), 6144,
     4 * (4 * 192 + 4 * 384), "the scores and their softmax are written and read: 4·B·H·T²"),
    ("aten::_scaled_dot_product_flash_attention_backward", (QKV[0], *QKV, QKV[0], LSE, NONE, NONE, value(8), value(8),
                                                            value(0.0), value("False")), 15360, 4 * (8 * 192 + 48),
     "5 products: 2.5 times forward; 5 tensors and row sums in, 3 out"),
    ("aten::_flash_attention_backward", (BTHD[0], *BTHD, BTHD[0], LSE, NONE, NONE, value(8), value(8), value(0.0),
                                         value("True")), 7680, 4 * (8 * 192 + 48), "causal"),
    # normalisations
    ("aten::native_layer_norm", (f32(6, 8), value([8]), f32(8), f32(8), value(1e-5)), 48 * 7, 4 * (96 + 16 + 12),
     "mean, deviation, square, sum, scale, weight, bias; mean and 1/σ of 6 rows"),
    ("aten::native_layer_norm", (f32(6, 8), value([8]), NONE, NONE, value(1e-5)), 48 * 5, 4 * (96 + 12), "plain"),
    ("aten::_fused_rms_norm", (f32(6, 8), value([8]), f32(8), NONE), 48 * 4, 4 * (96 + 8 + 6), "square, sum, ·, ·w"),
    ("aten::native_batch_norm", (f32(2, 4, 5), f32(4), f32(4), f32(4), f32(4), value("True"), value(0.1), value(1e-5)),
     40 * 7, 4 * (80 + 16 + 8), "4 vectors in, 2 statistics of 4 channels out"),
    ("aten::cudnn_batch_norm", (f32(2, 4, 5), f32(4), f32(4), f32(4), f32(4), value("False"), value(0.1), value(1e-5)),
     40 * 4, 4 * (80 + 16), "inference: difference, scale, weight, bias"),
    ("aten::native_group_norm", (f32(2, 4, 5), NONE, NONE, value(2), value(4), value(5), value(2), value(1e-5)), 200,
     4 * (80 + 8), "2·2 groups with two statistics"),
    ("aten::native_layer_norm_backward", (f32(6, 8), f32(6, 8), value([8]), f32(6, 1), f32(6, 1), f32(8), f32(8),
                                          value([True, True, True])), 48 * 13, 4 * (144 + 12 + 16 + 16),
     "9 for dx, 1 for dy·w, 2 for dw, 1 for db"),
    ("aten::_softmax", (f32(6, 8), value(1), value("False")), 240, 4 * 96, "maximum, difference, exp, sum, quotient"),
    ("aten::_softmax", (bf16(6, 8), value(1), value("True")), 240, 2 * 48 + 4 * 48, "float32 out"),
    ("aten::_log_softmax_backward_data", (f32(6, 8), f32(6, 8), value(1), value(6)), 192, 4 * 144, "4 per element"),
    # elementwise
    ("aten::add", (f32(4, 6), f32(4, 6), value(1)), 24, 4 * 72, "two in, one out"),
    ("aten::add", (f32(4, 6), f32(6), value(1)), 24, 4 * (24 + 6 + 24), "a broadcast row is read once"),
    ("aten::mul", (f32(4, 6), f32(4, 6, strides=(1, 0))), 24, 4 * (24 + 4 + 24), "stride 0: 4 distinct elements"),
    ("aten::add_", (f32(4, 6), f32(4, 6), value(1)), 24, 4 * 72, "self and other in, self out"),
    ("aten::mul", (bf16(4, 6), Arg((), "double")), 24, 2 * 48 + 8, "a wrapped number does not promote"),
    ("aten::gt", (f32(4, 6), value(0)), 24, 4 * 24 + 24, "the result is bool"),
    ("aten::where", (boolean(4, 6), f32(4, 6), f32(4, 6)), 24, 24 + 4 * 72, "mask of 1 byte"),
    ("aten::gelu", (f32(24), NONE), 120, 4 * 48, "x/√2, erf, +1, ·½, ·x"),
    ("aten::silu", (f32(24),), 120, 4 * 48, "neg, exp, +1, quotient, ·x"),
    ("aten::threshold_backward", (f32(24), f32(24), value(0)), 24, 4 * 72, "gradient and result in"),
    ("aten::gelu_backward", (f32(24), f32(24), NONE), 264, 4 * 72, "11 per element"),
    ("aten::addcmul", (f32(24), f32(24), f32(24), value(1)), 72, 4 * 96, "product, ·value, sum"),
    ("aten::clamp_min", (f32(24), value(0), f32(24)), 24, 4 * 48, "a given result is no operand"),
    ("aten::masked_fill_", (f32(24), boolean(24), value(0)), 24, 8 * 24 + 24, "in place"),
    # reductions
    ("aten::sum", (f32(4, 6), value([1]), value("False"), NONE), 24, 4 * (24 + 4), "4 sums"),
    ("aten::sum", (f32(4, 6), NONE), 24, 4 * 25, "one sum"),
    ("aten::sum", (i64(4, 6), value([0]), value("False"), NONE), 24, 8 * 30, "integers"),
    ("aten::mean", (f32(4, 6), value([-1]), value("True"), NONE), 24, 4 * 28, "negative dimension"),
    ("aten::argmax", (f32(4, 6), value(1), value("False")), 24, 4 * 24 + 8 * 4, "positions are int64"),
    ("aten::max", (f32(4, 6), value(1), value("False")), 24, 4 * 24 + 12 * 4, "values and positions"),
    ("aten::var", (f32(4, 6), value([1]), NONE, value("False")), 96, 4 * 28, "mean, deviation, square, sum"),
    ("aten::linalg_vector_norm", (f32(4, 6), value(2), NONE, value("False"), NONE), 48, 4 * 25, "square and sum"),
    ("aten::cumsum", (f32(4, 6), value(1), NONE), 24, 4 * 48, "as large as the input"),
    ("aten::topk", (f32(4, 6), value(2), value(-1), value("True"), value("True")), 24, 4 * 24 + 12 * 8, "8 of each"),
    ("aten::sort", (f32(4, 8), value(-1), value("False")), 96, 4 * 64 + 8 * 32, "log2(8) comparisons per element"),
    # indexing
    ("aten::index_select", (f32(100, 6), value(0), i64(5)), 0, 40 + 4 * 60, "5 indices, 5 rows in, 5 rows out"),
    ("aten::embedding", (f32(100, 6), i64(3, 5), value(-1)), 0, 8 * 15 + 4 * 180, "15 rows"),
    ("aten::embedding", (f32(4, 6), i64(3, 5), value(-1)), 0, 8 * 15 + 4 * (24 + 90), "at most the whole table"),
    ("aten::gather", (f32(4, 6), value(1), i64(4, 2), value("False")), 0, 64 + 4 * 16, "8 elements"),
    ("aten::scatter_add_", (f32(4, 6), value(1), i64(4, 2), f32(4, 2)), 8, 64 + 4 * 24, "8 in; 8 read and written"),
    ("aten::scatter_add", (f32(4, 6), value(1), i64(4, 2), f32(4, 2)), 8, 64 + 4 * 24 + 4 * 48, "and a copy"),
    ("aten::index_add_", (f32(9, 6), value(0), i64(2), f32(2, 6), value(1)), 12, 16 + 4 * 36, "2 rows of 6"),
    ("aten::index_copy_", (f32(9, 6), value(0), i64(2), f32(2, 6)), 0, 16 + 4 * 24, "rows only written"),
    ("aten::embedding_dense_backward", (f32(3, 5, 6), i64(3, 5), value(20), value(-1), value("False")), 90,
     8 * 15 + 4 * (90 + 120 + 180), "gradient in, 20·6 zeros, 15 rows read and written"),
    ("aten::_embedding_bag", (f32(20, 6), i64(15), i64(3), value("False"), value(0), value("False"), NONE,
                              value("False"), value(-1)), 90, 8 * 15 + 8 * 3 + 4 * (90 + 18) + 8 * 15,
     "15 rows into 3 bags, and the bag of each index"),
    ("aten::nll_loss_forward", (f32(5, 9), i64(5), NONE, value(1), value(-100)), 5, 4 * 5 + 40 + 8, "one per row"),
    ("aten::nll_loss_backward", (f32(), f32(5, 9), i64(5), NONE, value(1), value(-100), f32()), 5, 4 + 40 + 4 * 45,
     "the whole gradient is written"),
    ("aten::mse_loss", (f32(24), f32(24), value(1)), 72, 4 * 49, "difference, square, sum"),
    # copies, random numbers
    ("aten::copy_", (bf16(4, 6), f32(4, 6), value("False")), 0, 2 * 24 + 4 * 24, "a change of type is no arithmetic"),
    ("aten::copy_", (f32(4, 6), f32(4, 6, strides=(0, 1)), value("False")), 0, 4 * (24 + 6), "source expanded"),
    ("aten::_to_copy", (f32(24), value(15), NONE, NONE, NONE, value("False"), NONE), 0, 6 * 24, "to bfloat16"),
    ("aten::fill_", (f32(24), value(0)), 0, 4 * 24, "written only"),
    ("aten::constant_pad_nd", (f32(4, 6), value([1, 2]), value(0)), 0, 4 * (24 + 36), "rows of 9"),
    ("aten::native_dropout", (f32(24), value(0.1), value("True")), 48, 4 * 48 + 24, "result and a mask of bool"),
    ("aten::normal_", (f32(24), value(0), value(1), NONE), 0, 4 * 24, "written only"),
    # pooling
    ("aten::max_pool2d_with_indices", (f32(1, 2, 8, 8), value([2, 2]), value([]), value([0, 0]), value([1, 1]),
                                       value("False")), 128, 4 * (128 + 32) + 8 * 32, "4 per output, and positions"),
    ("aten::avg_pool2d", (f32(1, 2, 9, 9), value([3]), value([2]), value([1]), value("True"), value("True"), NONE),
     450, 4 * (162 + 50), "windows of 9, output 5×5"),
    ("aten::max_pool2d_with_indices_backward", (f32(1, 2, 4, 4), f32(1, 2, 8, 8), value([2, 2]), value([]),
                                                value([0, 0]), value([1, 1]), value("False"), i64(1, 2, 4, 4)),
     32, 4 * 32 + 8 * 32 + 4 * 128, "one addition per gradient"),
    ("aten::upsample_nearest2d", (f32(1, 2, 4, 4), value([8, 8]), NONE, NONE), 0, 4 * (32 + 128), "4 of each"),
    ("aten::upsample_nearest2d", (f32(1, 2, 4, 4), NONE, value([2.0, 2.0])), 0, 4 * (32 + 128), "by factors"),
]  # fmt: skip

LIST_CASES: list[tuple[str, tuple[Arg, ...], float, float, str]] = [
    ("aten::cat", (tensors((2, 3), (4, 3)), value(0)), 0, 4 * 36, "18 in, 18 out"),
    ("aten::_foreach_add_", (tensors((4, 5), (7,)), tensors((4, 5), (7,)), value(1)), 27, 4 * 81, "27 elements"),
    ("aten::_foreach_sqrt", (tensors((4, 5), (7,)),), 27, 4 * 54, "one in, one out"),
    ("aten::_foreach_norm", (tensors((4, 5), (7,)), value(2), NONE), 54, 4 * 29, "two results"),
    ("aten::_fused_adamw_", (*ADAM, Arg((), "TensorList"), tensors((), ()), value(1e-3), value(0.9), value(0.999),
                             value(0.01), value(1e-8), value("False"), value("False")), 15 * 27, 7 * 4 * 27,
     "7·N·s: p, g, m, v in; p, m, v out"),
    ("aten::_fused_adam_", (*ADAM, Arg((), "TensorList"), tensors((), ()), value(1e-3), value(0.9), value(0.999),
                            value(0), value(1e-8), value("False"), value("False")), 14 * 27, 28 * 27, "no decay"),
    ("aten::_fused_sgd_", (*ADAM[:3], value(0), value(0.9), value(0.1)), 5 * 27, 5 * 4 * 27, "p, g, m in; p, m out"),
]  # fmt: skip

NO_WORK = [
    ("aten::view", "view"), ("aten::as_strided", "view"), ("aten::empty", "view"), ("aten::t", "view"),
    ("aten::resize_", "view"), ("detach", "view"), ("aten::to", "wrapper"), ("aten::contiguous", "wrapper"),
    ("AddmmBackward0", "wrapper"), ("torch::autograd::AccumulateGrad", "wrapper"), ("nn.Module: Linear_0", "wrapper"),
    ("autograd::engine::evaluate_function: AddmmBackward0", "wrapper"), ("Torch-Compiled Region: 0/0", "wrapper"),
    ("Optimizer.step#SGD.step", "wrapper"), ("enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", "host"),
]  # fmt: skip


def test_there_are_as_many_cases_as_promised() -> None:
    assert len(CASES) + len(LIST_CASES) >= 60


@pytest.mark.parametrize(("name", "args", "flops", "moved", "why"), CASES, ids=[f"{c[0]}: {c[4]}" for c in CASES])
def test_a_call_costs_what_was_derived(name: str, args: tuple[Arg, ...], flops: float, moved: float, why: str) -> None:
    found = cost(name, signature(*args))
    assert (found.flops, found.bytes, found.reason) == (flops, moved, None), why
    assert found.footprint_bytes is not None and found.footprint_bytes <= moved
    assert found.kind not in ("unknown", "view", "wrapper")


@pytest.mark.parametrize(("name", "args", "flops", "moved", "why"), LIST_CASES, ids=[c[0] for c in LIST_CASES])
def test_a_list_of_tensors_costs_their_sum(
    name: str, args: tuple[Arg, ...], flops: float, moved: float, why: str
) -> None:
    found = cost(name, signature(*args), Hints(element="float", source="told"))
    assert (found.flops, found.bytes, found.assumes) == (flops, moved, "told"), why
    assert cost(name, signature(*args)).reason == "element type of a tensor list not recorded"


@pytest.mark.parametrize(("name", "kind"), NO_WORK)
def test_what_only_calls_others_costs_nothing(name: str, kind: str) -> None:
    for arguments in (None, signature(f32(4, 6))):
        found = cost(name, arguments)
        assert (found.flops, found.bytes, found.kind) == (0, 0, kind) and known(found)


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("aten::mm", None, "no shapes recorded"),
        ("aten::foo", signature(f32(3)), "no model for aten::foo"),
        ("aten::sum", no_scalars(f32(4, 6), NONE, value(1), NONE), "scalar `dim` not recorded"),
        ("aten::cudnn_convolution", no_scalars(*CONV, P, S, D, value(1)), "scalar `stride` not recorded"),
        ("aten::mm", signature(f32(2, 3), f32(4, 5)), "inner sizes disagree"),
        ("aten::add", signature(f32(2, 3), f32(4)), "sizes do not broadcast"),
        ("aten::relu", signature(f32(2, 3, strides=(-1, 1))), "negative stride"),
        ("aten::relu", signature(f32(2, 3, strides=(1,))), "sizes and strides disagree"),
        ("aten::relu", signature(f32(-2, 3)), "negative size"),
        ("aten::relu", signature(Arg((2,), "odd type")), "unknown dtype 'odd type'"),
        ("aten::relu", signature(f32(2**40, 2**40)), "more elements than torch can count"),
        ("aten::nonzero", signature(f32(3)), "size of the result depends on the data"),
        ("aten::index", signature(f32(3), NONE), "sizes of the index tensors not recorded"),
        ("aten::cat", signature(Arg((), "TensorList"), value(0)), "sizes of a tensor list not recorded"),
    ],
)
def test_what_the_record_does_not_tell_is_unknown(name: str, arguments: Signature | None, reason: str) -> None:
    found = cost(name, arguments)
    assert found.reason == reason
    assert not known(found)


def test_attention_keeps_its_traffic_where_the_mask_is_unknown() -> None:
    found = cost("aten::_scaled_dot_product_flash_attention", no_scalars(*QKV, value(0.0), value("True")))
    assert (found.flops, found.bytes) == (None, 4 * 816)
    assert found.reason == "scalar `is_causal` not recorded"


def test_packed_sequences_are_known_only_where_all_are_equally_long() -> None:
    def packed(longest: int) -> Cost:
        q = f32(16, 3, 4)
        lengths = Arg((3,), "int")
        args = (q, q, q, lengths, lengths, value(longest), value(longest), value(0.0), value("False"), value("False"))
        return cost("aten::_flash_attention_forward", signature(*args))

    assert packed(8).flops == 4 * 2 * 3 * 64 * 4
    assert packed(9).flops is None


def test_ten_to_the_twelve_elements_and_none_have_a_cost() -> None:
    assert cost("aten::relu", signature(f32(10**6, 10**6))).bytes == 8e12
    assert cost("aten::mm", signature(f32(0, 3), f32(3, 5))).flops == 0
    assert cost("aten::convolution_backward", signature(*[f32(0)] * 11)).reason is not None


def test_a_sum_over_an_unrecorded_dimension_is_known_where_the_result_is_negligible() -> None:
    found = cost("aten::sum", no_scalars(f32(1024, 512), NONE, value(1), NONE))
    assert found.bytes == 4 * 1024 * 512
    assert found.assumes is not None and "at most 1/512" in found.assumes


def test_a_result_seen_elsewhere_replaces_missing_scalars() -> None:
    args = no_scalars(*CONV, P, S, D, value(1), value(0), value(0), value(0))
    found = cost("aten::cudnn_convolution", args, Hints(output=(2, 6, 5, 5), source="seen"))
    assert (found.flops, found.assumes) == (21600, "seen")


def test_in_place_memory_counts_once_in_the_footprint() -> None:
    found = cost("aten::add_", signature(f32(4, 6), f32(4, 6), value(1)))
    assert (found.bytes, found.footprint_bytes) == (4 * 72, 4 * 48)


def test_overload_names_mean_the_operator() -> None:
    assert cost("aten::add.Tensor", signature(f32(4), f32(4), value(1))).flops == 4


@pytest.mark.parametrize(
    ("spelling", "name", "size"),
    [("c10::Half", "float16", 2), ("long", "int64", 8), ("unsigned char", "uint8", 1), ("Float8_e4m3fn",
     "float8_e4m3fn", 1), ("c10::complex<float>", "complex64", 8), ("double", "float64", 8)],
)  # fmt: skip
def test_element_types_of_every_age(spelling: str, name: str, size: int) -> None:
    found = cost("aten::neg", signature(Arg((10,), spelling)))
    assert (found.dtype, found.bytes) == (name, 20 * size)


def test_kernels_of_inductor_pass_every_tensor_once() -> None:
    found = cost("triton_poi_fused_mul_silu_2", signature(bf16(8, 16), bf16(128), value(128)))
    assert (found.flops, found.bytes, found.kind) == (128 * 6, 2 * 256, "pointwise")
    assert found.assumes is not None
    assert cost("triton_poi_fused_frobnicate_2", signature(f32(8))).flops is None


def test_a_collective_carries_its_largest_argument() -> None:
    found = cost("c10d::_allgather_base_", signature(bf16(1024), bf16(128), NONE))
    assert (found.kind, found.bytes) == ("collective", 2048)


def test_registered_costs_come_first_and_may_fail() -> None:
    register("my::op", flops=lambda s: 2 * s.dims[0][0], bytes=100)
    try:
        assert cost("my::op", signature(f32(7))) == Cost(14, 100, "pointwise", "float32", None, 100)
        assert cost("my::op", None).reason == "no shapes recorded"
        register("my::op", flops=lambda s: s.dims[9][0], bytes=lambda s: -1)
        found = cost("my::op", signature(f32(7)))
        assert not known(found) and found.reason is not None and "IndexError" in found.reason
    finally:
        unregister("my::op")
    assert cost("my::op", signature(f32(7))).reason == "no model for my::op"
    with pytest.raises(ValueError, match="finite"):
        register("my::op", flops=-1)


def test_a_call_hands_on_to_what_does_at_least_half_of_it() -> None:
    linear, addmm = (
        cost("aten::linear", signature(f32(2, 3), f32(5, 3))),
        cost("aten::mm", signature(f32(2, 3), f32(3, 5))),
    )
    zeros = cost("aten::fill_", signature(f32(20, 6), value(0)))
    table = cost("aten::embedding_dense_backward", signature(f32(1, 6), i64(1), value(20), value(-1), value("False")))
    assert delegates(linear, [addmm])
    assert not delegates(linear, [zeros])
    assert not delegates(table, [zeros])
    assert not delegates(addmm, [])
    assert delegates(cost("aten::einsum", signature(NONE, tensors((2, 3), (3, 5)))), [addmm])


def test_the_documented_example_holds() -> None:
    text = (Path(__file__).parents[1] / "docs" / "cost_model.md").read_text()
    example = text.partition("```python\n")[2].partition("```")[0]
    assert "assert" in example
    exec(example, {})
