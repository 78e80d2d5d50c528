"""Our Triton kernels in Triton's interpreter: what tests run as a process of its own, to read what it says.

TRITON_INTERPRET must be set before the kernels are defined, and then holds for the whole process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from typing import Any

import pytest

NO_LOOPS = 77  # exit code: this Triton's interpreter cannot run loops with this numpy


def answers(part: str, file: str = __file__) -> Any:
    """What `part` of this file, or of another like it, found in a process with the interpreter."""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, file, part]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    if done.returncode == NO_LOOPS:
        pytest.skip("this Triton's interpreter cannot run loops with this numpy; Triton 3.9 can with all")
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def loops_run() -> bool:
    """Whether a loop whose bounds are computed in a kernel runs: up to Triton 3.6 not with numpy 2.4."""
    import numpy as np

    try:
        int(np.array([1]))
    except TypeError:
        import triton

        return tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 9)
    return True


def saxpy() -> dict[str, float]:
    """The largest difference from numpy's, by "elements/block"."""
    import numpy as np
    import torch

    from probe.kernels.triton.saxpy import saxpy

    found = {}
    for elements, block in ((1, 128), (128, 128), (1000, 128), (5000, 1024)):
        generator = np.random.default_rng(elements)
        x, y = (generator.standard_normal(elements, dtype=np.float32) for _ in range(2))
        result = torch.from_numpy(y.copy())
        saxpy(torch.from_numpy(x), result, 1.5, block=block)
        found[f"{elements}/{block}"] = float(np.abs(result.numpy() - (np.float32(1.5) * x + y)).max())
    return found


# dtype, queries, keys, head_dim, causal, layout of q, k and v
CASES = (
    ("float32", 1, 1, 16, True, "contiguous"),
    ("float32", 17, 17, 16, True, "contiguous"),
    ("float32", 33, 33, 32, True, "swapped"),
    ("float32", 127, 128, 16, False, "contiguous"),
    ("float32", 128, 127, 16, True, "contiguous"),
    ("float32", 33, 65, 64, False, "columns"),
    ("float32", 65, 33, 16, False, "large"),
    ("float32", 40, 40, 16, True, "expanded"),
    ("float16", 33, 33, 16, True, "swapped"),
    ("float16", 17, 128, 16, False, "contiguous"),
    ("float16", 65, 65, 16, True, "large"),
    ("bfloat16", 1, 65, 16, False, "contiguous"),
    ("bfloat16", 33, 33, 32, True, "swapped"),
    ("bfloat16", 127, 128, 16, True, "contiguous"),
    ("bfloat16", 17, 65, 128, False, "contiguous"),
    ("bfloat16", 65, 65, 16, False, "large"),
    ("bfloat16", 17, 17, 256, True, "contiguous"),
)
SHARED = 22.0  # a component of all q and k of the "large" cases: with head_dim 16 every logit is near 121
Case = tuple[str, int, int, int, bool, str]


def label(case: Case) -> str:
    """The case in a word."""
    dtype, queries, keys, head_dim, causal, layout = case
    return f"{dtype}-{queries}x{keys}x{head_dim}-{'causal' if causal else 'full'}-{layout}"


def tensors(case: Case, device: str = "cpu") -> Any:
    """q, k, v and d_out of a case."""
    import torch

    dtype, queries, keys, head_dim, _, layout = case
    batch, heads = (2, 3) if layout == "swapped" else (1, 2)
    generator = torch.Generator().manual_seed(queries * 1000 + keys)

    def one(positions: int, *, shared: bool = False) -> torch.Tensor:
        sizes = {"swapped": (batch, positions, heads, head_dim), "columns": (batch, heads, head_dim, positions)}
        sizes |= {"expanded": (batch, 1, positions, head_dim)}
        made = torch.randn(sizes.get(layout, (batch, heads, positions, head_dim)), generator=generator)
        if layout == "large" and shared:
            made[..., 0] = SHARED
        made = made.to(device, getattr(torch, dtype))
        views = {"swapped": lambda: made.transpose(1, 2), "columns": lambda: made.transpose(2, 3)}
        views |= {"expanded": lambda: made.expand(batch, heads, positions, head_dim)}
        return views.get(layout, lambda: made)()

    return one(queries, shared=True), one(keys, shared=True), one(keys), one(queries)


def failures(case: Case, device: str = "cpu") -> list[str]:
    """What our attention gets wrong of a case: output and gradients, by the rule of probe.verify.numeric.

    That is: no more than twice the error of torch's own composition of operators in the same dtype, and a floor.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from probe.kernels.triton.attention import attention
    from probe.verify.numeric import compare

    q, k, v, d_out = tensors(case, device)
    causal = case[4]

    def results(way: Any, wide: bool) -> list[torch.Tensor]:
        inputs = [(t.double() if wide else t).detach().requires_grad_() for t in (q, k, v)]
        out = way(*inputs)
        return [out.detach(), *torch.autograd.grad(out, inputs, d_out.to(out.dtype))]

    def torchs(*inputs: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return torch.nn.functional.scaled_dot_product_attention(*inputs, is_causal=causal)

    new = results(lambda *inputs: attention(*inputs, causal=causal), False)
    exact, old = results(torchs, True), results(torchs, False)
    found = []
    for name, before, after, right in zip(("out", "d_q", "d_k", "d_v"), old, new, exact, strict=True):
        if not right.any() and right.numel():  # of one key: two equal sums are subtracted, which round differently
            zero = 16 * torch.finfo(after.dtype).eps * float(d_out.norm() * v.norm() * max(q.norm(), k.norm()))
            found += [f"{name}: {after.abs().max()} instead of 0"] if after.abs().max() > zero else []
        else:
            condition = conditions(case, gradient=name in ("d_q", "d_k"))
            check = compare(name, before, after, right, condition=condition)
            found += [f"{name}: {check.failure}"] if check.failure else []
    return found


def conditions(case: Case, *, gradient: bool) -> float:
    """How far right results may differ more than with ordinary inputs, in the "large" cases.

    In float32 a logit of 121 is known to 121 eps. In half precision logits are exact enough, but what is rounded of the
    gradients of the scores, whose sum is 0, is multiplied by the shared component.
    """
    if case[5] != "large":
        return 1.0
    return SHARED**2 / 4 if case[0] == "float32" else SHARED if gradient else 1.0


def attention() -> dict[str, Any]:
    """What is wrong of each case, and what the special ones give."""
    return {"cases": {label(case): failures(case) for case in CASES}, **special()}


def special() -> dict[str, Any]:
    """Queries that see nothing, a scale, and tiles of every proportion."""
    import torch

    from probe.kernels.triton.attention import attention, forward
    from probe.kernels.triton.attention_problem import problem
    from probe.kernels.triton.attention_tiles import Tiles

    q = torch.ones(1, 1, 20, 16, requires_grad=True)
    nothing = torch.ones(1, 1, 0, 16)
    unseen = attention(q, nothing, nothing)
    [d_q] = torch.autograd.grad(unseen.sum(), q)
    infinite = attention(q.detach(), torch.full((1, 1, 20, 16), float("-inf")), torch.ones(1, 1, 20, 16))
    none = attention(q[:, :, :0], q, q)
    q, k, v, _ = tensors(("float32", 70, 70, 16, True, "contiguous"))
    exact = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.7)
    call = problem(q, k, v, causal=True, scale=0.7)
    tiles = [Tiles(a, b, 1, 1) for a, b in ((16, 16), (16, 64), (64, 16), (128, 32))]
    differences = [float((forward(call, one).out - exact).abs().max()) for one in tiles]
    zeros = [float(t.detach().abs().max()) for t in (unseen, d_q, infinite)]
    return {"zeros": zeros, "no_queries": list(none.shape), "tiles": differences}


if __name__ == "__main__":
    if not loops_run():
        sys.exit(NO_LOOPS)
    warnings.simplefilter("ignore")  # numpy's, of numbers that the kernels mask afterwards
    sys.stdout.write(json.dumps({"saxpy": saxpy, "attention": attention}[sys.argv[1]]()))
