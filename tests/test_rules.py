"""Rules find what was planted, in several spellings, and stay silent on code that does it right. Real programs."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import GPU, kernel, launch, op, step, write

import probe
from probe.analyzers.rules.catalogue import RULES
from probe.sites import AttentionSite, OptimizerSite

torch = pytest.importorskip("torch")
functional = torch.nn.functional
Step = Callable[[], object]


def found(folder: Path, step_function: Step) -> Any:
    """The diagnosis of a few recorded steps on one thread."""
    from probe import api

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
    return api._diagnose(folder / "run", None, None)


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
    ("optimizer", "kind"),
    [
        (lambda: torch.optim.AdamW(parameters(8), foreach=False, fused=False).step, "adamw"),
        (lambda: torch.optim.Adam(parameters(8), foreach=False, fused=False).step, "adam"),
        (lambda: torch.optim.SGD(parameters(8), lr=0.1, momentum=0.9, foreach=False, fused=False).step, "sgd"),
        (adamw_by_hand, "adamw"),
    ],
    ids=["AdamW", "Adam", "SGD", "by hand"],
)
def test_an_optimizer_loop(tmp_path: Path, optimizer: Callable[[], Step], kind: str) -> None:
    diagnosis = found(tmp_path, optimizer())
    site = diagnosis.found[0].site
    assert diagnosis.found[0].finding.code == "F24", diagnosis.analysis.findings
    assert site == OptimizerSite(kind, ((64, 64),) * 8, "float32")


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
    sdpa, two_products_and_a_classifier, products_of_other_shapes, layer_norm, fused_optimizer, foreach_optimizer,
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
    assert [f.code for f in diagnosis.findings] == ["H01"]


def test_an_event_belongs_to_one_finding(tmp_path: Path) -> None:
    """What the findings save together is never more than the step."""
    q, k, v = qkv(2, 4, 128, 32)
    optimizer = torch.optim.AdamW([q, k, v, *parameters(8)], foreach=False)

    def run() -> None:
        (torch.softmax(q @ k.mT / 5.6, -1) @ v).square().sum().backward()
        optimizer.step()

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
        findings = probe.analyze(foreign_traces / f"{device}_qwen_0.5b_chat.json.gz").findings
        assert [f.code for f in findings][:2] == ["F04", "F01"]
        assert "49 RMSNorms" in findings[0].summary
