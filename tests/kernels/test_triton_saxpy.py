"""Does our Triton saxpy compute y = a x + y, and refuse what it cannot do?"""

from collections.abc import Mapping

import pytest
import torch
import triton_interpreted

from probe.errors import UnavailableError, UsageError

pytest.importorskip("triton")


@pytest.fixture(scope="module")
def differences(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, float]:
    found: Mapping[str, float] = triton_interpreted.of_torch_kernels(tmp_path_factory)["saxpy"]
    return found


@pytest.mark.parametrize("elements_block", ["1/128", "128/128", "1000/128", "5000/1024"])
def test_it_is_numpys(differences: Mapping[str, float], elements_block: str) -> None:
    assert differences[elements_block] <= 1e-6


def test_what_it_cannot_do_is_refused() -> None:
    from probe.kernels.triton.saxpy import saxpy

    x = torch.ones(8)
    with pytest.raises(UsageError, match="differ"):
        saxpy(x, torch.ones(9), 1.0)
    with pytest.raises(UsageError, match="float32"):
        saxpy(x.double(), x.double(), 1.0)
    with pytest.raises(UsageError, match="contiguous"):
        saxpy(torch.ones(16)[::2], x, 1.0)
    with pytest.raises(UnavailableError, match="cpu"):
        saxpy(x, x.clone(), 1.0)


@pytest.mark.gpu
@pytest.mark.parametrize("elements", [1, 1000, 1 << 20])
def test_it_is_torchs_on_a_gpu(elements: int) -> None:
    from probe.kernels.triton.saxpy import saxpy

    x, y = (torch.randn(elements, device="cuda") for _ in range(2))
    expected = 1.5 * x + y
    saxpy(x, y, 1.5)
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)
