"""What is read of attention, caches, experts and embeddings, whether it is known who reads what or only sizes are."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import GPU, kernel, launch, op, shapes, step, write
from real_traces import analysis_of

import probe
from probe.analyzers.rules.context import Context
from probe.analyzers.rules.matching.flow import by_sizes
from probe.examine.examine import Request, examine
from probe.verify.cases import case_of

torch = pytest.importorskip("torch")
functional = torch.nn.functional
Step = Callable[[], object]
TIERS = ["dataflow", "order"]


def found(folder: Path, step_function: Step, monkeypatch: pytest.MonkeyPatch, tier: str = "dataflow") -> Any:
    """The diagnosis of a few recorded steps on one thread; with tier "order" without the tensors."""
    if tier == "order":
        monkeypatch.setattr(Context, "_flow", lambda _self, run: by_sizes(run))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with probe.profile(
            folder / "run", wait=1, warmup=1, active=2, telemetry=False, max_pause_s=60
        ) as prof:  # a busy machine takes longer for the step of the tensors than a user would wait
            prof.quiet = True
            for _ in range(5):
                step_function()
                prof.step()
    finally:
        torch.set_num_threads(threads)
    return examine(folder / "run", Request())


def of(code: str, diagnosis: Any) -> list[Any]:
    """The findings of one rule, with their sites."""
    return [f for f in diagnosis.found if f.finding.code == code]


def qkv(*size: int) -> list[Any]:
    return [torch.randn(*size) for _ in range(3)]


def attended(scores: Any, v: Any) -> Any:
    return torch.softmax(scores, -1) @ v


def lower() -> Any:
    return torch.ones(96, 96).tril()


def upper() -> Any:
    return torch.full((96, 96), -math.inf).triu(1)


def positions() -> Any:
    at = torch.arange(96)
    return at[:, None] >= at


CAUSAL: dict[str, Callable[[Any, Any], Any]] = {
    "filled": lambda s, v: attended(s.masked_fill(lower() == 0, -math.inf), v),
    "inverted": lambda s, v: attended(s.masked_fill(~lower().bool(), -math.inf), v),
    "added": lambda s, v: attended(s + upper(), v),
    "added of four": lambda s, v: attended(s + upper()[None, None], v),
    "chosen": lambda s, v: attended(torch.where(lower().bool(), s, torch.tensor(-1e9)), v),
    "scaled": lambda s, v: attended(s + (1.0 - lower()) * -1e9, v),
    "positions": lambda s, v: attended(s.masked_fill(~positions(), -1e9), v),
    "transformer": lambda s, v: attended(s + torch.nn.Transformer.generate_square_subsequent_mask(96), v),
}
OUTSIDE = lower()
PADDING = torch.zeros(96, 96, dtype=torch.bool)
OTHER: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "buffer": ("boolean", lambda s, v: attended(s.masked_fill(OUTSIDE == 0, -math.inf), v)),
    "band": ("boolean", lambda s, v: attended(s.masked_fill(lower().triu(-8) == 0, -math.inf), v)),
    "diagonal": ("boolean", lambda s, v: attended(s.masked_fill(torch.ones(96, 96).triu(2).bool(), -1e9), v)),
    "padded": ("boolean", lambda s, v: attended(s.masked_fill((lower() == 0) | PADDING, -1e9), v)),
    "twice": ("boolean", lambda s, v: attended(s.masked_fill(lower() == 0, -1e9).masked_fill(PADDING, -1e9), v)),
    "learned": ("additive", lambda s, v: attended(s + OUTSIDE, v)),
}


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("form", CAUSAL)
def test_a_mask_made_in_the_step_is_known_to_be_causal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, tier: str
) -> None:
    q, k, v = qkv(2, 4, 96, 32)
    (one,) = of("F06", found(tmp_path, lambda: CAUSAL[form](q @ k.mT, v), monkeypatch, tier))
    assert (one.site.mask, one.finding.matched) == ("causal", tier)
    assert "is_causal=True" in one.finding.how
    assert one.finding.how == case_of(one.site).candidates[0].code_line


@pytest.mark.parametrize("form", OTHER)
def test_other_masks_are_not_called_causal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    q, k, v = qkv(2, 4, 96, 32)
    kind, attention = OTHER[form]
    (one,) = of("F06", found(tmp_path, lambda: attention(q @ k.mT, v), monkeypatch))
    assert one.site.mask == kind


@pytest.mark.parametrize("tier", TIERS)
def test_values_on_the_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tier: str) -> None:
    """An autoencoder's: [B, C, keys] times the weights turned over."""
    q, k, v = torch.randn(2, 80, 48), torch.randn(2, 48, 112), torch.randn(2, 24, 112)
    (one,) = of("F06", found(tmp_path, lambda: v @ torch.softmax(q @ k / 7.0, 2).transpose(1, 2), monkeypatch, tier))
    assert (one.site.query, one.site.key, one.site.value) == ((2, 80, 48), (2, 112, 48), (2, 112, 24))


@pytest.mark.parametrize("tier", TIERS)
def test_a_cap_on_the_logits_is_not_for_sdpa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tier: str) -> None:
    q, k, v = qkv(2, 4, 96, 32)
    (one,) = of("F06", found(tmp_path, lambda: attended(20 * torch.tanh(q @ k.mT / 20), v), monkeypatch, tier))
    assert one.site is None
    assert "flex_attention" in one.finding.how


def test_a_mask_of_numbers_is_added_as_its_logarithm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = qkv(2, 4, 96, 32)
    near = (torch.rand(96, 96) > 0.3).float()

    def run() -> Any:
        weights = torch.exp(q @ k.mT / 6.0) * near
        return (weights @ v) / weights.sum(-1, keepdim=True)

    (one,) = of("F06", found(tmp_path, run, monkeypatch))
    assert "attn_mask=mask.log()" in one.finding.how
    advised = functional.scaled_dot_product_attention(q, k, v, attn_mask=near.log(), scale=1 / 6.0)
    torch.testing.assert_close(advised, run())


@pytest.mark.parametrize(("width", "values"), [(48, 32), (32, 48)])
def test_narrower_heads_are_filled_up_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, values: int
) -> None:
    q, k, v = torch.randn(2, 4, 96, width), torch.randn(2, 4, 96, width), torch.randn(2, 4, 96, values)

    def run() -> Any:
        return attended(q @ k.mT * width**-0.5, v)

    (one,) = of("F06", found(tmp_path, run, monkeypatch))
    line = one.finding.how.partition("  #")[0]
    assert "F.pad(" in line
    torch.testing.assert_close(eval(line, {"F": functional, "q": q, "k": k, "v": v, "scale": None}), run())
    assert line in {candidate.code_line for candidate in case_of(one.site).candidates}


def test_a_bias_that_learns_promises_nothing_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (x.requires_grad_() for x in qkv(2, 4, 96, 32))
    table, far = torch.randn(9, requires_grad=True), (torch.arange(96)[:, None] - torch.arange(96)).abs().clamp(max=8)
    learned = found(tmp_path / "1", lambda: attended(q @ k.mT + table[far], v).sum().backward(), monkeypatch)
    given = found(tmp_path / "2", lambda: attended(q @ k.mT + far, v).sum().backward(), monkeypatch)
    assert [f.finding.saving_s is None for f in (*of("F06", learned), *of("F06", given))] == [True, False]


def test_weights_that_are_returned_are_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = torch.nn.MultiheadAttention(64, 2, batch_first=True), torch.randn(2, 512, 64)
    (one,) = of("F06", found(tmp_path, lambda: module(x, x, x)[0].sum().backward(), monkeypatch))
    assert any("need_weights=False" in line for line in one.finding.evidence)
    assert one.site.training


def test_scores_that_another_softmax_reads_are_no_attention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, slots, y = torch.randn(4, 96, 64), torch.randn(4, 64, 96), torch.randn(4, 96, 64)

    def run() -> object:
        scores = x @ slots
        return scores.softmax(1).mT @ x, scores.softmax(-1) @ y

    assert of("F06", found(tmp_path, run, monkeypatch)) == []


@pytest.mark.parametrize("tier", TIERS)
def test_a_router_is_no_attention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tier: str) -> None:
    x, gate, mix = torch.randn(128, 256), torch.randn(256, 96), torch.randn(96, 256)
    assert of("F06", found(tmp_path, lambda: torch.softmax(x @ gate, -1) @ mix, monkeypatch, tier)) == []


def test_unrelated_products_that_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes alone would allow it: only the tensors tell."""
    q, k, v = qkv(4, 96, 96)
    other = torch.randn(4, 96, 96)
    assert of("F06", found(tmp_path, lambda: (q @ k, other.softmax(-1), q @ v), monkeypatch)) == []


CLONED = shapes([8, 64, 64], [8, 64, 64])


def attention_events(*between: str) -> list[Any]:
    """One step of two products with the named operators on 8 × 64 × 64 scores between them."""
    calls = [("bmm", shapes([8, 64, 32], [8, 32, 64]))]
    calls += [(name, CLONED if name == "add" else shapes([8, 64, 64])) for name in between]
    calls += [("bmm", shapes([8, 64, 64], [8, 64, 32]))]
    return [
        step(1, 0, 100 * len(calls)),
        *(op(f"aten::{name}", 100 * at, 90, **args) for at, (name, args) in enumerate(calls)),
    ]


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        (("_softmax",), True),
        (("div", "_softmax", "native_dropout"), True),
        (("add", "_softmax", "clone"), True),
        (("_softmax", "native_layer_norm"), False),
        (("relu", "_softmax"), False),
        (("div", "exp"), False),
    ],
)
def test_what_may_stand_between_by_sizes_only(tmp_path: Path, between: tuple[str, ...], expected: bool) -> None:
    codes = {f.code for f in probe.analyze(write(tmp_path, attention_events(*between))).findings}
    assert ("F06" in codes) == expected


def sdpa_events(math_path: bool, query: list[int]) -> list[Any]:
    """A step on a GPU whose SDPA ran its plain form, or a fused kernel."""
    args = shapes(query, query, query)
    name = "aten::_scaled_dot_product_attention_math" if math_path else "aten::_scaled_dot_product_flash_attention"
    return [
        step(1, 0, 2000),
        op("aten::scaled_dot_product_attention", 10, 500, **args),
        op(name, 20, 480, **args),
        op("aten::bmm", 30, 100, **args),
        launch(1, 40),
        op("aten::_softmax", 150, 100, **args),
        launch(2, 160),
        kernel("gemm", 200, 300, 1),
        kernel("softmax", 500, 1000, 2),
    ]


@pytest.mark.parametrize(("math_path", "expected"), [(True, ["F07"]), (False, [])])
def test_sdpa_that_fell_back_on_a_gpu(tmp_path: Path, math_path: bool, expected: list[str]) -> None:
    events = sdpa_events(math_path, [2, 4, 64, 32])
    findings = probe.analyze(write(tmp_path, events, deviceProperties=GPU)).findings
    assert [f.code for f in findings if f.code == "F07"] == expected
    if expected:
        assert 0 < (findings[0].saving_s or 0) <= 1000e-6  # the softmax, as far as the step waits for it


def test_why_sdpa_fell_back(tmp_path: Path) -> None:
    three = probe.analyze(write(tmp_path, sdpa_events(True, [8, 64, 32]), deviceProperties=GPU)).findings[0]
    assert "3 dimensions" in three.summary
    wide = probe.analyze(write(tmp_path, sdpa_events(True, [2, 4, 64, 512]), deviceProperties=GPU)).findings[0]
    assert "wider than 256" in wide.summary


def test_dropout_in_sdpa_on_a_cpu_is_not_complained_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = qkv(2, 4, 96, 32)
    dropped = found(tmp_path, lambda: functional.scaled_dot_product_attention(q, k, v, dropout_p=0.1), monkeypatch)
    assert of("F07", dropped) == []


def test_a_mask_from_outside_promises_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = qkv(2, 4, 96, 32)
    (one,) = of(
        "F08", found(tmp_path, lambda: functional.scaled_dot_product_attention(q, k, v, OUTSIDE.bool()), monkeypatch)
    )
    assert one.finding.saving_s is None
    per_head = OUTSIDE.expand(1, 4, 96, 96).bool()
    several = found(
        tmp_path / "b", lambda: functional.scaled_dot_product_attention(q, k, v, per_head.contiguous()), monkeypatch
    )
    assert of("F08", several) == []


def cats(*lengths: int, twice: bool = True) -> list[Any]:
    """Steps of which each appends one token to caches of the given lengths."""
    events: list[Any] = []
    for number, length in enumerate(lengths):
        events.append(step(number + 1, 1000 * number, 1000))
        sizes = [[[2, 8, length, 64], [2, 8, 1, 64]], []]
        for at in range(1 + twice):
            args = {"Input Dims": sizes, "Input type": ["TensorList", "Scalar"], "Concrete Inputs": ["", "2"]}
            events.append(op("aten::cat", 1000 * number + 400 * at, 300, **args))
    return events


@pytest.mark.parametrize(
    ("lengths", "twice", "expected"),
    [((100, 101, 102), True, True), ((100, 100, 100), True, False), ((100, 101), False, False), ((7, 9), True, False)],
)
def test_caches_that_grow(tmp_path: Path, lengths: tuple[int, ...], twice: bool, expected: bool) -> None:
    codes = {f.code for f in probe.analyze(write(tmp_path, cats(*lengths, twice=twice))).findings}
    assert ("F29" in codes) == expected


@pytest.mark.parametrize("tier", TIERS)
def test_logits_that_are_read_whole_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tier: str) -> None:
    layer, x = torch.nn.Linear(64, 2000), torch.randn(2, 64, 64)

    def read(whole: bool) -> Step:
        def run() -> object:
            with torch.no_grad():
                logits = layer(x)
                return logits[:, -1].argmax(-1), logits.log_softmax(-1) if whole else None

        return run

    assert of("F30", found(tmp_path / "a", read(whole=True), monkeypatch, tier)) == []
    (one,) = of("F30", found(tmp_path / "b", read(whole=False), monkeypatch, tier))
    assert one.finding.saving_bytes == 2 * 63 * 2000 * 4


def test_a_tied_table_needs_its_dense_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = torch.nn.Parameter(torch.randn(20_000, 64))
    ids = torch.randint(0, 20_000, (4, 8))

    def tied() -> None:
        table.grad = None
        (functional.embedding(ids, table) @ table.T).square().mean().backward()

    def alone() -> None:
        table.grad = None
        functional.embedding(ids, table).square().mean().backward()

    assert of("F22", found(tmp_path / "a", tied, monkeypatch)) == []
    assert len(of("F22", found(tmp_path / "b", alone, monkeypatch))) == 1


def test_a_graph_is_used_where_a_backward_pass_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(6)))
    x = torch.randn(64, 64)
    assert of("H14", found(tmp_path / "a", lambda: layers(x).sum().backward(), monkeypatch)) == []
    assert len(of("H14", found(tmp_path / "b", lambda: layers(x), monkeypatch))) == 1
    with torch.no_grad():
        assert of("H14", found(tmp_path / "c", lambda: layers(x), monkeypatch)) == []


def test_products_that_need_one_another_are_no_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = torch.randn(32, 32) / 6, torch.randn(8, 32)

    def chained() -> object:
        y = x
        for _ in range(32):
            y = torch.tanh(y @ w)
        return y

    assert of("F21", found(tmp_path / "a", chained, monkeypatch)) == []
    (one,) = of("F21", found(tmp_path / "b", lambda: [torch.tanh(x @ w) for _ in range(32)], monkeypatch))
    assert one.finding.matched == "dataflow"


def test_the_reports_of_others_traces(foreign_traces: Path) -> None:
    """Flash attention and library norms: nothing here to say, but that BERT's trace records a graph for nothing."""
    for name in ("h100_qwen_0.5b_chat", "mi300x_qwen_0.5b_chat", "v100_resnet50_training", "h100_bert_small"):
        codes = {f.code for f in analysis_of(foreign_traces / f"{name}.json.gz").findings}
        assert not codes & {"F06", "F08", "F21", "F28", "F29", "E15"}, name
    assert "E15" in {f.code for f in analysis_of(foreign_traces / "mi300x_resnet_checkpointing_rank0.json.gz").findings}
