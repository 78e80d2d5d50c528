"""What a rule found, in the terms that its replacement can be run on: recorded sizes, strides, types and scalars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True)
class AttentionSite:
    """Hand-written attention: softmax(scale · Q Kᵀ + mask) V. dtype is torch's name ("float32", "bfloat16")."""

    query: tuple[int, ...]  # sizes, last two [T, D]; leading ones batch and heads in any number
    key: tuple[int, ...]  # sizes, last two [S, D]
    value: tuple[int, ...]  # sizes, last two [S, Dv]
    dtype: str
    scale: float | None  # None where no scaling was recorded: 1.0
    mask: Literal["none", "additive", "boolean", "causal"]
    dropout: float
    training: bool  # whether the backward pass was recorded too
    softmax_dtype: str | None = None  # where the softmax ran in another type than `dtype`


@dataclass(frozen=True)
class OptimizerSite:
    """An optimizer that updates parameter after parameter in Python."""

    kind: Literal["adam", "adamw", "sgd"]
    parameters: tuple[tuple[int, ...], ...]  # sizes, one entry per parameter
    dtype: str


Site: TypeAlias = AttentionSite | OptimizerSite
