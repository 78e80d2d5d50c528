"""Calculators against figures worked out by hand, published models, and each other."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probe import cli
from probe.errors import InputError, UsageError
from probe.planning.bandwidth import bandwidth
from probe.planning.fit import fit, largest
from probe.planning.kv_cache import kv_cache
from probe.planning.measured import measured
from probe.planning.memory import Training, training_memory
from probe.planning.result import Plan
from probe.planning.step_memory import step_memory
from probe.planning.training import interval_s, lost_fraction, training
from probe.planning.transformer import Shape

LLAMA_7B = Shape(32, 4096, 32, 32000, intermediate=11008, gated=True)
MIXTRAL = Shape(32, 4096, 32, 32000, key_value_heads=8, intermediate=14336, gated=True, experts=8, experts_a_token=2)


def of(plan: Plan, part: str) -> float:
    found = next(p.bytes for p in plan.parts if p.name == part)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("shape", "published"), [(LLAMA_7B, 6.738e9), (MIXTRAL, 46.7e9), (Shape(48, 1600, 25, 50257, tied=True), 1.558e9)]
)
def test_parameters_are_those_that_are_published(shape: Shape, published: float) -> None:
    """Llama 2 7B, Mixtral 8x7B and GPT-2 XL (whose biases and positions are not counted)."""
    assert shape.parameters == pytest.approx(published, rel=0.005)


def test_states_take_sixteen_bytes_a_parameter() -> None:
    plan = training_memory(LLAMA_7B, Training(1, 1, mixed="pure"))
    states = sum(of(plan, name) for name in ("parameters", "gradients", "optimizer states", "master weights"))
    assert states == 16 * LLAMA_7B.parameters


@pytest.mark.parametrize(("zero", "bytes_a_parameter"), [(0, 16), (1, 4 + 12 / 8), (2, 2 + 14 / 8), (3, 16 / 8)])
def test_zero_divides_what_its_stage_says(zero: int, bytes_a_parameter: float) -> None:
    plan = training_memory(LLAMA_7B, Training(1, 1, mixed="pure", data=8, zero=zero))
    states = sum(p.bytes or 0 for p in plan.parts if p.name not in ("activations", "logits"))
    assert states == pytest.approx(bytes_a_parameter * LLAMA_7B.parameters)


def test_checkpointing_keeps_one_input_a_layer() -> None:
    plan = training_memory(LLAMA_7B, Training(2, 512, checkpointing=True))
    assert of(plan, "checkpoints") == 32 * 2 * 512 * 4096 * 2
    whole = training_memory(LLAMA_7B, Training(2, 512))
    assert of(plan, "a layer computed again") == pytest.approx(of(whole, "activations") / 32)


def test_without_flash_the_scores_are_kept() -> None:
    with_it, without = (training_memory(LLAMA_7B, Training(1, 2048, flash=flash)) for flash in (True, False))
    assert of(without, "activations") - of(with_it, "activations") == 32 * 2048 * (2 * 32 * 2048 * 2 - 4 * 32)


@pytest.mark.parametrize(
    ("given_", "kind", "values"),
    [
        ({"heads": 32, "head_size": 128}, "MHA", 8192),
        ({"heads": 64, "key_value_heads": 8, "head_size": 128}, "GQA", 2048),
        ({"heads": 64, "key_value_heads": 1, "head_size": 128}, "MQA", 256),
        ({"latent": 512, "rope": 64}, "MLA", 576),
    ],
)
def test_caches_keep_what_their_attention_does(given_: dict[str, int], kind: str, values: int) -> None:
    plan = kv_cache(layers=10, context=100, batch=3, **given_)  # type: ignore[arg-type]
    assert plan.result["attention"] == kind
    assert plan.result["cache_bytes"] == values * 2 * 10 * 100 * 3


def test_tokens_that_fit_are_what_the_weights_leave() -> None:
    plan = kv_cache(layers=1, context=1, batch=1, heads=1, head_size=1, parameters=100, capacity_bytes=240)
    assert plan.result["tokens_that_fit"] == 10 and plan.result["fits"]


def test_time_and_cost_are_six_n_d() -> None:
    plan = training(parameters=1e9, tokens=1e12, devices=10, peak_flops_per_s=1e15, mfu=0.5, usd_per_hour=2.0)
    assert plan.result["compute_s"] == pytest.approx(6e21 / 5e15)
    assert plan.result["usd"] == pytest.approx(20 * plan.result["compute_s"] / 3600)


@given(st.floats(1, 300), st.floats(1e5, 1e7), st.floats(0, 1200))
def test_no_other_interval_loses_less(write_s: float, mtbf_s: float, restart_s: float) -> None:
    """Brute force: Daly's interval is within a thousandth of the best of a fine grid."""
    best = lost_fraction(interval_s(write_s, mtbf_s), write_s, restart_s, mtbf_s)
    centre = math.sqrt(2 * write_s * mtbf_s)
    grid = (lost_fraction(centre * 1.05**n, write_s, restart_s, mtbf_s) for n in range(-40, 41))
    assert best <= min(grid) + 1e-3


def test_young_is_what_daly_comes_to_for_rare_failures() -> None:
    assert interval_s(60, 1e9) == pytest.approx(math.sqrt(2 * 60 * 1e9), rel=1e-3)


def test_an_all_reduce_hides_at_the_bandwidth_that_is_named() -> None:
    plan = bandwidth(parameters=1e9, step_s=1.0, ranks=4, gradient_bytes=2, overlap=0.5, measured_link=7e9)
    assert plan.result["busbw_needed_bytes_per_s"] == pytest.approx(2 * 0.75 * 2e9 / 0.5)
    assert plan.result["link_suffices"] and plan.result["all_reduce_s"] == pytest.approx(3e9 / 7e9)


def test_storage_is_held_against_the_greater_need() -> None:
    plan = bandwidth(
        parameters=1e9, step_s=1.0, ranks=8, samples=10, sample_bytes=1e6, checkpoint_every_s=3600, measured_storage=1e8
    )
    assert plan.result["read_needed_bytes_per_s"] == 8e7
    assert plan.result["write_needed_bytes_per_s"] == pytest.approx(12e9 / 36)
    assert not plan.result["storage_suffices"]


def test_measured_rates_are_those_of_as_many_ranks(tmp_path: Path) -> None:
    rows = [
        {
            "suite": "collectives",
            "name": "all_reduce",
            "metric": "busbw",
            "unit": "B/s",
            "value": v,
            "params": {"ranks": n},
        }
        for n, v in ((2, 9e9), (4, 5e9), (4, 6e9))
    ]
    rows.append({"suite": "storage", "name": "read", "metric": "bandwidth", "unit": "B/s", "value": 2e9, "params": {}})
    file = tmp_path / "m.json"
    file.write_text(json.dumps({"schema": "probe.microbench/1", "measurements": rows}))
    assert measured(str(file), 4) == (6e9, 2e9)
    assert measured(str(file), 64) == (9e9, 2e9)
    file.write_text("{}")
    with pytest.raises(InputError, match="not a result of"):
        measured(str(file), 4)


@given(st.integers(0, 5000))
def test_the_largest_that_fits_is_found(limit: int) -> None:
    assert largest(lambda n: n <= limit) == limit


def test_what_fits_fits_and_one_more_does_not() -> None:
    plan = fit(LLAMA_7B, Training(1, 2048, data=8, zero=3), 80e9)
    most = plan.result["largest_batch"]
    peaks = [
        training_memory(LLAMA_7B, Training(n, 2048, data=8, zero=3)).result["peak_bytes"] for n in (most, most + 1)
    ]
    assert peaks[0] <= 72e9 < peaks[1]
    none = fit(LLAMA_7B, Training(1, 2048), 8e9)
    assert none.result["largest_batch"] == 0 and none.warnings


STEP = """
import torch
def build():
    weight = torch.zeros(256, 1024, requires_grad=True)
    x = torch.ones(512, 256)
    def step():
        (x @ weight).exp().sum().backward()
        weight.grad = None
    return step
def needs_values():
    x = torch.ones(3)
    return lambda: x.sum().item() > 2 and x.nonzero()
def converted():
    first, second = torch.nn.Linear(256, 512, bias=False), torch.nn.Linear(256, 512, bias=False)
    second.weight = first.weight
    model = torch.nn.ModuleList([first, second, torch.nn.BatchNorm1d(4)]).to(torch.bfloat16)
    assert model[0].weight is model[1].weight and model[2].running_mean.dtype == torch.bfloat16
    return lambda: model
number = 3
def none():
    return number
"""


def test_a_step_is_planned_without_its_data(tmp_path: Path) -> None:
    file = tmp_path / "steps.py"
    file.write_text(STEP)
    plan = step_memory(f"{file}:build")
    mib = 1 << 20
    assert of(plan, "built: parameters, buffers, inputs") == 1.5 * mib
    # the product and exp's result, later that and its gradient: 2 MiB each
    assert plan.result["peak_bytes"] == pytest.approx(1.5 * mib + 2 * 2 * mib, abs=0.1 * mib)


CONVOLUTIONS = """
import torch
def convolution(dtype, channels_last=False, kernel=3):
    layer = torch.nn.Conv2d(16, 32, kernel, padding=kernel // 2, bias=False).to(dtype)
    x = torch.zeros(4, 16, 64, 64, dtype=dtype)
    if channels_last:
        x, layer = x.to(memory_format=torch.channels_last), layer.to(memory_format=torch.channels_last)
    def step():
        with torch.no_grad():
            layer(x)
    return step
blocked = lambda: convolution(torch.float32)
unfolded = lambda: convolution(torch.float64)
nowhere = lambda: convolution(torch.float32, True)
single = lambda: convolution(torch.float64, kernel=1)
"""


def test_a_model_in_another_type_is_planned_in_it(tmp_path: Path) -> None:
    """A matrix of 256 × 512 that two layers share, and a norm of 4 channels: weight, bias, mean, variance, count."""
    file = tmp_path / "steps.py"
    file.write_text(STEP)
    before = torch.nn.Module._apply
    assert step_memory(f"{file}:converted").result["peak_bytes"] == 256 * 512 * 2 + 4 * 4 * 2 + 8
    assert torch.nn.Module._apply is before


@pytest.mark.parametrize(
    ("step", "held"),
    [
        ("blocked", 4 * 32 * 64 * 64 * 4),  # the result in oneDNN's layout, more than input and weights in it
        ("unfolded", 4 * 16 * 9 * 64 * 64 * 8),  # every input nine times
        ("nowhere", 0),
        ("single", 0),
    ],
)
def test_a_cpus_convolutions_hold_copies_or_columns(tmp_path: Path, step: str, held: int) -> None:
    file = tmp_path / "convolutions.py"
    file.write_text(CONVOLUTIONS)
    plan = step_memory(f"{file}:{step}")
    within = of(plan, "within the step: activations and temporaries")
    element = 4 if step in ("blocked", "nowhere") else 8
    assert within == 4 * 32 * 64 * 64 * element + held


@pytest.mark.parametrize(
    ("place", "said"),
    [("steps.py:needs_values", "needs the values"), ("steps.py:none", "not a function that does a step"),
     ("steps.py:absent", "has no function absent"), ("nothing.py:f", "there is no file"), ("steps.py", "FUNCTION")],
)  # fmt: skip
def test_steps_that_cannot_be_planned_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "steps.py").write_text(STEP)
    with pytest.raises((UsageError, InputError), match=said):
        step_memory(place)


SIZES = ["--layers", "4", "--hidden", "256", "--heads", "8", "--vocabulary", "1000"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["memory", *SIZES, "--device", "H200"],
        ["fit", *SIZES, "--memory", "8GB"],
        ["kv-cache", "--layers", "4", "--context", "100", "--heads", "4", "--head-size", "64"],
        ["training", "--parameters", "7e9", "--tokens", "1e12", "--devices", "64", "--device", "H100 SXM",
         "--mfu", "0.4", "--failures-per-device-day", "0.0006", "--checkpoint-s", "60"],
        ["bandwidth", "--parameters", "7e9", "--step-s", "2", "--ranks", "64"],
    ],
)  # fmt: skip
def test_commands_print_one_object_or_a_screen(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["schema"] == "probe.plan/1" and found["what"] == arguments[0]
    assert {"inputs", "result", "parts", "assumptions", "warnings"} <= set(found)
    assert cli.main(["plan", *arguments]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["memory"], "give --layers"),
        (["memory", *SIZES, "--tensor", "3"], "does not divide the 8 attention heads"),
        (["memory", *SIZES, "--pipeline", "3"], "does not divide the 4 layers"),
        (["memory", *SIZES, "--batch", "-1"], "--batch -1"),
        (["memory", *SIZES, "--device", "H300"], "near to it"),
        (["memory", *SIZES, "--memory", "0GB"], "give a size above 0"),
        (["memory", *SIZES, "--memory", "-3GB"], "is not a size"),
        (["memory", *SIZES, "--zero", "9"], "ZeRO has stages"),
        (["memory", *SIZES, "--dtype", "int3"], "no such element type"),
        (["memory", *SIZES, "--mixed", "x"], "write none, amp or pure"),
        (["memory", *SIZES, "--key-value-heads", "3"], "does not divide the 8 heads"),
        (["memory", *SIZES, "--experts", "2", "--experts-a-token", "3"], "there are 2 experts"),
        (["fit", *SIZES, "--memory", "8GB", "--usable", "nan"], "--usable nan"),
        (["kv-cache", "--layers", "2", "--context", "-5", "--heads", "2", "--head-size", "4"], "--context -5"),
        (["training", "--parameters", "1", "--tokens", "1", "--devices", "1", "--device", "X9", "--mfu", "0.4"],
         "no such device is known"),
        (["memory", *SIZES, "--optimizer", "magic"], "there are adamw"),
        (["fit", *SIZES], "say what it must fit into"),
        (["kv-cache", "--layers", "4", "--context", "100"], "give --head-size"),
        (["training", "--parameters", "nan", "--tokens", "1", "--devices", "1", "--device", "H200", "--mfu", "0.4"],
         "above 0"),
        (["training", "--parameters", "1", "--tokens", "1", "--devices", "1", "--device", "H200", "--mfu", "1.4"],
         "up to 1"),
        (["bandwidth", "--parameters", "1", "--step-s", "0", "--ranks", "2"], "--step-s 0"),
    ],
)  # fmt: skip
def test_absurd_numbers_are_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", *arguments]) == 2
    told = capsys.readouterr().err
    assert said in told and len(told.splitlines()) == 1


def test_more_of_anything_takes_more() -> None:
    base = Training(2, 512)
    peak = training_memory(LLAMA_7B, base).result["peak_bytes"]
    for more in (replace(base, batch=3), replace(base, sequence=513), replace(base, flash=False)):
        assert training_memory(LLAMA_7B, more).result["peak_bytes"] > peak
