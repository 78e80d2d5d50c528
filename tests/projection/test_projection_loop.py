"""Which loop is the problem, by the parts of the step; nothing where they do not tell."""

from __future__ import annotations

from dataclasses import replace

import pytest
from places import SAMPLES

from probe.analyzers.which_loop import which_loop
from probe.api import analyze
from probe.report.verdict import sentence
from probe.results.analysis import PARTS, Analysis, Operator

SAMPLE = SAMPLES


@pytest.fixture(scope="module")
def forward() -> Analysis:
    """A step on a GPU without a backward pass, nothing found, to be given other parts."""
    found = analyze(SAMPLE / "resnet_step")
    plain: list[Operator] = [op for op in found.ops if "backward" not in op.name.lower() and "Optim" not in op.name]
    return replace(found, ops=tuple(plain), findings=(), source=replace(found.source, device_kind="cuda"))


def parts(analysis: Analysis, **seconds: float) -> Analysis:
    return replace(analysis, time_s={"step": sum(seconds.values()), **dict.fromkeys(PARTS, 0.0), **seconds})


@pytest.mark.parametrize(
    ("seconds", "name"),
    [
        ({"compute": 9.0, "overhead": 1.0}, "kernel"),
        ({"compute": 7.0, "communication": 3.0}, "training"),
        ({"memory": 9.0, "communication": 1.0}, "kernel"),
        ({"compute": 3.0, "idle": 4.0, "overhead": 3.0}, "product"),
        ({"unknown": 9.0, "compute": 1.0}, None),
    ],
)
def test_the_parts_tell_the_loop(forward: Analysis, seconds: dict[str, float], name: str | None) -> None:
    found = which_loop(parts(forward, **seconds))
    assert (found.name if found else None) == name


def test_a_training_loop_that_waits_for_its_host_is_not_a_products(forward: Analysis) -> None:
    optimizer = replace(forward.ops[0], name="Optimizer.step#SGD.step")
    found = which_loop(parts(replace(forward, ops=(*forward.ops, optimizer)), host=6.0, compute=4.0))
    assert found is not None and found.name == "training" and found.value_fraction == pytest.approx(0.6)


def test_no_time_no_loop(forward: Analysis) -> None:
    assert which_loop(replace(forward, time_s={"step": 0.0})) is None


def test_the_verdict_and_the_object_name_it() -> None:
    found = analyze(SAMPLE / "starved_loader")
    assert found.to_json()["loop"]["name"] == "training"
    assert "Work on the training loop: 99 % of the step is waiting for the host." in sentence(found)
