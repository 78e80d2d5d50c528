"""Which elements does dropout keep? Random numbers from a seed and a position (Philox), computed again when needed.

Nothing is stored but the seed: 64 bits on the device. The number of an element depends on the seed, its row and its
column alone, not on tiles or launches. One Philox call gives four neighbouring columns their numbers.
"""

import torch
import triton
import triton.language as tl

HIGHEST_SEED = 2**62


@triton.jit
def kept(seed, row, first_column, p, rows: tl.constexpr, columns: tl.constexpr):
    """bool [rows, columns]: whether the elements of these rows (int32 [rows]), from `first_column` on, are kept."""
    quarter = first_column // 4 + tl.arange(0, columns // 4)
    zero = row[:, None] * 0 + quarter[None, :] * 0
    r0, r1, r2, r3 = tl.philox(seed, zero + quarter[None, :], zero + row[:, None], zero, zero)
    four = tl.join(tl.join(r0, r2), tl.join(r1, r3))  # the last dimension counts fastest: r0, r1, r2, r3
    return tl.uint_to_uniform_float(tl.reshape(four, (rows, columns))) >= p


def seed_for(like: torch.Tensor, p: float, seed: int | torch.Tensor | None) -> torch.Tensor | None:
    """The seed on the tensor's device; drawn from torch's generator there if None (without waiting for the device)."""
    if p == 0.0:
        return None
    if isinstance(seed, torch.Tensor):
        return seed
    if seed is None:
        return torch.randint(0, HIGHEST_SEED, (1,), device=like.device)
    return torch.full((1,), seed, dtype=torch.int64, device=like.device)


def bad_seed(like: torch.Tensor, seed: int | torch.Tensor | None) -> str | None:
    """Whether it is no seed for a tensor."""
    if isinstance(seed, torch.Tensor):
        right = seed.dtype == torch.int64 and seed.numel() == 1 and seed.device == like.device
        return None if right else "the seed must be one int64 on the device of the input"
    return None if seed is None or 0 <= seed < HIGHEST_SEED else f"the seed must lie in [0, {HIGHEST_SEED})"


def scale_of(p: float) -> float:
    """What kept elements are multiplied by."""
    return 0.0 if p == 1.0 else 1.0 / (1.0 - p)
