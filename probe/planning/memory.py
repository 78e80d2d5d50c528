"""How much memory does training take on each device, by part?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from probe.errors import UsageError
from probe.planning.result import Part, Plan, positive
from probe.planning.transformer import Shape, check, element_bytes, layer_activations, output_activations

STATES = {"adamw": 2, "adam": 2, "sgd": 0, "momentum": 1, "adafactor": 0, "lion": 1}  # values kept a parameter


@dataclass(frozen=True)
class Training:
    """How it is trained. mixed: "none"; "amp": parameters in float32, products in `dtype`; "pure": parameters in
    `dtype` with float32 master weights."""

    batch: int
    sequence: int
    dtype: str = "bfloat16"
    mixed: str = "amp"
    optimizer: str = "adamw"
    checkpointing: bool = False
    flash: bool = True
    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    zero: int = 0


def training_memory(shape: Shape, training: Training, capacity_bytes: float | None = None) -> Plan:
    """The parts at the peak, on the device that holds most."""
    _check(shape, training)
    parts = tuple(_parts(shape, training))
    total = sum(part.bytes or 0.0 for part in parts)
    result: dict[str, Any] = {"parameters": shape.parameters, "peak_bytes": total}
    if capacity_bytes is not None:
        result |= {"capacity_bytes": capacity_bytes, "fits": total <= capacity_bytes}
    return Plan("memory", {**asdict(shape), **asdict(training)}, result, parts, tuple(_assumptions(training)))


def _check(shape: Shape, training: Training) -> None:
    check(shape)
    positive(batch=training.batch, sequence=training.sequence, data=training.data, tensor=training.tensor,
             pipeline=training.pipeline)  # fmt: skip
    element_bytes(training.dtype)
    if training.mixed not in ("none", "amp", "pure"):
        raise UsageError(f"--mixed {training.mixed}: write none, amp or pure")
    if training.optimizer not in STATES:
        raise UsageError(f"--optimizer {training.optimizer}: there are {', '.join(STATES)}")
    if training.zero not in (0, 1, 2, 3):
        raise UsageError(f"--zero {training.zero}: ZeRO has stages 1, 2 and 3; 0 is plain data parallelism")
    if shape.heads % training.tensor:
        raise UsageError(f"--tensor {training.tensor} does not divide the {shape.heads} attention heads")
    if shape.layers % training.pipeline:
        raise UsageError(f"--pipeline {training.pipeline} does not divide the {shape.layers} layers")


def _parts(shape: Shape, t: Training) -> list[Part]:
    """Parameters, gradients, optimizer states, master weights, casts, activations."""
    low, model_ranks = element_bytes(t.dtype), t.tensor * t.pipeline
    held = shape.parameters / model_ranks
    stored = low if t.mixed in ("pure", "none") else 4
    by = [1 if t.zero < stage else t.data for stage in (1, 2, 3)]
    parts = [
        Part("parameters", held * stored / by[2], how=f"{stored} B each"),
        Part("gradients", held * stored / by[1], how=f"{stored} B each"),
        Part("optimizer states", held * 4 * STATES[t.optimizer] / by[0], how=f"{STATES[t.optimizer]} float32 each"),
    ]
    if t.mixed == "pure" and low < 4:
        parts.append(Part("master weights", held * 4 / by[0], how="float32"))
    if t.mixed == "amp" and low < 4:
        parts.append(Part("casts of parameters", held * low / by[2], how=f"cached in {t.dtype} for the step"))
    return [*parts, *_activations(shape, t)]


def _activations(shape: Shape, t: Training) -> list[Part]:
    rows, element = t.batch * t.sequence, element_bytes(t.dtype)
    layers = shape.layers // t.pipeline
    one = layer_activations(shape, rows, t.sequence, element, flash=t.flash, ranks=t.tensor)
    in_flight = t.pipeline  # 1F1B: of the first stage
    output = output_activations(shape, rows, element, t.tensor)
    if t.checkpointing:
        kept = layers * rows * shape.hidden * element * in_flight
        return [Part("checkpoints", kept, how="one input a layer"), Part("a layer computed again", one),
                Part("logits", output)]  # fmt: skip
    return [Part("activations", one * layers * in_flight, how=f"{layers} layers"), Part("logits", output)]


def _assumptions(t: Training) -> list[str]:
    said = ["buffers, workspaces, fragmentation and the allocator's rounding are not counted"]
    if t.pipeline > 1:
        said.append(f"1F1B: the first stage holds {t.pipeline} micro-batches of {t.batch} sequences")
    if t.zero == 3:
        said.append("one layer's parameters are gathered at a time and not counted")
    return said
