"""Does our Triton attention compute attention and its gradients, for odd sizes, strides, masks and large scores?"""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import triton_interpreted
from triton_interpreted import CASES, Case, label

from probe.errors import UnavailableError, UsageError

pytest.importorskip("triton")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    answers: Mapping[str, Any] = triton_interpreted.of_torch_kernels(tmp_path_factory)["attention"]
    return answers


@pytest.mark.parametrize("case", CASES, ids=label)
def test_output_and_gradients_are_as_exact_as_torchs(found: Mapping[str, Any], case: Case) -> None:
    assert found["cases"][label(case)] == []


def test_queries_that_see_nothing_give_zeros(found: Mapping[str, Any]) -> None:
    assert found["zeros"] == [0.0, 0.0, 0.0]
    assert found["no_queries"] == [1, 1, 0, 16]


def test_results_do_not_depend_on_the_tiles(found: Mapping[str, Any]) -> None:
    assert len(found["tiles"]) == 4
    assert max(found["tiles"]) < 1e-5


@pytest.mark.parametrize(
    ("shape", "more", "match"),
    [
        ((1, 1, 8, 24), {}, "head_dim is 24"),
        ((1, 1, 8, 256), {}, "head_dim is 256"),  # float32
        ((1, 8, 16), {}, r"must be \[batch"),
        ((1, 1, 8, 16), {"scale": 0.0}, "scale is 0"),
        ((1, 1, 8, 16), {"scale": -1.0}, "above 0"),
    ],
)
def test_what_it_cannot_do_is_refused(shape: tuple[int, ...], more: dict[str, Any], match: str) -> None:
    from probe.kernels.triton.attention import attention

    q = torch.ones(shape)
    with pytest.raises(UsageError, match=match):
        attention(q, q, q, **more)


def test_tensors_that_do_not_fit_together_are_refused() -> None:
    from probe.kernels.triton.attention import attention

    q = torch.ones(1, 2, 8, 16)
    with pytest.raises(UsageError, match="one device"):
        attention(q, q.half(), q.half())
    with pytest.raises(UsageError, match="k like v"):
        attention(q, q, q[:, :, :4])
    with pytest.raises(UsageError, match="must be"):
        attention(q, q[:, :1], q[:, :1])
    with pytest.raises(UsageError, match="float32, float16"):
        attention(q.double(), q.double(), q.double())


def test_without_a_gpu_it_says_so() -> None:
    from probe.kernels.triton.attention import attention

    q = torch.ones(1, 2, 8, 16)
    with pytest.raises(UnavailableError, match="TRITON_INTERPRET"):
        attention(q, q, q)


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=label)
def test_output_and_gradients_on_a_gpu(case: Case) -> None:
    assert triton_interpreted.failures(case, "cuda") == []


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("head_dim", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("causal", [False, True])
def test_every_head_dim_on_a_gpu(dtype: str, head_dim: int, causal: bool) -> None:
    if (dtype, head_dim) == ("float32", 256):
        pytest.skip("refused")
    assert triton_interpreted.failures((dtype, 515, 515, head_dim, causal, "swapped"), "cuda") == []
