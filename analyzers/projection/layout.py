"""How is the work divided over ranks? The layout, and what cannot be one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from probe.errors import UsageError

Zero = Literal[0, 1, 2, 3]
MOST_RANKS = 1_000_000
MOST = 1e30  # of whatever a model has: more is a slip


@dataclass(frozen=True)
class Layout:
    """Ranks = data × tensor × pipeline; experts divide the data-parallel ranks. zero 3 is FSDP's full sharding."""

    ranks: int
    nodes: int
    tensor: int = 1
    pipeline: int = 1
    expert: int = 1
    zero: int = 0
    micro_batches: int = 1
    interleave: int = 1  # model chunks a pipeline stage holds: 1 is 1F1B or GPipe, more is interleaved 1F1B

    @property
    def data(self) -> int:
        return self.ranks // (self.tensor * self.pipeline)

    @property
    def per_node(self) -> int:
        return self.ranks // self.nodes

    @property
    def bubble_fraction(self) -> float:
        """Of the pipeline's time: (p − 1) / (m·v + p − 1)."""
        return (self.pipeline - 1) / (self.micro_batches * self.interleave + self.pipeline - 1)


@dataclass(frozen=True)
class Model:
    """What of the model decides volumes; None where it is not known or the question does not need it."""

    parameters: float | None = None
    gradient_bytes: float = 2.0  # of one parameter
    layers: int | None = None
    hidden: int | None = None
    heads: int | None = None
    tokens: int | None = None  # of one rank's step
    activation_bytes: float = 2.0
    moe_layers: int | None = None
    experts_a_token: int = 2
    trains: bool = True  # else there is neither backward pass nor gradient

    @property
    def passes(self) -> int:
        """Forward, and backward where it trains."""
        return 2 if self.trains else 1


def check(layout: Layout, model: Model) -> None:
    """UsageError, in one line, for what cannot be."""
    for name in ("ranks", "nodes", "tensor", "pipeline", "expert", "micro_batches", "interleave"):
        value = getattr(layout, name)
        if not 1 <= value <= MOST_RANKS:
            raise UsageError(f"--{name.replace('_', '-')} {value}: give a number from 1 to {MOST_RANKS}")
    if layout.ranks % layout.nodes:
        raise UsageError(
            f"--ranks {layout.ranks} over --nodes {layout.nodes}: not the same number of ranks on each node"
        )
    model_ranks = layout.tensor * layout.pipeline
    if layout.ranks % model_ranks:
        raise UsageError(
            f"--ranks {layout.ranks} is no product of --tensor {layout.tensor} × --pipeline {layout.pipeline} and data"
            f" parallelism: give a multiple of {model_ranks}"
        )
    if layout.data % layout.expert:
        raise UsageError(f"--expert {layout.expert} does not divide the {layout.data} data-parallel ranks")
    if layout.zero not in (0, 1, 2, 3):
        raise UsageError(f"--zero {layout.zero}: ZeRO has stages 1, 2 and 3; 0 is plain data parallelism")
    _check_model(layout, model)


def _check_model(layout: Layout, model: Model) -> None:
    for name in ("parameters", "gradient_bytes", "layers", "hidden", "heads", "tokens", "moe_layers"):
        value = getattr(model, name)
        if value is not None and not 0 < value < MOST:
            raise UsageError(f"--{name.replace('_', '-')} {value:g}: give a number above 0")
    if layout.tensor > 1 and model.heads is not None and model.heads % layout.tensor:
        raise UsageError(f"--tensor {layout.tensor} does not divide the {model.heads} attention heads")
    if layout.pipeline > 1 and model.layers is not None and model.layers % layout.pipeline:
        raise UsageError(f"--pipeline {layout.pipeline} does not divide the {model.layers} layers")
    if model.moe_layers is not None and model.layers is not None and model.moe_layers > model.layers:
        raise UsageError(f"--moe-layers {model.moe_layers}: the model has {model.layers} layers")
    needs = {
        "--parameters": (layout.data > 1 and model.trains, model.parameters),
        "--layers": (layout.tensor > 1, model.layers),
        "--hidden": (layout.tensor > 1 or layout.pipeline > 1 or layout.expert > 1, model.hidden),
        "--tokens": (layout.tensor > 1 or layout.pipeline > 1 or layout.expert > 1, model.tokens),
        "--moe-layers": (layout.expert > 1, model.moe_layers),
    }
    for option, (needed, value) in needs.items():
        if needed and value is None:
            raise UsageError(f"the run does not tell what {option} is for this layout: give {option}")
