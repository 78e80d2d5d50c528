"""Fused forms and loops over tensors: proposed where the roles can be told, right by verify's own gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

import probe
from probe.examine.examine import Request, examine
from probe.sites import AttentionSite, ChainSite, LoopSite, Site
from probe.verify.attention import attention_case, scored_candidate
from probe.verify.bench import bench
from probe.verify.case import Candidate
from probe.verify.cases import case_of
from probe.verify.chain import chain_case, drawn
from probe.verify.engine import verify_case
from probe.verify.numeric import baselines, gate
from probe.verify.program import program_of
from probe.verify.proposal import Proposal
from probe.verify.replacements import attention_backends, cuda_graph, fused_forms, precision
from probe.verify.tensor_loops import CODES, FORMS, loop_case

pytest.importorskip("triton")


def recorded(folder: Path, step: Callable[[], object], code: str) -> Site:
    """The site that probe finds in a recording of the step."""
    with probe.profile(folder / "run", wait=2, warmup=1, active=3, telemetry=False) as session:
        session.quiet = True
        for _ in range(7):
            step()
            session.step()
    found = examine(str(session.path), Request(preview=True)).found
    sites = [one.site for one in found if one.finding.code == code and one.site is not None]
    assert sites, [one.finding.code for one in found]
    return sites[0]


def judged(site: ChainSite, proposals: list[Proposal]) -> list[str | None]:
    case = chain_case(site, proposals)
    assert case.objection is None, case.objection
    against = baselines(case, "cpu", 0)
    return [gate(case, candidate, against).failure for candidate in case.candidates]


def residual() -> Callable[[], object]:
    x, narrow, wide = torch.randn(1024, 1024), torch.randn(1024, 16) / 32, torch.randn(16, 1024)
    weight, bias = torch.rand(1024), torch.rand(1024)

    def step() -> Any:
        stream = x
        for _ in range(3):
            stream = functional.layer_norm(stream + stream @ narrow @ wide, (1024,), weight, bias)
        return stream

    return step


def biased() -> Callable[[], object]:
    x, weight, bias = torch.randn(2048, 128), torch.randn(128, 1024), torch.randn(1024)
    return lambda: functional.gelu(x @ weight + bias)


def rotated() -> Callable[[], object]:
    q, cos, sin = torch.randn(2, 8, 128, 64), torch.randn(1, 1, 128, 64), torch.randn(1, 1, 128, 64)
    halves = cos[..., :32].repeat(1, 1, 1, 2), sin[..., :32].repeat(1, 1, 1, 2)

    def step() -> Any:
        first, second = q.chunk(2, -1)
        return q * halves[0] + torch.cat((-second, first), -1) * halves[1]

    return step


def pointwise() -> Callable[[], object]:
    a, b = torch.randn(512, 1024), torch.randn(512, 1024)
    return lambda: torch.tanh(a * b + a) * torch.sigmoid(b)


FUSED = [
    ("F03", residual, "probe residual_norm"),
    ("F02", biased, "probe bias_activation"),
    ("F01", pointwise, "probe pointwise_chain"),
]


@pytest.mark.flaky(reruns=2)
@pytest.mark.parametrize(("code", "program", "name"), FUSED, ids=[f"{code} {p.__name__}" for code, p, _ in FUSED])
def test_a_fused_form_is_proposed_and_computes_the_same(
    code: str, program: Callable[[], Callable[[], object]], name: str, tmp_path: Path
) -> None:
    site = recorded(tmp_path, program(), code)
    assert isinstance(site, ChainSite)
    found = list(fused_forms.proposals(program_of(site), by="reference"))
    assert [one.name for one in found] == [name], program_of(site).text()
    assert judged(site, found) == [None]


@pytest.mark.flaky(reruns=2)
def test_a_rotation_is_called_by_its_angles(tmp_path: Path) -> None:
    site = recorded(tmp_path, rotated(), "F11")
    assert isinstance(site, ChainSite)
    (found,) = fused_forms.proposals(program_of(site), by="reference")
    inputs = drawn(program_of(site), torch.Generator().manual_seed(0)).tensors
    q = next(t for t in inputs if t.shape[1] == 8)
    angles = [t for t in inputs if t is not q]
    for angle in angles:  # each angle twice, as a program has them; drawn ones are all different
        angle[..., 32:] = angle[..., :32]
    (expected,) = program_of(site).function()(*inputs)
    torch.testing.assert_close(found.function(*inputs), expected)


@pytest.mark.flaky(reruns=2)
def test_outside_its_guard_a_kernel_is_not_offered(tmp_path: Path) -> None:
    site = recorded(tmp_path, pointwise(), "F01")
    assert isinstance(site, ChainSite)
    (found,) = fused_forms.proposals(program_of(site))
    (result,) = verify_case(chain_case(site, [found]), bench("cpu"), 5.0)
    assert result.verified.verdict == "inconclusive"
    assert result.reason.startswith("not offered, outside its guard: a Triton kernel cannot run on cpu tensors")


def test_without_a_gpu_neither_kernels_nor_graphs_are_proposed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    site = recorded(tmp_path, pointwise(), "F01")
    assert isinstance(site, ChainSite)
    program = program_of(site)
    assert not list(fused_forms.propose(program)) and not list(cuda_graph.propose(program))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    (graph,) = cuda_graph.propose(program)
    captured: list[tuple[Any, ...]] = []

    def made(function: Callable[..., Any], samples: tuple[Any, ...]) -> Callable[..., Any]:
        captured.append(samples)
        return function

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", made)
    assert judged(site, [graph]) == [None]
    assert len(captured) == 1  # once, however often it is called


@pytest.mark.flaky(reruns=2)
def test_a_dense_causal_mask_is_the_flag(tmp_path: Path) -> None:
    q, mask = torch.randn(1, 4, 64, 32), torch.ones(64, 64, dtype=torch.bool).tril()
    site = recorded(tmp_path, lambda: functional.scaled_dot_product_attention(q, q, q, attn_mask=mask), "F08")
    assert isinstance(site, ChainSite)
    found = list(attention_backends.propose(program_of(site)))
    assert [one.name for one in found] == ["is_causal"]
    assert judged(site, found) == [None]
    assert "the mask is taken to hide what comes later, and nothing else" in chain_case(site).assumed


@pytest.mark.parametrize("size", [(32, 16), (3, 32, 16), (2, 3, 32, 16), (2, 1, 3, 32, 16)])
@pytest.mark.parametrize("mask", ["none", "additive", "causal"])
def test_attention_of_any_rank_by_the_kernel_that_adds_a_bias(size: tuple[int, ...], mask: Any) -> None:
    site = AttentionSite(size, size, size, "float32", 0.25, mask, 0.0, training=False)
    case = attention_case(site)
    assert not [one for one in case.candidates if one.name.startswith("probe")]  # there is no GPU
    against = baselines(case, "cpu", 0)
    assert gate(case, scored_candidate(site, by="reference"), against).failure is None
    outside = scored_candidate(site).guard
    assert outside is not None and "cannot run on cpu tensors" in str(outside(against[0].inputs))


@pytest.mark.parametrize("values", [8, 24])
def test_attention_with_heads_filled_up_to_one_width(values: int) -> None:
    site = AttentionSite((2, 32, 16), (2, 32, 16), (2, 32, values), "float32", 0.25, "causal", 0.0, training=True)
    case = attention_case(site)
    (padded,) = [one for one in case.candidates if one.name.startswith("padded")]
    assert gate(case, padded, baselines(case, "cpu", 0)).failure is None
    assert not any(one.name.startswith("padded") for one in attention_case(replace(site, value=site.key)).candidates)


def test_autocast_is_held_to_its_types_floor() -> None:
    from recorded_chains import one

    site = replace(one("aten::mm", (64, 32), (32, 48)), code="E02")
    (found,) = precision.propose(program_of(site))
    assert judged(site, [found]) == [None]
    assert judged(site, [replace(found, floor_dtype=None)])[0] is not None
    x, w = drawn(program_of(site), torch.Generator().manual_seed(0)).tensors
    (made,) = found.function(x, w)
    assert made.dtype == torch.float32 and not torch.equal(made, x @ w)


SIZES = tuple((16, 8) if i % 2 else (8,) for i in range(12))


@pytest.mark.parametrize("code", CODES)
def test_loops_over_tensors_have_forms_that_compute_the_same(code: str) -> None:
    case = loop_case(LoopSite(code, SIZES, "float32"))
    assert case.assumed and case.objection is None
    against = baselines(case, "cpu", 0)
    assert [gate(case, one, against).failure for one in case.candidates] == [None] * len(FORMS[code][1])
    wrong = Candidate("wrong", "", lambda inputs: case.original(replace(inputs, changed=inputs.read)))
    assert gate(case, wrong, against).failure is not None or code == "H13"  # whose result does not depend on it


def test_a_loop_leaves_its_inputs() -> None:
    case = loop_case(LoopSite("F27", SIZES, "float32"))
    inputs = case.timed.make(torch.Generator().manual_seed(0))
    before = [t.clone() for t in inputs.changed]
    side = case.original(inputs)
    for _ in range(3):
        side.call()
    assert all(map(torch.equal, inputs.changed, before))


@pytest.mark.parametrize(
    ("site", "said"),
    [
        (LoopSite("F99", SIZES, "float32"), "no replacement is known"),
        (LoopSite("F27", (), "float32"), "no tensors of the loop"),
        (LoopSite("F27", SIZES, "int64"), "is not a floating-point dtype"),
    ],
)
def test_loops_that_cannot_be_run(site: LoopSite, said: str) -> None:
    assert said in str(case_of(site).objection)


def averages() -> Callable[[], object]:
    own, weights = ([torch.randn(24, 24) for _ in range(12)] for _ in range(2))

    def step() -> None:
        for average, weight in zip(own, weights, strict=True):
            average.mul_(0.99).add_(weight, alpha=0.01)

    return step


def clipping() -> Callable[[], object]:
    gradients = [torch.randn(24, 24) for _ in range(12)]

    def step() -> None:
        total = torch.stack([g.norm() for g in gradients]).norm()
        for gradient in gradients:
            gradient.mul_(1.0 / (total + 1e-6))

    return step


def zeroing() -> Callable[[], object]:
    model = torch.nn.Sequential(*(torch.nn.Linear(24, 24) for _ in range(6)))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def step() -> None:
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.zero_()
        model(torch.randn(4, 24)).sum().backward()

    return step


@pytest.mark.flaky(reruns=2)
@pytest.mark.parametrize(("code", "program"), [("F27", averages), ("F26", clipping), ("H13", zeroing)])
def test_a_recorded_loop_is_a_site(code: str, program: Callable[[], Callable[[], object]], tmp_path: Path) -> None:
    site = recorded(tmp_path, program(), code)
    sizes = ((24, 24),) * 12 if code != "H13" else ((24, 24), (24,)) * 6
    assert site == LoopSite(code, sizes, "float32")
