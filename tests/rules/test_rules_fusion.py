"""Fusion rules by sizes alone, on a GPU, and where they must stay silent; planted/ has the programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders import GPU, Event, kernel, launch, op, step, write
from pattern_cases import recorded as flow_of
from pattern_cases import units
from real_traces import analysed_now, analysis_of

import probe
from probe.analyzers import diagnosis as diagnosis_module
from probe.analyzers.rules import catalogue
from probe.analyzers.rules.fusion import pointwise
from probe.analyzers.rules.matching.chains import chains
from probe.analyzers.rules.matching.ledger import Ledger

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.flaky(reruns=2)  # real programs: a busy machine deschedules them
from planted import fusion, products  # noqa: E402
from planted.program import PROGRAMS, record  # noqa: E402

functional = torch.nn.functional
X, ROW = (8, 64), (8, 1)


def context_of(make: Callable[[], Any], folder: Path, monkeypatch: pytest.MonkeyPatch, **program: Any) -> Any:
    """What the rules see of a program."""
    seen: list[Any] = []

    def listening(context: Any, index_of_group: Any, **options: Any) -> Any:
        seen.append(context)
        return catalogue.findings(context, index_of_group, **options)

    monkeypatch.setattr(diagnosis_module, "findings", listening)
    record(fusion_program(make), folder)
    return seen[-1]


def fusion_program(make: Callable[[], Any]) -> Any:
    return next((p for p in PROGRAMS if p.make is make), replace(PROGRAMS[0], make=make, name="", code=None))


def codes(context: Any) -> set[str]:
    return {f.finding.code for f in catalogue.findings(context, {})}


def lstm_cell() -> Any:
    x, w = torch.randn(256, 128), torch.randn(128, 512)
    c = torch.randn(256, 128)

    def run() -> Any:
        i, f, g, o = (x @ w).chunk(4, -1)
        return torch.sigmoid(o) * torch.tanh(torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g))

    return run


def squared_relu() -> Any:
    x, w = torch.randn(256, 128), torch.randn(128, 512)
    return lambda: (h := torch.relu(x @ w)) * h


def silu_by_hand() -> Any:
    x, w = torch.randn(256, 128), torch.randn(128, 512)
    return lambda: (h := x @ w) * torch.sigmoid(h)


@pytest.mark.parametrize("make", [lstm_cell, squared_relu, silu_by_hand])
def test_what_is_no_gate_of_two_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    context = context_of(make, tmp_path, monkeypatch)
    assert "F12" not in codes(context)
    if make is not lstm_cell:  # whose σ · tanh of one packed product is a gate by its sizes
        assert "F12" not in codes(replace(context, recorded={}, claimed=set()))


def weighted_sum() -> Any:
    a, b, mask = torch.randn(8, 128, 64), torch.randn(8, 128, 64), torch.rand(8, 128, 1)
    return lambda: a * mask + b * (1 - mask)


def batch_statistics() -> Any:
    x = torch.randn(2048, 64)
    return lambda: (x - x.mean(0)) / torch.sqrt(x.var(0, unbiased=False) + 1e-5)


def whole_tensor() -> Any:
    x = torch.randn(512, 256)
    return lambda: x * torch.rsqrt(x.pow(2).mean() + 1e-6)


def fourier_filter() -> Any:
    """Complex numbers that were never real ones: a product of spectra."""
    x, kernel = torch.randn(4, 64, 256), torch.randn(64, 256)
    return lambda: torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(kernel))


def sinkhorn() -> Any:
    """The matrix is no weight: the step makes it of distances."""
    cost = torch.rand(3000, 3000)

    def run() -> Any:
        kernel, v = torch.exp(-cost), torch.ones(3000)
        for _ in range(4):
            v = 1 / (kernel @ (1 / (kernel @ v)))
        return v

    return run


def frozen_norm_trained() -> Any:
    conv, norm = torch.nn.Conv2d(8, 32, 1), torch.nn.BatchNorm2d(32).eval()
    x = torch.randn(2, 8, 32, 32)
    return lambda: norm(conv(x)).sum().backward()


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (weighted_sum, "F11"), (batch_statistics, "F05"), (batch_statistics, "F04"), (whole_tensor, "F04"),
        (frozen_norm_trained, "F15"), (fourier_filter, "F11"), (sinkhorn, "E13"),
    ],
    ids=lambda v: v if isinstance(v, str) else v.__name__,
)  # fmt: skip
def test_look_alikes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, code: str) -> None:
    assert code not in codes(context_of(make, tmp_path, monkeypatch))


def test_backward_products_are_no_forward_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dY · relu(gate) looks like a gate: a product's result times an activation."""
    context = context_of(fusion.reglu_trained, tmp_path, monkeypatch)
    found = [f.finding for f in catalogue.findings(context, {}) if f.finding.code == "F12"]
    assert len(found) == 1 and "and their backward passes" in found[0].summary


def test_a_chain_is_what_flows() -> None:
    run = units(("tanh", (X,)), ("exp", (X,)), ("abs", (X,)), ("mul", (X, X)), ("add", (X, X)))
    flow = flow_of(run, [[1], [2], [3], [11, 13], [14, 12]], [11, 12, 13, 14, 15])
    assert chains(flow, [True] * len(run)) == [[0, 1, 2, 3, 4]]
    apart = flow_of(run, [[1], [2], [3], [4, 5], [6, 7]], [11, 12, 13, 14, 15])
    assert chains(apart, [True] * len(run)) == [[0], [1], [2], [3], [4]]


def test_a_chain_does_not_wait_for_what_depends_on_it() -> None:
    """exp → sum → div: one pass over the rows would need the sum in its middle."""
    run = units(("exp", (X,)), ("sum", (X,)), ("div", (X, ROW)), ("tanh", (X,)))
    flow = flow_of(run, [[1], [11], [11, 12], [13]], [11, 12, 13, 14])
    assert chains(flow, [unit.name != "sum" for unit in run]) == [[0], [2, 3]]
    run = units(("exp", (X,)), ("tanh", (X,)), ("sum", (X,)), ("mul", (X, X)), ("div", (X, ROW)))
    flow = flow_of(run, [[1], [2], [12], [11, 12], [14, 13]], [11, 12, 13, 14, 15])
    assert chains(flow, [unit.name != "sum" for unit in run]) == [[0, 1, 3], [4]]


def test_a_chain_is_of_what_its_operators_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Differences of all pairs are more than what they are made of, and a running sum in place is no step of it."""

    def motion() -> Any:
        x = torch.randn(60, 3)
        return lambda: ((x * 2)[None] - (x + 1)[:, None], torch.exp((x * 2).sub_(1).cumsum_(0)) * 3)

    context = context_of(motion, tmp_path, monkeypatch)
    flow = next(flow for flow in context.flows if any(unit.name == "cumsum" for unit in flow.units))
    at = {unit.name: index for index, unit in enumerate(flow.units) if unit.name != "mul"}
    pairs = next(unit for unit in flow.units if unit.name == "sub" and len(unit.size) == 3)
    assert (pairs.size, pairs.numel) == ((60, 60, 3), 10800)
    assert flow.arguments[at["exp"]][0].makers == (at["cumsum"],)


def test_a_cast_that_finds_nothing_to_do_is_no_step_of_a_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> Any:
        x = torch.randn(512, 512)
        return lambda: ((x * 2).float() + 1).float().abs()

    found = [f.finding for f in catalogue.findings(context_of(make, tmp_path, monkeypatch), {})]
    assert [f.summary.split(" over")[0] for f in found if f.code == "F01"] == [
        "3 pointwise operators that read one another"
    ]


@pytest.mark.parametrize("make", [products.gelu_of_a_cube_by_factors, products.gelu_factored])
def test_spellings_of_the_tanh_gelu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    context = context_of(make, tmp_path, monkeypatch)
    for known in (context, replace(context, recorded={}, claimed=set())):
        found = [f.finding for f in catalogue.findings(known, {})]
        assert any("F.gelu(x, approximate" in (f.how or "") for f in found)


def test_a_recurrent_layer_is_no_activation_and_no_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells are full of sums and products around a tanh, and no compiler opens it."""

    def make() -> Any:
        layer, x = torch.nn.GRU(64, 96, batch_first=True), torch.randn(16, 20, 64)
        return lambda: layer(x)[0].sum().backward()

    assert "F01" not in codes(context_of(make, tmp_path, monkeypatch))


def test_mish_is_not_advised_where_it_is_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own takes longer backward on a CPU."""

    def make() -> Any:
        x = torch.randn(512, 512, requires_grad=True)
        return lambda: (x * torch.tanh(functional.softplus(x))).sum().backward()

    found = [f.finding for f in catalogue.findings(context_of(make, tmp_path, monkeypatch), {})]
    assert not any("F.mish" in (f.how or "") for f in found)


def test_calling_a_compiled_function_takes_a_host_time() -> None:
    machine, account = SimpleNamespace(dispatch_s=1e-6), SimpleNamespace(calls=8, trained=False)
    cpu, gpu = (SimpleNamespace(machine=machine, trace=SimpleNamespace(on_device=on)) for on in (False, True))
    assert pointwise._calling_s(account, cpu) == pytest.approx(160e-6)  # type: ignore[arg-type]
    account.trained = True
    assert pointwise._calling_s(account, cpu) == pytest.approx(480e-6)  # type: ignore[arg-type]
    assert pointwise._calling_s(account, gpu) == 0.0  # type: ignore[arg-type]


def test_masks_from_memory_stay_as_slow_as_they_are() -> None:
    """A compiler makes only those quick that it compares itself, of numbers."""
    run = units(("gt", (X,)), ("where", (X, X)), ("sub", (X,)), ("bitwise_not", (X,)), ("where", (X, X)))
    flow = flow_of(run, [[1], [11, 2], [12], [3], [14, 13]], [11, 12, 13, 14, 15])
    assert list(pointwise._with_kept_mask(flow, [0, 1, 2, 3, 4])) == [4]
    assert list(pointwise._with_kept_mask(flow, [1, 2, 4])) == [1, 4]


@pytest.mark.parametrize(
    ("text", "heavy"), [("2", False), ("0.5", False), ("-1.", False), ("0.9", True), ("", True), ("4", True)]
)
def test_powers_are_arithmetic_but_for_products_and_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, heavy: bool
) -> None:
    size = [4096, 4096]
    power = ("pow", [size, [] if text else size], ["", text], 150.0)
    seen: list[Any] = []
    monkeypatch.setattr(diagnosis_module, "findings", lambda context, index, **options: seen.append(context) or ())
    findings(tmp_path, calls(power, ("mul", [size, []], ["", "2"], 60.0), ("add", [size, []], ["", "1"], 60.0)))
    (chain,) = pointwise.find(seen[0])
    assert any("arithmetic, which stays" in line for line in chain.evidence) == heavy


def calls(*made: tuple[str, list[Any], list[str], float]) -> list[Event]:
    """Operators in a row with a kernel each: name, sizes, scalars and microseconds on the device."""
    events: list[Event] = []
    at = 10.0
    for number, (name, sizes, scalars, duration) in enumerate(made):
        kinds = ["float" if size else "Scalar" for size in sizes]
        known = {"Input Dims": sizes, "Input type": kinds, "Concrete Inputs": scalars}
        events += [op(f"aten::{name}", at, 4, **known), launch(number, at + 1), kernel(name, at + 5, duration, number)]
        at += max(duration, 6) + 6
    return [step(1, 0, at), *events]


def findings(folder: Path, events: list[Event]) -> dict[str, Any]:
    known = [{**GPU[0], "name": "NVIDIA H100 80GB HBM3"}]  # whose bandwidth is in the table
    return {f.code: f for f in probe.analyze(write(folder, events, deviceProperties=known)).findings}


def test_an_activation_after_its_product_on_a_gpu(tmp_path: Path) -> None:
    product = ("addmm", [[512], [4096, 64], [64, 512]], [""] * 3, 100.0)
    found = findings(tmp_path, calls(product, ("gelu", [[4096, 512], []], ["", ""], 30.0)))
    assert "takes 30.0 µs" in found["F14"].summary
    assert "max-autotune" in found["F14"].how


def test_an_activation_that_its_product_dwarfs_is_left_alone(tmp_path: Path) -> None:
    product = ("addmm", [[512], [4096, 64], [64, 512]], [""] * 3, 1000.0)
    assert "F14" not in findings(tmp_path, calls(product, ("gelu", [[4096, 512], []], ["", ""], 30.0)))


def test_small_products_of_one_input_leave_a_gpu_idle(tmp_path: Path) -> None:
    """Each makes 8 blocks for 132 multiprocessors; together they take as long as one."""
    narrow = ("mm", [[256, 4096], [4096, 512]], ["", ""], 40.0)
    found = findings(tmp_path, calls(narrow, narrow, narrow))
    assert found["F13"].saving_s == pytest.approx(60e-6, rel=0.01)  # half at the most
    wide = ("mm", [[8192, 64], [64, 8192]], ["", ""], 400.0)
    (tmp_path / "wide").mkdir()
    found = findings(tmp_path / "wide", calls(wide, wide, wide))
    assert "F13" not in found or found["F13"].saving_fraction < 0.03  # the last wave of blocks


def test_products_that_read_one_another_are_no_projections(tmp_path: Path) -> None:
    square = ("mm", [[256, 512], [512, 512]], ["", ""], 40.0)
    assert "F13" not in findings(tmp_path, calls(square, square, square))


@pytest.mark.parametrize(("first", "second", "apart"), [(512, 64, False), (64, 512, True)])
def test_only_products_that_cannot_be_a_chain_are_projections(
    tmp_path: Path, first: int, second: int, apart: bool
) -> None:
    products = [("mm", [[256, 512], [512, width]], ["", ""], 40.0) for width in (first, second)]
    assert ("F13" in findings(tmp_path, calls(*products))) == apart


def test_the_bias_of_a_convolution_that_cudnn_adds_apart(tmp_path: Path) -> None:
    conv = [[8, 3, 64, 64], [64, 3, 3, 3], [64], [], [], [], [], [], []]
    scalars = ["", "", "", "[1, 1]", "[1, 1]", "[1, 1]", "False", "[0, 0]", "1"]
    norm = [[8, 64, 64, 64], [64], [64], [64], [64], [], [], []]
    events = calls(
        ("convolution", conv, scalars, 50.0),
        ("cudnn_batch_norm", norm, ["", "", "", "", "", "True", "0.1", "1e-05"], 40.0),
    )
    inside = op("aten::add_", 12, 1, **{"Input Dims": [[8, 64, 64, 64], [1, 64, 1, 1]], "Input type": ["float"] * 2})
    events += [inside, launch(77, 12.2, 0.5), kernel("add", 66, 1.5, 77)]
    found = findings(tmp_path, events)
    assert found["F16"].saving_s == pytest.approx(1.5e-6, rel=0.01)


def test_interrupted_calls_count_as_usual_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call in ten is interrupted for far longer than all of them take."""
    events = [step(1, 0, 3000)]
    for i in range(10):
        sizes = {"Input Dims": [[512, 512], []], "Input type": ["float", "Scalar"]}
        events.append(op("aten::tanh", 200 * i, 2000 if i == 9 else 100, **sizes))
    seen: list[Any] = []
    monkeypatch.setattr(diagnosis_module, "findings", lambda context, index, **options: seen.append(context) or ())
    probe.analyze(write(tmp_path, events))
    ledger = Ledger(seen[0])
    assert ledger.seconds([9]) == pytest.approx(ledger.seconds([0]))
    assert ledger.seconds(list(range(10))) == pytest.approx(seen[0].seconds(list(range(10))))
    assert seen[0].seconds([9]) > 10 * ledger.seconds([9]) / 3


def test_real_traces_have_the_fusions_a_reader_would_sign(
    foreign_traces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Qwen in transformers: RMSNorm, rotary embedding, SwiGLU, and queries, keys and values apart, in 24 layers."""
    seen: list[Any] = []
    monkeypatch.setattr(diagnosis_module, "findings", lambda context, index, **options: seen.append(context) or ())
    analysed_now(foreign_traces / "h100_qwen_0.5b_chat.json.gz")
    words = {"F04": "49 RMSNorms", "F11": "48 rotary embeddings", "F12": "24 times per step", "F03": "48 sums",
             "F13": "3 products read the same [8944, 1024] input"}  # fmt: skip
    found: dict[str, str] = {}
    for rule in catalogue.RULES:
        for match in rule.find(seen[0]) if rule.about == "fusion" else ():
            seen[0].claimed.update(match.rows)
            found[rule.code] = found.get(rule.code, "") + match.summary
    assert {code: text in found.get(code, "") for code, text in words.items()} == dict.fromkeys(words, True)


def test_convolutional_networks_have_none_of_them(foreign_traces: Path) -> None:
    for name in ("v100_resnet50_training", "a100_alexnet_inference"):
        codes = {f.code for f in analysis_of(foreign_traces / f"{name}.json.gz").findings}
        assert not codes & {"F02", "F03", "F04", "F05", "F09", "F10", "F11", "F12", "F13"}
