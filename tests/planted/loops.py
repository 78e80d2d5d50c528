"""Python loops over rows (F20), and programs that have no need of one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from planted.program import Step, clean, planted

# F20: loops over rows


@planted("F20")
def rows_written_one_by_one() -> Step:
    x, w = torch.randn(400, 64), torch.randn(64)

    def step() -> Tensor:
        out = torch.empty_like(x)
        for i in range(x.shape[0]):
            out[i] = torch.tanh(x[i] * w) + 1
        return out

    return step


@planted("F20")
def rows_stacked() -> Step:
    x = torch.randn(300, 128)

    def step() -> Tensor:
        return torch.stack([(row - row.mean()) / (row.std() + 1e-5) for row in x])

    return step


@planted("F20")
def a_growing_cat() -> Step:
    x = torch.randn(200, 256)

    def step() -> Tensor:
        out = torch.empty(0, 256)
        for i in range(len(x)):
            out = torch.cat([out, x[i : i + 1] * 2])
        return out

    return step


@planted("F20")
def a_sample_at_a_time_in_training() -> Step:
    """Each sample's own length is masked in a loop, forward and backward."""
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64))
    x, lengths = torch.randn(64, 40, 32), torch.randint(1, 40, (64,)).tolist()

    def step() -> None:
        hidden = model(x)
        pooled = [hidden[b, :n].sum(0) / n for b, n in enumerate(lengths)]
        torch.stack(pooled).square().mean().backward()

    return step


@planted("F20")
def boxes_compared_in_pairs() -> Step:
    boxes = torch.rand(24, 4)

    def step() -> Tensor:
        scores = torch.zeros(24, 24)
        for i in range(24):
            for j in range(24):
                low, high = torch.maximum(boxes[i, :2], boxes[j, :2]), torch.minimum(boxes[i, 2:], boxes[j, 2:])
                scores[i, j] = (high - low).clamp(min=0).prod()
        return scores

    return step


@planted("F20")
def looked_up_one_by_one() -> Step:
    table, keys = torch.randn(1000, 32), torch.randint(0, 1000, (300, 4))

    def step() -> Tensor:
        found = []
        for i in range(len(keys)):
            found.append(table.index_select(0, keys[i]).sum(dim=0))
        return torch.stack(found)

    return step


@planted("F20")
def a_recurrence_over_time() -> Step:
    """A scan: each step needs the one before."""
    decay, x = torch.rand(8, 128, 64), torch.randn(8, 128, 64)

    def step() -> Tensor:
        h, states = torch.zeros(8, 64), []
        for t in range(x.shape[1]):
            h = decay[:, t] * h + x[:, t]
            states.append(h)
        return torch.stack(states, 1)

    return step


@clean
def rows_at_once() -> Step:
    x, w = torch.randn(2000, 512), torch.randn(512, 512)
    return lambda: F.layer_norm(x @ w, (512,))


@clean
def large_chunks_by_design() -> Step:
    """A loop over chunks that are each worth their call."""
    x, w = torch.randn(16 * 512, 256), torch.randn(256, 256)

    def step() -> Tensor:
        return torch.cat([torch.tanh(x[i : i + 512] @ w) for i in range(0, len(x), 512)])

    return step


@clean
def layers_that_split_their_channels() -> Step:
    """Twelve layers with slices in each: a loop over layers is no loop over rows."""
    layers = [nn.Linear(256, 512, bias=False) for _ in range(12)]
    x = torch.randn(512, 256)

    def step() -> Tensor:
        y = x
        with torch.inference_mode():
            for layer in layers:
                y = F.glu(layer(y))
        return y

    return step
