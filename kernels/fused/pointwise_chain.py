"""A chain of pointwise operators as one kernel that is made for it, and one for the gradients of its inputs.

Everything between the inputs and the outputs is computed in float32 and rounded once; a cast in the chain rounds there.
The gradients of what is broadcast are sums, in two stages of fixed order.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from probe.kernels.fused import domain
from probe.kernels.fused.chain import Chain, evaluated, malformed, parsed
from probe.kernels.fused.chain_derivative import derivative
from probe.kernels.fused.chain_source import Layout, kernel
from probe.kernels.fused.kernel import Cost, FusedKernel, check
from probe.kernels.fused.launch import launch, multiprocessors
from probe.kernels.fused.tiles import WARPS, tile_for

ELEMENTS = 2048
ELEMENTS_WITH_SUMS = 1024  # of a derivative that sums: it holds more in registers
STRIPS_PER_MULTIPROCESSOR = 4
FLAT_COLUMNS = 2**31 - 1


def pointwise_chain(chain: Chain | str, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The outputs of the chain for these inputs, with gradients.

    Contiguous inputs of the full size, or broadcast along rows, along columns, or of one element; float32, float16,
    bfloat16, or bool for conditions. Raises UnavailableError without a GPU for Triton, UsageError for tensors and
    chains outside `why_not`.
    """
    if not torch.compiler.is_compiling():  # torch.compile would trace it; what compiled code calls looks itself
        check("pointwise_chain", domain.no_device(inputs[0]) if inputs else None, _unsuited(chain, *inputs))
    return tuple(_forward(list(inputs), chain if isinstance(chain, str) else _text(chain)))


@torch.compiler.assume_constant_result
def _text(chain: Chain) -> str:
    """A constant for torch.compile, which cannot trace how JSON is made."""
    return chain.text()


def reference(chain: Chain | str, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The same by torch's operators, one after the other."""
    return evaluated(parsed(chain) if isinstance(chain, str) else chain, inputs)


def why_not(chain: Chain | str, *inputs: torch.Tensor) -> str | None:
    """Why the kernel cannot be called so; None if it can."""
    return (domain.no_device(inputs[0]) if inputs else None) or _unsuited(chain, *inputs)


def _unsuited(chain: Chain | str, *inputs: torch.Tensor) -> str | None:
    chain = parsed(chain) if isinstance(chain, str) else chain
    wrong = malformed(chain)
    if wrong or len(inputs) != chain.inputs:
        return wrong or f"{len(inputs)} inputs for a chain of {chain.inputs}"
    wrong = _wrong_inputs(inputs)
    if wrong:
        return wrong
    short = [i for i in range(len(chain.outputs)) if not _flows(chain, inputs, i)]
    return f"output {short[0]} does not follow from an input of the full size {list(_full(inputs))}" if short else None


def _wrong_inputs(inputs: Sequence[torch.Tensor]) -> str | None:
    """The first input that is not taken."""
    try:
        full = _full(inputs)
    except RuntimeError:
        return f"the inputs do not fit together: {', '.join(str(list(t.shape)) for t in inputs)}"
    for i, tensor in enumerate(inputs):
        if tensor.dtype not in (*domain.DTYPES, torch.bool):
            return (
                f"input {i} is {str(tensor.dtype).removeprefix('torch.')}; float32, float16, bfloat16, bool are taken"
            )
        if tensor.device != inputs[0].device:
            return f"input {i} is on {tensor.device}, the first on {inputs[0].device}"
        if not tensor.is_contiguous():
            return f"input {i} is not contiguous; pass .contiguous()"
        if _layout(tensor, full) is None:
            return f"input {i} has the sizes {list(tensor.shape)}, which are no row or column of {list(full)}"
    return None if full else "the inputs have no dimension"


def _flows(chain: Chain, inputs: Sequence[torch.Tensor], output: int) -> bool:
    """Whether an output follows from an input of the full size."""
    full = _full(inputs)
    reached = {i for i, tensor in enumerate(inputs) if _layout(tensor, full) == "full"}
    for i, operation in enumerate(chain.operations):
        if reached & set(operation.values):
            reached.add(chain.inputs + i)
    return chain.outputs[output] in reached


def _full(inputs: Sequence[torch.Tensor]) -> torch.Size:
    """The sizes that all inputs are broadcast to."""
    full: torch.Size = torch.broadcast_shapes(*(tensor.shape for tensor in inputs))  # type: ignore[no-untyped-call]
    return full


def _layout(tensor: torch.Tensor, full: torch.Size) -> Layout | None:
    """How a tensor lies in the full size; None where it is broadcast in another way."""
    if tensor.shape == full:
        return "full"
    if tensor.numel() == 1:
        return "scalar"
    if tensor.shape[-1] == full[-1] and tensor.numel() == full[-1]:
        return "row"
    return "column" if tensor.shape == (*full[:-1], 1) else None


Kinds = tuple[tuple[torch.dtype, bool], ...]


def _kinds(inputs: Sequence[torch.Tensor]) -> Kinds:
    """What the dtypes of results depend on: dtypes, and which tensors have no dimension."""
    return tuple((tensor.dtype, tensor.dim() == 0) for tensor in inputs)


@lru_cache(maxsize=1024)
def _on_meta(text: str, kinds: Kinds) -> tuple[torch.dtype, ...]:
    """The dtypes of the outputs, as torch promotes them."""
    inputs = [torch.empty(() if single else (1,), dtype=dtype, device="meta") for dtype, single in kinds]
    return tuple(output.dtype for output in evaluated(parsed(text), inputs))


def _matrix(full: torch.Size, layouts: Sequence[Layout]) -> tuple[int, int]:
    """Rows and columns to walk over: one long row where nothing depends on them."""
    elements = full.numel()
    if not elements:
        return 0, 1
    flat = elements <= FLAT_COLUMNS and not {"row", "column"} & set(layouts)
    return (1, elements) if flat else (elements // full[-1], full[-1])


@torch.library.custom_op("probe::pointwise_chain", mutates_args=())
def _forward(inputs: Sequence[torch.Tensor], chain: str) -> list[torch.Tensor]:
    check("pointwise_chain", domain.no_device(inputs[0]), _wrong_inputs(inputs))
    made, full = parsed(chain), _full(inputs)
    layouts: list[Layout] = [_layout(tensor, full) or "full" for tensor in inputs]
    rows, columns = _matrix(full, layouts)
    tile = tile_for(columns, ELEMENTS)
    outputs = [inputs[0].new_empty(full, dtype=dtype) for dtype in _on_meta(chain, _kinds(inputs))]
    every: tuple[Layout, ...] = tuple("full" for _ in outputs)
    launch(
        kernel(made, tuple(layouts), _booleans(inputs), every), tile.down(rows) * tile.across(columns), inputs[0],
        *inputs, *outputs, rows, columns, tile.rows, tile_rows=tile.rows, tile_columns=tile.columns, num_warps=WARPS,
    )  # fmt: skip
    return outputs


def _booleans(inputs: Sequence[torch.Tensor]) -> tuple[bool, ...]:
    return tuple(tensor.dtype == torch.bool for tensor in inputs)


@_forward.register_fake
def _(inputs: Sequence[torch.Tensor], chain: str) -> list[torch.Tensor]:
    full = _full(inputs)
    return [inputs[0].new_empty(full, dtype=dtype) for dtype in _on_meta(chain, _kinds(inputs))]


@torch.library.custom_op("probe::pointwise_chain_backward", mutates_args=())
def _backward(
    inputs: Sequence[torch.Tensor], d_outputs: Sequence[torch.Tensor], chain: str, wanted: Sequence[bool]
) -> list[torch.Tensor]:
    """The gradients of the wanted inputs."""
    full = _full(inputs)
    asked = [tensor for tensor, want in zip(inputs, wanted, strict=True) if want]
    made, which = derivative(parsed(chain), tuple(wanted))
    sums = _sums(made, which, [_layout(tensor, full) or "full" for tensor in asked])
    everything = [*inputs, *(tensor.contiguous() for tensor in d_outputs)]
    layouts: list[Layout] = [_layout(tensor, full) or "full" for tensor in everything]
    rows, columns = _matrix(full, layouts)
    tile = tile_for(columns, ELEMENTS_WITH_SUMS if set(sums) - {"full"} else ELEMENTS)
    across = tile.across(columns)
    strip = tile.rows
    if {"row", "scalar"} & set(sums):  # fewer partial sums
        wanted_strips = max(1, STRIPS_PER_MULTIPROCESSOR * multiprocessors(inputs[0]) // across)
        strip = -(-tile.down(rows) // wanted_strips) * tile.rows
    strips = -(-rows // strip)
    partial = {"row": (strips, columns), "column": (rows, across), "scalar": (strips * across,)}
    dtypes = {which[i]: tensor.dtype for i, tensor in enumerate(asked)}
    results = [
        inputs[0].new_empty(full, dtype=dtypes[i]) if how == "full"
        else inputs[0].new_empty(partial[how], dtype=torch.float32)
        for i, how in enumerate(sums)
    ]  # fmt: skip
    launch(
        kernel(made, tuple(layouts), _booleans(everything), tuple(sums)), strips * across if made.outputs else 0,
        inputs[0], *everything, *results, rows, columns, strip, tile_rows=tile.rows, tile_columns=tile.columns,
        num_warps=WARPS,
    )  # fmt: skip
    return [_collected(tensor, i, results, sums) for tensor, i in zip(asked, which, strict=True)]


def _sums(made: Chain, which: Sequence[int | None], layouts: Sequence[Layout]) -> list[Layout]:
    """How each output of the derivative is summed; each belongs to one input."""
    return [layouts[list(which).index(i)] for i in range(len(made.outputs))]


def _collected(
    like: torch.Tensor, i: int | None, results: Sequence[torch.Tensor], sums: Sequence[Layout]
) -> torch.Tensor:
    """The gradient of one input from what the kernel left."""
    if i is None:
        return torch.zeros_like(like)
    if sums[i] == "full":
        return results[i]
    whole = results[i].sum({"row": 0, "column": 1, "scalar": 0}[sums[i]])
    return whole.view(like.shape).to(like.dtype)


@_backward.register_fake
def _(
    inputs: Sequence[torch.Tensor], d_outputs: Sequence[torch.Tensor], chain: str, wanted: Sequence[bool]
) -> list[torch.Tensor]:
    return [torch.empty_like(tensor) for tensor, want in zip(inputs, wanted, strict=True) if want]


def _remember(ctx: Any, inputs: Any, output: Any) -> None:
    tensors, ctx.chain = inputs
    ctx.wanted = [tensor.requires_grad for tensor in tensors]
    ctx.kinds = [(o.shape, o.dtype) for o in output]
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, d_outputs: Sequence[torch.Tensor | None]) -> Any:
    inputs = ctx.saved_tensors
    whole = [
        inputs[0].new_zeros(shape, dtype=dtype) if d is None else d
        for d, (shape, dtype) in zip(d_outputs, ctx.kinds, strict=True)
    ]
    found = iter(_backward(list(inputs), whole, ctx.chain, ctx.wanted))
    return [next(found) if wanted else None for wanted in ctx.wanted], None


_forward.register_autograd(_gradients, setup_context=_remember)


def cost(chain: Chain | str, *inputs: torch.Tensor) -> Cost:
    """Forward: every input is read and every output written once."""
    made = parsed(chain) if isinstance(chain, str) else chain
    elements = _full(inputs).numel()
    written = sum(elements * dtype.itemsize for dtype in _on_meta(made.text(), _kinds(inputs)))
    return Cost(domain.size_bytes(*inputs), written, elements * len(made.operations))


def backward_cost(chain: Chain | str, *inputs: torch.Tensor) -> Cost:
    """Backward, for gradients of all inputs: inputs and outputs' gradients are read, inputs' gradients written."""
    made = parsed(chain) if isinstance(chain, str) else chain
    wanted = tuple(tensor.is_floating_point() for tensor in inputs)
    floating = [tensor for tensor in inputs if tensor.is_floating_point()]
    flops = _full(inputs).numel() * len(derivative(made, wanted)[0].operations)
    forward = cost(made, *inputs)
    return Cost(forward.bytes_moved, domain.size_bytes(*floating), flops)


class PointwiseChain(nn.Module):
    """A chain with no parameters of its own.

    Where the kernel cannot run (`why_not`) it computes the same with torch's operators.
    """

    def __init__(self, chain: Chain) -> None:
        super().__init__()
        self.text = chain.text()

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs."""
        way = reference if why_not(self.text, *inputs) else pointwise_chain
        return way(self.text, *inputs)


KERNEL = FusedKernel(
    name="pointwise_chain",
    replaces="pointwise operators in a row, each in a pass of its own",
    codes=("F01",),
    function=pointwise_chain,
    reference=reference,
    why_not=why_not,
    cost=cost,
    backward_cost=backward_cost,
    module=PointwiseChain,
    operators=("probe::pointwise_chain", "probe::pointwise_chain_backward"),
)
