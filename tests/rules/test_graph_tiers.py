"""Which tier finds what: hand-written attention in ten spellings, attention as it should be, decoys, and modules."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from golden import assert_golden
from torch import nn
from torch.nn import functional as F  # noqa: N812

import probe

B, H, T, D = 2, 4, 128, 32
Fn = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Tensor = torch.Tensor


def divided(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(D) + m, -1) @ v


def multiplied(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
    return torch.softmax((q @ k.transpose(-2, -1)) * D**-0.5, -1) @ v


def scaled_query(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
    return torch.softmax((q * D**-0.5) @ k.transpose(-2, -1), -1) @ v


def filled(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
    scores = (q @ k.transpose(-2, -1)) / math.sqrt(D)
    return torch.softmax(scores.masked_fill(m < 0, float("-inf")), -1) @ v


def wide_softmax(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
    scores = (q @ k.transpose(-2, -1)) * D**-0.5 + m
    return torch.softmax(scores, -1, dtype=torch.float32).to(q.dtype) @ v


def einsum(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * D**-0.5
    return torch.einsum("bhij,bhjd->bhid", torch.softmax(scores + m, -1), v)


def batched_sum(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
    q, k, v = (x.reshape(B * H, T, D) for x in (q, k, v))
    scores = torch.baddbmm(m.expand(B * H, T, T), q, k.transpose(1, 2), alpha=D**-0.5)
    return torch.bmm(torch.softmax(scores, -1), v)


def grouped(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
    k, v = (x[:, :2].repeat_interleave(2, 1) for x in (k, v))
    return divided(q, k, v, m)


def alibi(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
    return divided(q, k, v, m + torch.arange(T).float() * -0.1)


def softmax_by_hand(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) / math.sqrt(D) + m
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    return (weights / weights.sum(-1, keepdim=True)) @ v


def sdpa(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=m)


def interleaved(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
    """Products and a softmax of fitting sizes that do not read one another."""
    scores, weights = q @ k.transpose(-2, -1), torch.softmax(k @ v.transpose(-2, -1).flip(0), -1)
    return (scores @ v) + weights.mean()


ATTENTIONS: tuple[Fn, ...] = (
    divided, multiplied, scaled_query, filled, wide_softmax, einsum, batched_sum, grouped, alibi, softmax_by_hand,
)  # fmt: skip
OTHERS: tuple[Fn, ...] = (sdpa, interleaved)


class Calling(nn.Module):
    """A module whose forward pass is a function."""

    def __init__(self, function: Fn) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


class Gate(nn.Module):
    """A decoy: as many choices as tokens. That the second factors are weights, only the graph knows."""

    def __init__(self) -> None:
        super().__init__()
        self.choose, self.mix = (nn.Parameter(torch.randn(*size)) for size in ((D, 2 * T), (2 * T, D)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x @ self.choose, -1) @ self.mix


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class SwiGlu(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up, self.down = (
            nn.Linear(a, b, bias=False) for a, b in ((width, hidden), (width, hidden), (hidden, width))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))  # type: ignore[no-any-return]


class Rope(nn.Module):
    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(length), 1e4 ** -(torch.arange(0, width, 2) / width)).repeat(1, 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return x * self.cos + torch.cat((-second, first), -1) * self.sin


class Layers(nn.Module):
    """The same module several times over."""

    def __init__(self, make: Callable[[], nn.Module], count: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(make() for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


def inputs() -> tuple[Tensor, ...]:
    return (*(torch.randn(B, H, T, D) for _ in range(3)), torch.full((T, T), float("-inf")).triu(1))


def record(folder: Path, model: nn.Module, *tensors: Tensor, trained: bool = False) -> Path:
    """The run of a few steps."""
    with probe.profile(
        folder / "run", wait=2, warmup=2, active=3, telemetry=False, model=model, max_pause_s=60
    ) as prof:
        prof.quiet = True
        for _ in range(8):
            with torch.set_grad_enabled(trained):
                loss = model(*tensors)
            if trained:
                loss.square().mean().backward()
            prof.step()
    assert not prof.warnings
    assert prof.path is not None
    return prof.path


def tiers(run: Path, code: str) -> dict[str, str]:
    """How a rule's finding is matched with what of the run is there: "-" where it is not found."""
    found = {}
    for name, without in {"order": "tg", "dataflow": "g", "graph alone": "t", "all": ""}.items():
        part = run.with_name(f"run of {name}")
        shutil.copytree(run, part)
        for kind in ("tensors", "graph"):
            for file in part.glob(f"{kind}*") if kind[0] in without else ():
                file.unlink()
        matched = [f.matched for f in probe.analyze(part).findings if f.code == code]
        found[name] = "+".join(sorted(set(matched))) or "-"
        shutil.rmtree(part)
    return found


@pytest.mark.flaky(reruns=2)
def test_which_tier_finds_which_spelling(tmp_path: Path) -> None:
    torch.manual_seed(0)
    programs: list[tuple[str, nn.Module, tuple[Tensor, ...]]] = [
        (function.__name__, Calling(function), inputs()) for function in (*ATTENTIONS, *OTHERS)
    ]
    programs.append(("gate", Gate(), (torch.randn(2 * T, D),)))
    rows = [("F06", "order", "dataflow", "graph alone", "all")]
    for name, model, tensors in programs:
        found = tiers(record(tmp_path / name, model, *tensors), "F06")
        rows.append((name, *found.values()))
    assert_golden("graph_tiers.txt", "\n".join("".join(cell.ljust(16) for cell in row).rstrip() for row in rows))
    own = {function.__name__ for function in ATTENTIONS}
    assert {row[0] for row in rows if row[4] == "graph"} == own
    assert {row[0] for row in rows[1:] if row[3] == "graph"} == own


@pytest.mark.flaky(reruns=2)
@pytest.mark.parametrize(
    ("code", "make", "size"),
    [
        ("F04", lambda: Norm(512), (8, 128, 512)),
        ("F12", lambda: SwiGlu(32, 1024), (8, 128, 32)),
        ("F11", lambda: Rope(256, 128), (4, 8, 256, 128)),
    ],
)
@pytest.mark.parametrize("trained", [False, True])
def test_modules_that_are_repeated_are_told_once_with_their_line(
    tmp_path: Path, code: str, make: Callable[[], nn.Module], size: tuple[int, ...], trained: bool
) -> None:
    run = record(tmp_path, Layers(make), torch.randn(size, requires_grad=trained), trained=trained)
    [finding] = [f for f in probe.analyze(run).findings if f.code == code]
    assert finding.matched == "graph"
    assert (finding.module or "").startswith("layers.*")
    [line] = [text for text in finding.evidence if text.startswith("written in")]
    assert "test_graph_tiers.py" in line
    assert line.endswith("called 3 times per step")


@pytest.mark.flaky(reruns=2)
def test_a_model_that_is_called_twice_in_a_step_is_found_twice(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = Norm(512)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.norm(x))  # type: ignore[no-any-return]

    model, x = Twice(), torch.randn(8, 128, 512)
    path = tmp_path / "run"
    with probe.profile(path, wait=2, warmup=2, active=3, telemetry=False, model=model) as prof, torch.no_grad():
        prof.quiet = True
        for _ in range(8):
            model(x)
            model(x[:4])
            prof.step()
    found = [f for f in probe.analyze(path).findings if f.code == "F04"]
    assert {f.matched for f in found} == {"graph"}
    assert len(found) == 2  # of two sizes
    assert all("called twice" in " ".join(f.evidence) or "called 2 times" in " ".join(f.evidence) for f in found)
