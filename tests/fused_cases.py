"""Our fused kernels against float64: cases that run in Triton's interpreter and on a GPU, and what they get wrong.

A result is right by the rule of probe.verify.numeric: its error is no more than twice that of torch's own operators in
the same dtype, and a floor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

CANARY = 64  # elements of NaN before and after each input: whoever reads beside it has them in its results
DTYPES = ("float32", "float16", "bfloat16")
Inputs = list[Any]


@dataclass(frozen=True)
class Case:
    """`make(generator)` gives the inputs in float32; `options` go to function and reference alike."""

    label: str
    function: Callable[..., Any]
    reference: Callable[..., Any]
    make: Callable[[torch.Generator], Inputs]
    dtype: str = "float32"
    options: Mapping[str, Any] = field(default_factory=dict)
    only_function: Mapping[str, Any] = field(default_factory=dict)
    condition: float = 1.0  # how far right results may differ more than on ordinary inputs
    gradients: bool = True  # whether the function has any

    @property
    def name(self) -> str:
        return f"{self.label}-{self.dtype}"


def normal(*sizes: int, scale: float = 1.0) -> Callable[[torch.Generator], torch.Tensor]:
    """Draws of a standard normal distribution, times a factor."""
    return lambda generator: torch.randn(sizes, generator=generator) * scale


def padded(values: torch.Tensor) -> torch.Tensor:
    """The same values, contiguous, between canaries."""
    whole = torch.full((values.numel() + 2 * CANARY,), float("nan"), dtype=values.dtype, device=values.device)
    whole[CANARY : CANARY + values.numel()] = values.flatten()
    return whole[CANARY : CANARY + values.numel()].view(values.shape)


def failures(case: Case, device: str = "cpu") -> list[str]:
    """What is wrong of a case: outputs and gradients of every floating input."""
    from probe.verify.numeric import compare

    drawn = case.make(torch.Generator().manual_seed(len(case.label)))
    kind = getattr(torch, case.dtype)
    inputs = [padded(x.to(device, kind)) if _floating(x) else _moved(x, device) for x in drawn]
    new = results(case.function, inputs, {**case.options, **case.only_function}, case.gradients)
    old = results(case.reference, inputs, case.options, case.gradients)
    wide = [x.double() if _floating(x) else x for x in inputs]
    exact = results(case.reference, wide, case.options, case.gradients)
    found = []
    for i, (before, after, right) in enumerate(zip(old, new, exact, strict=True)):
        if after.shape != before.shape or after.dtype != before.dtype:
            found.append(f"{i}: {after.dtype} {list(after.shape)} instead of {before.dtype} {list(before.shape)}")
            continue
        failure = compare(str(i), before, after, right.double(), condition=case.condition).failure
        if failure is None and bool((after.isfinite() & ~before.isfinite() & ~right.isfinite()).any()):
            failure = "finite where torch is not"
        found += [f"{i}: {failure}"] if failure else []
    return found


def results(way: Callable[..., Any], inputs: Inputs, options: Mapping[str, Any], gradients: bool) -> list[torch.Tensor]:
    """Outputs, and gradients of the floating inputs for gradients of the outputs that are the same for every way."""
    fresh = [x.detach().requires_grad_(gradients) if _floating(x) else x for x in inputs]
    out = way(*fresh, **options)
    outs = out if isinstance(out, tuple) else (out,)
    if not gradients:
        return list(outs)
    generator = torch.Generator().manual_seed(1)
    d_outs = [torch.randn(o.shape, generator=generator).to(o.device, inputs[0].dtype).to(o.dtype) for o in outs]
    leaves = [x for x in fresh if _floating(x)]
    found = torch.autograd.grad(outs, leaves, d_outs, allow_unused=True)
    unused = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]
    return [*(o.detach() for o in outs), *unused]


def _floating(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.is_floating_point()


def _moved(x: Any, device: str) -> Any:
    return x.to(device) if isinstance(x, torch.Tensor) else x


def cases(family: str) -> list[Case]:
    """All of a family."""
    return list(FAMILIES[family]())


def bias_activation() -> Iterator[Case]:
    """Every function, widths on and off the tiles, no bias, dropout, zeros and large values."""
    from probe.kernels.fused.bias_activation import bias_activation, reference

    def case(label: str, *sizes: int, bias: bool = True, scale: float = 1.0, **more: Any) -> Case:
        def make(generator: torch.Generator) -> Inputs:
            return [normal(*sizes, scale=scale)(generator), normal(sizes[-1])(generator) if bias else None]

        return Case(label, bias_activation, reference, make, **more)

    for activation in ("none", "relu", "silu", "gelu", "gelu_tanh", "sigmoid"):
        for dtype in DTYPES:
            yield case(activation, 7, 130, dtype=dtype, options={"activation": activation})
        yield case(f"{activation}-large", 3, 40, scale=100.0, options={"activation": activation})
    for sizes in ((1, 1), (33, 1), (1, 1025), (2, 3, 768), (0, 5), (150, 16)):
        yield case(f"sizes-{sizes}", *sizes)
    yield case("no-bias", 5, 33, bias=False, dtype="float16")
    yield case("zeros", 5, 33, scale=0.0)
    for dtype in ("float32", "float16"):
        yield _dropped(dtype)


def _dropped(dtype: str) -> Case:
    """Dropout, against a reference that keeps the elements which the kernel keeps of ones."""
    from probe.kernels.fused.bias_activation import bias_activation, reference

    def masked(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        ones = torch.ones_like(x, dtype=torch.float32)
        return reference(x, bias) * (bias_activation(ones, activation="none", p=0.3, seed=5) > 0) / 0.7

    def make(generator: torch.Generator) -> Inputs:
        return [normal(9, 131)(generator), normal(131)(generator)]

    return Case("dropout", bias_activation, masked, make, dtype, only_function={"p": 0.3, "seed": 5})


def residual_norm() -> Iterator[Case]:
    """Both norms with and without residual, weight, bias and dropout; constant, zero, large and very wide rows."""
    from probe.kernels.fused.residual_norm import norm, norm_reference

    def case(label: str, *sizes: int, scale: float = 1.0, shift: float = 0.0, kind: str = "rms", **more: Any) -> Case:
        def make(generator: torch.Generator) -> Inputs:
            affine = [normal(sizes[-1])(generator) for _ in range(2)]
            return [normal(*sizes, scale=scale)(generator) + shift, *affine]

        return Case(f"{kind}-{label}", norm, norm_reference, make, options={"kind": kind}, **more)

    for kind in ("rms", "layer"):
        for dtype in DTYPES:
            yield case("plain", 9, 300, kind=kind, dtype=dtype)
            yield _with_residual(kind, dtype)
        for sizes in ((1, 8), (2, 3, 17), (5, 1024), (0, 7), (40, 64), (3, 8193)):
            yield case(f"sizes-{sizes}", *sizes, kind=kind)
        yield case("zeros", 3, 40, kind=kind, scale=0.0)
        yield case("large", 3, 40, kind=kind, scale=1e4)
        yield _dropped_residual(kind)
    yield case("shifted", 3, 256, kind="layer", shift=100.0, condition=100.0)


def _with_residual(kind: str, dtype: str) -> Case:
    from probe.kernels.fused.residual_norm import residual_norm, residual_norm_reference

    def make(generator: torch.Generator) -> Inputs:
        return [normal(2, 9, 70)(generator), normal(2, 9, 70)(generator), normal(70)(generator)]

    return Case(f"{kind}-residual", residual_norm, residual_norm_reference, make, dtype, {"kind": kind})


def _dropped_residual(kind: str) -> Case:
    from probe.kernels.fused.bias_activation import bias_activation
    from probe.kernels.fused.residual_norm import residual_norm, residual_norm_reference

    def masked(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, **options: Any) -> Any:
        ones = torch.ones_like(x, dtype=torch.float32)
        mask = bias_activation(ones, activation="none", p=0.3, seed=5) > 0
        return residual_norm_reference(x * mask / 0.7, residual, weight, **options)

    def make(generator: torch.Generator) -> Inputs:
        return [normal(19, 70)(generator), normal(19, 70)(generator), normal(70)(generator)]

    more = {"p": 0.3, "seed": 5}
    return Case(f"{kind}-dropout", residual_norm, masked, make, options={"kind": kind}, only_function=more)


def gated_activation() -> Iterator[Case]:
    """Every function, packed and not, on and off the tiles, large values."""
    from probe.kernels.fused.gated_activation import gated_activation, reference

    def case(label: str, *sizes: int, packed: bool = False, scale: float = 1.0, **more: Any) -> Case:
        def make(generator: torch.Generator) -> Inputs:
            return [normal(*sizes, scale=scale)(generator), None if packed else normal(*sizes)(generator)]

        return Case(f"{label}{'-packed' * packed}", gated_activation, reference, make, **more)

    for packed in (False, True):
        for activation in ("silu", "gelu", "gelu_tanh", "relu", "sigmoid"):
            yield case(activation, 5, 66, packed=packed, options={"activation": activation})
        for dtype in ("float16", "bfloat16"):
            yield case("half", 5, 66, packed=packed, dtype=dtype)
        for sizes in ((1, 2), (2, 3, 1030), (0, 6), (70, 16)):
            yield case(f"sizes-{sizes}", *sizes, packed=packed)
        yield case("large", 5, 40, packed=packed, scale=200.0)


def rope() -> Iterator[Case]:
    """Both layouts, other strides, fewer heads of k, odd numbers of positions, angles by batch, angles twice."""
    from probe.kernels.fused.rope import reference, rope

    def case(label: str, batch: int, heads: int, k_heads: int, positions: int, head_dim: int, **more: Any) -> Case:
        def make(generator: torch.Generator) -> Inputs:
            q = torch.randn((batch, positions, heads, head_dim), generator=generator)
            k = torch.randn((batch, positions, k_heads, head_dim), generator=generator)
            return [q.transpose(1, 2).contiguous(), k.transpose(1, 2).contiguous()]

        layout = more["options"]["layout"]
        angles = torch.rand(more.pop("angles", (positions, head_dim // 2)), generator=torch.Generator().manual_seed(1))
        if more.pop("twice", False):
            angles = torch.cat((angles, angles), -1) if layout == "halves" else angles.repeat_interleave(2, -1)
        swapped = more.pop("swapped", False)

        def run(way: Callable[..., Any]) -> Callable[..., Any]:
            def turned(q: torch.Tensor, k: torch.Tensor, **options: Any) -> Any:
                if swapped:
                    q, k = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k))
                at = (angles * 100).to(q.device)
                kind = q.dtype if q.dtype == torch.float64 else torch.float32
                return way(q, k, at.to(kind).cos(), at.to(kind).sin(), **options)

            return turned

        return Case(f"{layout}-{label}", run(rope), run(reference), make, **more)

    for layout in ("halves", "pairs"):
        for dtype in DTYPES:
            yield case("plain", 2, 3, 1, 37, 40, dtype=dtype, options={"layout": layout})
        yield case("swapped", 2, 2, 2, 17, 64, swapped=True, options={"layout": layout})
        yield case("one", 1, 1, 1, 1, 2, options={"layout": layout})
        yield case("batched", 2, 2, 2, 9, 16, angles=(2, 9, 8), options={"layout": layout})
        yield case("twice", 2, 2, 2, 9, 16, twice=True, options={"layout": layout})
        yield case("empty", 2, 2, 2, 0, 16, options={"layout": layout})


def linear_cross_entropy() -> Iterator[Case]:
    """Several chunks, ignored targets (all of them too), smoothing, soft-cap, bias, sums, large logits, one class."""
    from probe.kernels.fused.linear_cross_entropy import linear_cross_entropy, reference

    def case(
        label: str, rows: int, features: int, classes: int, *, ignored: float = 0.2, bias: bool = False, **more: Any
    ) -> Case:
        scale = more.pop("scale", 1.0)

        def make(generator: torch.Generator) -> Inputs:
            target = torch.randint(0, classes, (rows,), generator=generator)
            target[torch.rand(rows, generator=generator) < ignored] = -100
            x, weight = (torch.randn((n, features), generator=generator) for n in (rows, classes))
            return [x * scale, weight / 2, target, normal(classes)(generator) if bias else None]

        return Case(label, linear_cross_entropy, reference, make, only_function={"chunk_rows": 5}, **more)

    for dtype in DTYPES:
        yield case("plain", 13, 16, 40, dtype=dtype)
        yield case("smoothed", 13, 16, 40, dtype=dtype, bias=True, options={"label_smoothing": 0.1})
    for more in ({"reduction": "sum"}, {"softcap": 3.0}, {"softcap": 2.0, "label_smoothing": 0.3}):
        yield case(f"options-{more}", 13, 16, 40, options=more)
    yield case("one-class", 3, 4, 1)
    yield case("several-blocks", 3, 8, 4099)
    yield case("large", 6, 16, 40, scale=100.0, condition=100.0)
    yield case("zeros", 6, 16, 40, scale=0.0)
    yield case("all-ignored", 6, 16, 40, ignored=1.0)
    yield case("all-ignored-sum", 6, 16, 40, ignored=1.0, options={"reduction": "sum"})
    yield case("empty", 0, 16, 40, options={"reduction": "sum"})


SMOOTH = "neg exp tanh sigmoid relu silu gelu gelu_tanh square sin cos erf abs".split()
OF_POSITIVE = "log sqrt rsqrt reciprocal".split()
TWO = "add sub mul div maximum minimum".split()


def pointwise_chain() -> Iterator[Case]:
    """Every operator with its gradient, every layout of the inputs, casts, conditions, powers, and real chains."""
    from probe.kernels.fused.chain import Chain, Operation

    full, row, column, one = (9, 130), (130,), (9, 1), ()
    for name in (*SMOOTH, *OF_POSITIVE):
        made = Chain(1, (Operation(name, (0,)),), (1,))
        yield chain_case(name, made, full, positive=name in OF_POSITIVE)
    for name in TWO:
        made = Chain(2, (Operation(name, (0, 1)),), (2,))
        yield chain_case(f"{name}-row", made, full, row, positive=name == "div")
        yield chain_case(f"{name}-column", made, column, full, positive=name == "div")
        yield chain_case(f"{name}-one", made, full, one, positive=name == "div")
    for exponent in (0.0, 1.0, 2.0, 3.0, -1.0, -2.0, 0.5, -0.5, 1.7):
        made = Chain(1, (Operation("pow", (0, exponent)),), (1,))
        yield chain_case(f"pow{exponent}", made, full, positive=True)
    made = Chain(1, (Operation("sub", (1.0, 0)), Operation("div", (2.0, 1)), Operation("mul", (2, -3.0))), (2, 3))
    yield chain_case("scalars", made, full, positive=True, scale=0.1)
    made = Chain(1, (Operation("clamp", (0, -0.5, float("inf"))), Operation("clamp", (1, -1e9, 0.7))), (2,))
    yield chain_case("clamped", made, (3, 5, 7))
    yield from _real_chains()


def chain_case(label: str, chain: Any, *sizes: tuple[int, ...], positive: bool = False, **more: Any) -> Case:
    """A chain on inputs of these sizes."""
    from probe.kernels.fused.pointwise_chain import pointwise_chain, reference

    scale = more.pop("scale", 1.0)

    def make(generator: torch.Generator) -> Inputs:
        drawn = [normal(*one, scale=scale)(generator) for one in sizes]
        return [x.abs() + 0.5 for x in drawn] if positive else drawn

    return Case(
        label, lambda *inputs: pointwise_chain(chain, *inputs), lambda *inputs: reference(chain, *inputs), make, **more
    )


def _real_chains() -> Iterator[Case]:
    """As they occur, traced from Python."""
    from probe.kernels.fused.chain_recording import of_function

    def gelu_by_hand(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        x = x + bias
        return 0.5 * x * (1.0 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3)))

    def two_outputs(x: torch.Tensor, w: torch.Tensor, c: torch.Tensor, s: torch.Tensor) -> Any:
        h = torch.nn.functional.gelu(x * w + c) / (1 + x * x).sqrt()
        return torch.where(h > 0.1, h.tanh(), h * s), torch.sub(h, x, alpha=2)

    def cast(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(x.float() * w.float()).to(x.dtype) * 2

    for dtype in DTYPES:
        made = of_function(gelu_by_hand, torch.ones(4, 5), torch.ones(5))
        yield chain_case("gelu-by-hand", made, (2, 3, 257), (257,), dtype=dtype)
        kind = getattr(torch, dtype)
        made = of_function(cast, torch.ones(4, 5, dtype=kind), torch.ones(5, dtype=kind))
        yield chain_case("cast", made, (6, 33), (33,), dtype=dtype)
    examples = (torch.ones(4, 5), torch.ones(5), torch.ones(4, 1), torch.ones(()))
    made = of_function(two_outputs, *examples)
    yield chain_case("two-outputs", made, (9, 130), (130,), (9, 1), ())
    yield chain_case("many-rows", made, (301, 20), (20,), (301, 1), ())
    yield chain_case("one-row", made, (1, 20), (20,), (1, 1), ())


def scored_attention() -> Iterator[Case]:
    """Soft-cap, bias in every broadcast, both, causal, other strides, odd sizes, large scores, masked pairs."""
    from probe.kernels.fused.scored_attention import reference, scored_attention

    def case(label: str, queries: int, keys: int, head_dim: int, bias: tuple[int, ...] | None, **more: Any) -> Case:
        scale, masked = more.pop("scale", 1.0), more.pop("masked", False)

        def make(generator: torch.Generator) -> Inputs:
            q, k, v = (torch.randn((2, 2, n, head_dim), generator=generator) for n in (queries, keys, keys))
            added = None if bias is None else torch.randn(bias, generator=generator)
            if masked and added is not None:
                added[..., 1::3] = float("-inf")
            return [q * scale, k, v, added]

        return Case(label, scored_attention, reference, make, gradients=False, **more)

    for dtype in DTYPES:
        yield case("both", 33, 40, 16, (2, 33, 40), dtype=dtype, options={"softcap": 3.0})
        yield case("causal", 33, 40, 32, None, dtype=dtype, options={"softcap": 5.0, "causal": True})
    for bias in ((40,), (33, 40), (2, 1, 1, 40), (2, 2, 33, 40), (1, 2, 1, 40)):
        yield case(f"bias-{bias}", 33, 40, 16, bias)
    yield case("plain", 1, 65, 64, None)
    yield case("masked", 20, 30, 16, (20, 30), masked=True)
    yield case("large", 20, 30, 16, (20, 30), scale=50.0, options={"softcap": 40.0}, condition=100.0)
    yield case("scaled", 20, 30, 16, None, options={"softcap": 2.0, "scale": 0.9})
    yield case("none", 0, 30, 16, None)


FAMILIES: dict[str, Callable[[], Iterator[Case]]] = {
    "bias_activation": bias_activation,
    "residual_norm": residual_norm,
    "gated_activation": gated_activation,
    "rope": rope,
    "linear_cross_entropy": linear_cross_entropy,
    "pointwise_chain": pointwise_chain,
    "scored_attention": scored_attention,
}
