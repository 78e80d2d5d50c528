"""The shape of a decoder-only transformer: its parameters, and the activations that training keeps of a layer."""

from __future__ import annotations

from dataclasses import dataclass

from probe.errors import UsageError
from probe.planning.result import positive

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1, "int8": 1}


@dataclass(frozen=True)
class Shape:
    """Sizes of the model. intermediate: of the feed-forward network, 4 × hidden unless given; gated: SwiGLU's three."""

    layers: int
    hidden: int
    heads: int
    vocabulary: int
    key_value_heads: int | None = None
    intermediate: int | None = None
    gated: bool = False
    tied: bool = False
    experts: int = 1  # feed-forward networks of a layer
    experts_a_token: int = 1

    @property
    def wide(self) -> int:
        return self.intermediate or 4 * self.hidden

    @property
    def key_value_width(self) -> int:
        return self.hidden // self.heads * (self.key_value_heads or self.heads)

    @property
    def layer_parameters(self) -> float:
        """Weights and biases of one layer: attention, feed-forward, two norms."""
        attention = 2 * self.hidden * (self.hidden + self.key_value_width)
        feed = (3 if self.gated else 2) * self.hidden * self.wide * self.experts
        router = self.hidden * self.experts if self.experts > 1 else 0
        return attention + feed + router + 2 * self.hidden

    @property
    def parameters(self) -> float:
        """Of the whole model: layers, embedding, and the head unless it is the embedding."""
        embedding = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * self.layer_parameters + embedding + self.hidden


def check(shape: Shape) -> None:
    """UsageError for sizes that no transformer has."""
    positive(layers=shape.layers, hidden=shape.hidden, heads=shape.heads, vocabulary=shape.vocabulary,
             intermediate=shape.wide, experts=shape.experts)  # fmt: skip
    if shape.hidden % shape.heads:
        raise UsageError(f"--heads {shape.heads} does not divide --hidden {shape.hidden}")
    if shape.key_value_heads is not None and (shape.key_value_heads < 1 or shape.heads % shape.key_value_heads):
        raise UsageError(f"--key-value-heads {shape.key_value_heads} does not divide the {shape.heads} heads")
    if not 1 <= shape.experts_a_token <= shape.experts:
        raise UsageError(f"--experts-a-token {shape.experts_a_token}: there are {shape.experts} experts in a layer")


def element_bytes(dtype: str) -> int:
    """Bytes of an element. UsageError for a type that is not known."""
    if dtype not in BYTES:
        raise UsageError(f"{dtype}: no such element type; there are {', '.join(BYTES)}")
    return BYTES[dtype]


def layer_activations(shape: Shape, rows: float, sequence: int, element: int, *, flash: bool, ranks: int) -> float:
    """Bytes that one layer keeps for its backward pass, of `rows` tokens, on one of `ranks` tensor-parallel ranks.

    Counted tensor by tensor: inputs of both norms and of both projections stay whole on every rank; queries, keys,
    values, the attention's result and the feed-forward's inner tensors are divided. Without flash attention two
    score matrices are kept (softmax in, dropout or softmax out).
    """
    hidden, wide, kv = shape.hidden, shape.wide * shape.experts_a_token, shape.key_value_width
    whole = 4 * hidden  # residual and normalised input, of attention and of feed-forward
    divided = 2 * hidden + 2 * kv + (3 if shape.gated else 2) * wide
    per_row = (whole + divided / ranks) * element
    if flash:
        per_row += 4 * shape.heads / ranks  # log-sum-exp, float32
    else:
        per_row += 2 * shape.heads * sequence * element / ranks
    return rows * per_row


def output_activations(shape: Shape, rows: float, element: int, ranks: int) -> float:
    """Logits, and in float32 their logarithms and their gradient, of `rows` tokens."""
    return rows * (shape.hidden * element + shape.vocabulary * (element + 2 * 4) / ranks)
