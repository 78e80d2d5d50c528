"""Flops and bytes of single calls equal those derived by hand; each case spells its derivation out."""

from __future__ import annotations

import pytest
from cost_cases import (
    CASES,
    CONV,
    LIST_CASES,
    NONE,
    QKV,
    Arg,
    D,
    P,
    S,
    bf16,
    f32,
    i64,
    signature,
    tensors,
    value,
)
from places import ROOT

from probe.analyzers.cost_models import cost, known, register
from probe.analyzers.cost_models.attribution import delegates
from probe.analyzers.cost_models.call import Hints
from probe.analyzers.cost_models.registry import unregister
from probe.analyzers.cost_models.terms import Cost
from probe.trace import Signature


def no_scalars(*args: Arg) -> Signature:
    """The same in a trace without concrete inputs."""
    return Signature(tuple(a.dims for a in args), tuple(a.dtype for a in args))


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
    text = (ROOT / "docs" / "cost_model.md").read_text()
    example = text.partition("```python\n")[2].partition("```")[0]
    assert "assert" in example
    exec(example, {})
