"""The numeric gate passes what is as right as the original and catches what is not, in outputs and every gradient."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn import functional

from probe.sites import AttentionSite, OptimizerSite, Site
from probe.verify.attention import Forward, attention_case, attention_side
from probe.verify.attention_inputs import AttentionInputs
from probe.verify.case import Side
from probe.verify.cases import case_of
from probe.verify.numeric import Gate, baselines, compare, gate

SIZES = (2, 3, 40, 16)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On tensors this small a second thread only waits for the first."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def site(**changes: object) -> AttentionSite:
    fields = {
        "query": SIZES, "key": SIZES, "value": SIZES, "dtype": "float32", "scale": 0.25,
        "mask": "none", "dropout": 0.0, "training": True,
    }  # fmt: skip
    return AttentionSite(**(fields | changes))  # type: ignore[arg-type]


def judged(found: Site, build: Callable[..., Side] | None = None, seed: int = 0) -> Gate:
    """The gate of the first candidate, or of `build`."""
    case = case_of(found)
    return gate(
        case, replace(case.candidates[0], build=build or case.candidates[0].build), baselines(case, "cpu", seed)
    )


def candidate(forward: Callable[..., torch.Tensor]) -> Callable[[AttentionInputs], Side]:
    """forward(query, key, value, mask) as a candidate."""
    return lambda inputs: attention_side(partial(forward, mask=inputs.mask), inputs)


def formula(query, key, value, mask=None, scale=0.25):  # type: ignore[no-untyped-def]
    scores = query @ key.transpose(-2, -1) * scale
    return torch.softmax(scores if mask is None else scores + mask, -1) @ value


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mask", ["none", "causal", "additive", "boolean"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_torchs_attention_passes(dtype: str, mask: str, training: bool) -> None:
    found = judged(site(dtype=dtype, mask=mask, training=training))
    assert found.failure is None
    before, after = found.error(gradient=True)
    assert (before is not None) is (after is not None) is training


@pytest.mark.parametrize("sizes", [(7, 5), (6, 33, 16), (2, 2, 2, 9, 8), (1, 1, 1, 4)])
def test_any_number_of_leading_dimensions(sizes: tuple[int, ...]) -> None:
    assert judged(site(query=sizes, key=sizes, value=sizes, mask="causal")).failure is None


def test_more_keys_than_queries_another_value_size_and_a_wider_softmax() -> None:
    found = site(query=(2, 2, 5, 8), key=(2, 2, 9, 8), value=(2, 2, 9, 4), mask="causal", scale=None)
    assert judged(found).failure is None
    assert judged(site(dtype="bfloat16", softmax_dtype="float32")).failure is None


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("number", [0, 1])
def test_torchs_optimizers_pass(kind: str, number: int) -> None:
    case = case_of(OptimizerSite(kind, ((33, 8), (), (0, 4), (3,)), "float32"))  # type: ignore[arg-type]
    assert gate(case, case.candidates[number], baselines(case, "cpu", 0)).failure is None


def test_a_wrong_scale_fails() -> None:
    assert "error" in str(judged(site(), candidate(partial(formula, scale=0.2501))).failure)


def test_a_missing_mask_fails() -> None:
    for mask in ("causal", "additive", "boolean"):
        build = candidate(lambda query, key, value, mask: formula(query, key, value))
        assert judged(site(mask=mask), build).failure


def test_half_precision_inside_fails_for_float32() -> None:
    def half(query, key, value, mask):  # type: ignore[no-untyped-def]
        return formula(query.half(), key.half(), value.half()).float()

    assert "relative L2 error" in str(judged(site(), candidate(half)).failure)


def test_accumulating_in_the_narrow_type_fails_for_long_sums() -> None:
    def narrow(query, key, value, mask):  # type: ignore[no-untyped-def]
        weights = torch.softmax(query @ key.transpose(-2, -1) * 0.25, -1)
        total = torch.zeros_like(query)
        for i in range(key.shape[-2]):
            total = total + weights[..., i : i + 1] * value[..., i : i + 1, :]
        return total

    long = (1, 1, 4, 16), (1, 1, 2000, 16)
    assert judged(site(query=long[0], key=long[1], value=long[1], dtype="bfloat16"), candidate(narrow)).failure


def test_nan_and_overflow_where_the_original_is_finite_fail() -> None:
    def unsafe(query, key, value, mask):  # type: ignore[no-untyped-def]
        weights = torch.exp(query @ key.transpose(-2, -1) * 0.25)  # right, until a logit exceeds 88
        return weights / weights.sum(-1, keepdim=True) @ value

    failure = str(judged(site(training=False), candidate(unsafe)).failure)
    assert "large logits" in failure
    assert "NaN or Inf" in failure


def test_a_fully_masked_row_is_compared_where_the_original_is_finite() -> None:
    case = attention_case(site(mask="boolean", training=False))
    base = next(b for b in baselines(case, "cpu", 0) if b.problem.name == "fully masked row")
    assert base.old.outputs[0].isnan().any()
    assert not base.old.outputs[0].isnan().all()


class _WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor):  # type: ignore[no-untyped-def]
        return tensor.clone()

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return gradient * 1.001


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_an_error_in_one_gradient_alone_fails(wrong: int) -> None:
    def forward(*operands, mask):  # type: ignore[no-untyped-def]
        changed = [_WrongGradient.apply(t) if i == wrong else t for i, t in enumerate(operands)]
        return functional.scaled_dot_product_attention(*changed, scale=0.25)

    assert str(judged(site(), candidate(forward)).failure).startswith(f"gradient {wrong} (recorded sizes)")


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        (lambda q, k, v, mask: formula(q, k, v)[..., :-1], "output 0 is float32[2, 3, 40, 15]"),
        (lambda q, k, v, mask: formula(q, k, v).double(), "output 0 is float64"),
    ],
)
def test_another_shape_or_dtype_fails(forward: Forward, said: str) -> None:
    assert said in str(judged(site(training=False), candidate(forward)).failure)


def test_the_errors_are_those_on_the_recorded_sizes() -> None:
    found = judged(site())
    before, after = found.error(gradient=False)
    assert before is not None
    assert after is not None
    assert 1e-8 < before < 1e-6
    assert after <= 2 * before + 16 * torch.finfo(torch.float32).eps


def test_only_some_slices_of_a_large_problem_are_compared_first_and_last_among_them() -> None:
    large = (3, 200, 256, 4)

    def last_is_wrong(query, key, value, mask):  # type: ignore[no-untyped-def]
        output = formula(query, key, value)
        output.flatten(0, -3)[-1] += 1
        return output

    found = site(query=large, key=large, value=large, training=False)
    assert "recorded sizes" in str(judged(found, candidate(last_is_wrong)).failure)
    assert judged(found).failure is None


def test_nothing_finite_is_no_failure_and_a_zero_reference_has_absolute_errors() -> None:
    nan = torch.full((3,), math.nan)
    assert compare("x", nan, torch.ones(3), nan.double()).failure is None
    zero = torch.zeros(3)
    assert compare("x", zero, zero, zero.double()).failure is None
    assert compare("x", zero, zero + 1, zero.double()).failure
