"""Rules find what was planted, in several spellings, and stay silent on code that does it right. Real programs."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import GPU, kernel, launch, op, step, write
from real_traces import analysis_of

import probe
from probe.analyzers import diagnosis as diagnosis_module
from probe.analyzers.rules import catalogue
from probe.analyzers.rules.catalogue import RULES
from probe.analyzers.rules.matching.marks import Marked
from probe.analyzers.rules.updates import optimizer
from probe.examine.examine import Request, examine
from probe.machine.device import Ceilings
from probe.sites import AttentionSite, OptimizerSite
from probe.verify.cases import case_of

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.flaky(reruns=2)  # real programs: a busy machine deschedules them
functional = torch.nn.functional
Step = Callable[[], object]


def found(folder: Path, step_function: Step) -> Any:
    """The diagnosis of a few recorded steps on one thread."""

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with probe.profile(folder / "run", wait=1, warmup=1, active=2) as prof:
            prof.quiet = True
            for _ in range(5):
                step_function()
                prof.step()
    finally:
        torch.set_num_threads(threads)
    return examine(folder / "run", Request())


def codes(diagnosis: Any, least: float = 0.0) -> set[str]:
    return {f.code for f in diagnosis.analysis.findings if (f.saving_fraction or 0.0) >= least}


def qkv(*size: int) -> list[Any]:
    return [torch.randn(*size, requires_grad=True) for _ in range(3)]


def attention_4d() -> Step:
    q, k, v = qkv(2, 4, 128, 32)
    return lambda: torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(32), dim=-1) @ v


def attention_scaled_query() -> Step:
    q, k, v = qkv(2, 4, 128, 32)
    return lambda: torch.matmul(functional.softmax(torch.matmul(q * 32**-0.5, k.mT), -1), v)


def attention_masked() -> Step:
    q, k, v = qkv(2, 4, 128, 32)
    causal = torch.ones(128, 128).tril().bool()
    return lambda: (q @ k.mT * 0.2).masked_fill(~causal, float("-inf")).softmax(-1) @ v


def attention_additive_mask() -> Step:
    q, k, v = qkv(2, 4, 128, 32)
    mask = torch.zeros(1, 1, 128, 128)
    return lambda: torch.softmax(q @ k.mT / 5.6 + mask, -1) @ v


def attention_baddbmm() -> Step:
    q, k, v = qkv(8, 128, 32)
    bias = torch.zeros(8, 128, 128)
    return lambda: torch.bmm(torch.baddbmm(bias, q, k.mT, alpha=0.2).softmax(-1), v)


def attention_einsum() -> Step:
    q, k, v = qkv(2, 4, 128, 32)
    return lambda: torch.einsum("bhts,bhsd->bhtd", torch.einsum("bhtd,bhsd->bhts", q, k).softmax(-1), v)


def attention_by_hand_softmax() -> Step:
    q, k, v = qkv(2, 4, 128, 32)

    def run() -> object:
        scores = q @ k.mT / 5.6
        weights = torch.exp(scores - scores.amax(-1, keepdim=True))
        return (weights / weights.sum(-1, keepdim=True)) @ v

    return run


def attention_with_dropout() -> Step:
    q, k, v = qkv(2, 4, 128, 32)
    return lambda: functional.dropout(torch.softmax(q @ k.mT / 5.6, -1), 0.1) @ v


def attention_trained() -> Step:
    q, k, v = qkv(2, 4, 128, 32)
    return lambda: (torch.softmax(q @ k.mT / 5.6, -1) @ v).sum().backward()


ATTENTIONS = [
    attention_4d, attention_scaled_query, attention_masked, attention_additive_mask, attention_baddbmm,
    attention_einsum, attention_by_hand_softmax, attention_with_dropout, attention_trained,
]  # fmt: skip


@pytest.mark.parametrize("program", ATTENTIONS, ids=lambda p: p.__name__)
def test_naive_attention_in_every_spelling(tmp_path: Path, program: Callable[[], Step]) -> None:
    diagnosis = found(tmp_path, program())
    first = diagnosis.found[0]
    assert first.finding.code == "F06", diagnosis.analysis.findings
    assert isinstance(first.site, AttentionSite)
    assert (math.prod(first.site.query), first.site.query[-2:], first.site.key[-2:]) == (
        2 * 4 * 128 * 32,
        (128, 32),
        (128, 32),
    )
    assert first.finding.saving_s > 0
    assert first.finding.ops


def test_what_the_site_records(tmp_path: Path) -> None:
    assert found(tmp_path / "a", attention_masked()).found[0].site.mask == "boolean"
    assert found(tmp_path / "b", attention_additive_mask()).found[0].site.mask == "additive"
    assert found(tmp_path / "c", attention_4d()).found[0].site.mask == "none"
    assert found(tmp_path / "d", attention_with_dropout()).found[0].site.dropout in (0.0, 0.1)


def test_training_is_recognised_by_its_backward_pass(tmp_path: Path) -> None:
    assert found(tmp_path / "a", attention_trained()).found[0].site.training
    assert not found(tmp_path / "b", attention_4d()).found[0].site.training


ASSUMED = "the factor was not recorded; 1/sqrt(D) is assumed for the proof"


def recorded(folder: Path, step_function: Step) -> tuple[AttentionSite, Any]:
    """The site and the finding of the attention in a program."""
    first = found(folder, step_function).found[0]
    assert first.finding.code == "F06"
    assert first.finding.how == case_of(first.site).candidates[0].code_line
    return first.site, first.finding


def test_the_scale_is_what_was_recorded_and_else_said_to_be_assumed(tmp_path: Path) -> None:
    site, finding = recorded(tmp_path / "a", attention_baddbmm())
    assert (site.scale, site.mask) == (0.2, "additive")
    assert "scale=0.2" in finding.how
    assert ASSUMED not in finding.evidence
    site, finding = recorded(tmp_path / "b", attention_4d())
    assert site.scale == 32**-0.5
    assert ASSUMED in finding.evidence
    for name, program in (("c", attention_scaled_query), ("d", attention_einsum)):
        site, finding = recorded(tmp_path / name, program())
        assert site.scale is None
        assert ASSUMED not in finding.evidence
        assert finding.how.startswith("F.scaled_dot_product_attention(q, k, v, scale=1.0)  # keep your own scaling")


def test_a_softmax_spelled_out_is_no_scaling(tmp_path: Path) -> None:
    q, k, v = qkv(2, 4, 128, 32)

    def run() -> object:
        weights = torch.exp(q @ k.mT)
        return (weights / weights.sum(-1, keepdim=True)) @ v

    assert recorded(tmp_path, run)[0].scale is None


def test_the_line_runs_and_says_the_same(tmp_path: Path) -> None:
    q, k, v = qkv(2, 4, 128, 32)
    mask = torch.ones(128, 128).triu(1).bool()

    def filled() -> object:
        return (q @ k.mT / math.sqrt(32)).masked_fill(mask, -math.inf).softmax(-1) @ v

    def chosen() -> object:
        return (
            torch.where(mask.T.logical_or(torch.eye(128).bool()), q @ k.mT / math.sqrt(32), -math.inf).softmax(-1) @ v
        )

    how = recorded(tmp_path / "a", filled)[1].how
    torch.testing.assert_close(eval(how, {"F": functional, "q": q, "k": k, "v": v, "mask": mask}), filled())
    how = recorded(tmp_path / "b", chosen)[1].how
    keep = torch.ones(128, 128).tril().bool()
    torch.testing.assert_close(eval(how, {"F": functional, "q": q, "k": k, "v": v, "mask": keep}), chosen())


@pytest.mark.parametrize("dim", [-2, 1, 3])
def test_the_softmax_must_be_over_the_last_dimension(tmp_path: Path, dim: int) -> None:
    q, k, v = qkv(2, 4, 128, 32)
    diagnosis = found(tmp_path, lambda: torch.softmax(q @ k.mT, dim) @ v)
    assert ("F06" in codes(diagnosis)) == (dim == 3)


def test_a_softmax_without_its_dimension_is_taken_and_said_so(tmp_path: Path) -> None:
    """Old traces have sizes and no scalars."""
    scores, value = [8, 128, 128], [8, 128, 32]
    calls = (("bmm", [value, [8, 32, 128]]), ("_softmax", [scores, []]), ("bmm", [scores, value]))
    events = [step(1, 0, 1000)]
    for at, (name, sizes) in enumerate(calls):
        events.append(op(f"aten::{name}", 300 * at, 200, **{"Input Dims": sizes, "Input type": ["float", "float"]}))
    finding = next(f for f in probe.analyze(write(tmp_path, events)).findings if f.code == "F06")
    assert "the dimension of the softmax was not recorded; the last is assumed" in finding.evidence


@pytest.mark.parametrize(
    ("dtype", "softmax", "softmax_dtype", "size"),
    [
        (torch.float64, None, None, "1 MiB"),
        (torch.bfloat16, torch.float32, "float32", "256 KiB"),
        (torch.bfloat16, None, None, "256 KiB"),
    ],
)
def test_types_of_the_product_and_of_the_softmax(
    tmp_path: Path, dtype: Any, softmax: Any, softmax_dtype: str | None, size: str
) -> None:
    q, k, v = (t.detach().to(dtype) for t in qkv(2, 4, 128, 32))
    site, finding = recorded(tmp_path, lambda: functional.softmax(q @ k.mT, -1, dtype=softmax).to(dtype) @ v)
    assert (site.dtype, site.softmax_dtype) == (str(dtype).removeprefix("torch."), softmax_dtype)
    assert f"softmax pass {size}" in finding.summary


def test_dropout_in_evaluation_is_none(tmp_path: Path) -> None:
    q, k, v = qkv(2, 4, 128, 32)
    site, _ = recorded(tmp_path, lambda: functional.dropout((q @ k.mT).softmax(-1), 0.1, training=False) @ v)
    assert site.dropout == 0.0


def rmsnorm() -> Step:
    x, weight = torch.randn(256, 512), torch.randn(512)
    return lambda: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight


def rmsnorm_of_llama() -> Step:
    x, weight = torch.randn(256, 512, dtype=torch.bfloat16), torch.randn(512, dtype=torch.bfloat16)

    def run() -> object:
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return weight * wide.to(torch.bfloat16)

    return run


def rmsnorm_with_product() -> Step:
    x = torch.randn(256, 512)
    return lambda: x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)


@pytest.mark.parametrize("program", [rmsnorm, rmsnorm_of_llama, rmsnorm_with_product], ids=lambda p: p.__name__)
def test_rmsnorm_by_hand(tmp_path: Path, program: Callable[[], Step]) -> None:
    assert found(tmp_path, program()).found[0].finding.code == "F04"


def test_a_chain_of_pointwise_operators(tmp_path: Path) -> None:
    x = torch.randn(1 << 18)
    diagnosis = found(tmp_path, lambda: torch.sigmoid(torch.tanh(x * 2 + 1)).mul(x))
    assert diagnosis.found[0].finding.code == "F01"


def parameters(count: int) -> list[Any]:
    made = [torch.randn(64, 64, requires_grad=True) for _ in range(count)]
    for parameter in made:
        parameter.grad = torch.randn(64, 64)
    return made


def adamw_by_hand() -> Step:
    weights = [p.detach() for p in parameters(8)]
    moments = [(torch.zeros(64, 64), torch.zeros(64, 64), torch.randn(64, 64)) for _ in weights]

    def run() -> None:
        for weight, (m, v, g) in zip(weights, moments, strict=True):
            weight.mul_(1 - 1e-5)
            m.mul_(0.9).add_(g, alpha=0.1)
            v.mul_(0.999).addcmul_(g, g, value=1e-3)
            weight.addcdiv_(m, v.sqrt().add_(1e-8), value=-1e-3)

    return run


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (lambda: torch.optim.AdamW(parameters(8), foreach=False, fused=False).step, "adamw"),
        (lambda: torch.optim.Adam(parameters(8), foreach=False, fused=False).step, "adam"),
        (lambda: torch.optim.SGD(parameters(8), lr=0.1, momentum=0.9, foreach=False, fused=False).step, "sgd"),
        (adamw_by_hand, "adamw"),
    ],
    ids=["AdamW", "Adam", "SGD", "by hand"],
)
def test_an_optimizer_loop(tmp_path: Path, made: Callable[[], Step], kind: str) -> None:
    diagnosis = found(tmp_path, made())
    site = diagnosis.found[0].site
    assert [f.finding.code for f in diagnosis.found[:1]] == ["F24"], diagnosis.analysis.findings
    assert site == OptimizerSite(kind, ((64, 64),) * 8, "float32")


def context_of(folder: Path, step_function: Step, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the rules see of a program."""
    seen: list[Any] = []

    def listening(context: Any, index_of_group: Any, **options: Any) -> Any:
        seen.append(context)
        return catalogue.findings(context, index_of_group, **options)

    monkeypatch.setattr(diagnosis_module, "findings", listening)
    found(folder, step_function)
    return seen[0]


SGD_OPTIONS: tuple[dict[str, Any], ...] = (
    {}, {"weight_decay": 0.1}, {"maximize": True}, {"weight_decay": 0.1, "maximize": True},
    {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.5}, {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "weight_decay": 0.1}, {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
    {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True, "maximize": True},
)  # fmt: skip


@pytest.mark.parametrize("options", SGD_OPTIONS, ids=lambda o: "-".join(o) or "plain")
def test_parameters_of_sgd_are_counted_with_all_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    made = torch.optim.SGD(parameters(8), lr=0.1, foreach=False, fused=False, **options)
    (match,) = optimizer.find(context_of(tmp_path, made.step, monkeypatch))
    assert match.site == OptimizerSite("sgd", ((64, 64),) * 8, "float32")
    assert "SGD updates 8 parameters" in match.summary


def test_the_first_step_of_sgd_allocates_its_momentum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = torch.optim.SGD(parameters(8), lr=0.1, foreach=False, momentum=0.9, weight_decay=0.1, nesterov=True)

    def run() -> None:
        made.state.clear()
        made.step()

    (match,) = optimizer.find(context_of(tmp_path, run, monkeypatch))
    assert match.site == OptimizerSite("sgd", ((64, 64),) * 8, "float32")


def test_an_sgd_that_cannot_be_read_has_no_count(tmp_path: Path) -> None:
    """Something of the user's own runs within the step."""
    made = torch.optim.SGD(parameters(8), lr=0.1, foreach=False, fused=False, momentum=0.9)
    made.register_step_post_hook(lambda *_: made.param_groups[0]["params"][0].grad.mul(2))
    first = next(f for f in found(tmp_path, made.step).found if f.finding.code == "F24")
    assert (first.site, first.finding.saving_s) == (None, None)
    assert "SGD updates its parameters one after the other" in first.finding.summary


def test_the_type_of_the_parameters_is_recorded(tmp_path: Path) -> None:
    made = [torch.randn(64, 64, dtype=torch.float64, requires_grad=True) for _ in range(8)]
    for parameter in made:
        parameter.grad = torch.ones_like(parameter)
    first = next(
        f for f in found(tmp_path, torch.optim.AdamW(made, foreach=False).step).found if f.finding.code == "F24"
    )
    assert first.site == OptimizerSite("adamw", ((64, 64),) * 8, "float64")


@pytest.mark.parametrize("code", ["F01", "F04"])
def test_no_saving_is_claimed_where_the_bandwidth_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    x = torch.randn(1 << 18)
    programs = {"F01": lambda: torch.sigmoid(torch.tanh(x * 2 + 1)).mul(x), "F04": rmsnorm()}
    context = context_of(tmp_path, programs[code], monkeypatch)
    assert code in {f.finding.code for f in catalogue.findings(context, {})}
    unknown = replace(context, machine=replace(context.machine, ceilings=Ceilings("assumed", "?")))
    assert unknown.roof_s(1e9) is None
    assert code not in {f.finding.code for f in catalogue.findings(unknown, {})}


def test_steps_of_no_length_have_no_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(tmp_path, attention_4d(), monkeypatch)
    assert catalogue.findings(replace(context, step_s=0.0), {}) == ()


def sdpa() -> Step:
    q, k, v = qkv(2, 4, 128, 32)
    return lambda: functional.scaled_dot_product_attention(q, k, v)


def two_products_and_a_classifier() -> Step:
    x, a, b = torch.randn(128, 64), torch.randn(64, 256), torch.randn(256, 10)
    return lambda: functional.softmax(functional.relu(x @ a) @ b, dim=-1)


def products_of_other_shapes() -> Step:
    x, a, b = torch.randn(128, 64), torch.randn(64, 256), torch.randn(64, 10)

    def run() -> object:
        torch.softmax(x @ a, -1)
        return x @ b

    return run


def layer_norm() -> Step:
    x, layer = torch.randn(256, 512), torch.nn.LayerNorm(512)
    return lambda: layer(x)


def fused_optimizer() -> Step:
    return torch.optim.AdamW(parameters(8), fused=True).step  # type: ignore[no-any-return]


def foreach_optimizer() -> Step:
    return torch.optim.AdamW(parameters(8), foreach=True).step  # type: ignore[no-any-return]


def large_products() -> Step:
    a, b = torch.randn(512, 512), torch.randn(512, 512)
    return lambda: functional.relu(a @ b) @ a


def variance() -> Step:
    x = torch.randn(256, 512)
    return lambda: (x - x.mean(-1, keepdim=True)).pow(2).mean(-1).sqrt()


CLEAN = [
    sdpa, two_products_and_a_classifier, products_of_other_shapes, layer_norm, fused_optimizer,
    large_products, variance,
]  # fmt: skip


@pytest.mark.parametrize("program", CLEAN, ids=lambda p: p.__name__)
def test_silence_on_clean_programs(tmp_path: Path, program: Callable[[], Step]) -> None:
    assert codes(found(tmp_path, program()), least=0.05) == set()


def test_many_tiny_kernels_on_a_gpu(tmp_path: Path) -> None:
    events = [step(1, 0, 20_000)]
    for i in range(800):
        events += [op("aten::add", 20 * i, 15), launch(i, 20 * i + 2, 5), kernel("add", 20 * i + 10, 2, i)]
    diagnosis = probe.analyze(write(tmp_path, events, deviceProperties=GPU))
    assert diagnosis.bound == "overhead"
    assert diagnosis.findings[0].code == "H01"


def test_an_event_belongs_to_one_finding(tmp_path: Path) -> None:
    """What the findings save together is never more than the step."""
    q, k, v = qkv(2, 4, 512, 32)
    made = torch.optim.AdamW([q, k, v, *parameters(8)], foreach=False)

    def run() -> None:
        (torch.softmax(q @ k.mT / 5.6, -1) @ v).square().sum().backward()
        made.step()

    analysis = found(tmp_path, run).analysis
    assert {"F06", "F24"} <= {f.code for f in analysis.findings}
    assert sum(f.saving_fraction or 0.0 for f in analysis.findings) < 1.0


def test_every_rule_says_what_it_cannot_show() -> None:
    assert len({r.code for r in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.trigger and rule.advice and rule.saving and rule.cannot_show


def test_real_traces_have_the_findings_a_reader_would_sign(foreign_traces: Path) -> None:
    """The Qwen traces' RMSNorm and rotary embedding are written out; their attention is flash already."""
    for device in ("h100", "mi300x"):
        findings = analysis_of(foreign_traces / f"{device}_qwen_0.5b_chat.json.gz").findings
        assert [f.code for f in findings][:2] == ["F04", "F11"]
        assert "49 RMSNorms" in findings[0].summary


def test_marks_may_overlap_and_touch() -> None:
    marked = Marked(np.array([0, 10, 20, 50]), np.array([5, 40, 40, 60]))
    asked = [-1, 0, 4, 5, 9, 10, 25, 39, 40, 50, 59, 60]
    spans = [(0, 5), (10, 40), (20, 25), (50, 60)]
    assert marked.holds(np.array(asked)).tolist() == [any(s <= at < e for s, e in spans) for at in asked]
    assert Marked(np.array([]), np.array([])).holds(np.array([1])).tolist() == [False]
