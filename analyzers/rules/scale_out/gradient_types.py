"""D13: gradients exchanged in float32 that were computed in 16 bits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from probe.analyzers.cost_models.dtypes import ELEMENT_TYPES
from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.matching.units import MATRIX
from probe.analyzers.rules.rule import Example, Rule
from probe.analyzers.rules.scale_out.data_parallel import MOST, WORTH, of_gradients
from probe.analyzers.rules.scale_out.exchanges import ACCUMULATE, Exchange, exchanges, found
from probe.units import format_time

HALF = ("bfloat16", "float16")


def wide_gradients(context: Context) -> Iterator[Match]:
    """D13: gradients are exchanged in float32 where the products run in 16 bits."""
    table = exchanges(context)
    own = [x for x in table.rows if of_gradients(context, x)]
    gradients = _gradient_type(context) if own else None
    wide = [x for x in own if _element(x, gradients) == "float32" and x.elements > 1]
    exposed_s = table.unwaited_s(wide)
    narrow = _product_type(context)
    if narrow not in HALF or exposed_s / 2 < WORTH * context.step_s or len(wide) < MOST * len(own):
        return
    replacement, how = _advice(context, narrow)
    yield from found(
        context, wide, saving_s=exposed_s / 2,
        summary=(
            f"gradients are exchanged in float32, and the products that made them run in {narrow}: half of the bytes "
            f"would do, and nothing hides {format_time(exposed_s)} of it"
        ),
        evidence=(f"{table.per_step(wide):.0f} exchanges of float32 per step", f"most products are of {narrow}"),
        where="DistributedDataParallel(…)", replacement=replacement, how=how,
    )  # fmt: skip


def _advice(context: Context, narrow: str) -> tuple[str, str]:
    """What exchanges in 16 bits; torch's own hooks raise a TypeError over Gloo, which a CPU's ranks talk by."""
    if not context.trace.on_device:
        how = f"# a hook of your own: bucket.buffer().to(torch.{narrow}), dist.all_reduce, and copy_() back"
        return f"a communication hook in {narrow}", how
    hook = "bf16_compress_hook" if narrow == "bfloat16" else "fp16_compress_hook"
    return hook, f"model.register_comm_hook(None, torch.distributed.algorithms.ddp_comm_hooks.default_hooks.{hook})"


def _element(x: Exchange, gradients: str | None) -> str | None:
    """The type of an exchange; of a bucket, where torch does not record it, that of the gradients."""
    return x.element.name if x.element is not None else gradients


def _gradient_type(context: Context) -> str | None:
    """The one type of all gradients of parameters; None where there are several."""
    trace, ops = context.trace, context.trace.host_ops
    rows = trace.named(lambda name: name == ACCUMULATE)[ops.name] & (ops.signature >= 0)
    kinds = {trace.signatures[s].dtypes[:1] for s in np.unique(ops.signature[rows]).tolist()}
    names = {ELEMENT_TYPES[d[0]].name for d in kinds if d and d[0] in ELEMENT_TYPES}
    return names.pop() if len(names) == 1 else None


def _product_type(context: Context) -> str | None:
    """The type in which most of the time of matrix products and convolutions is spent."""
    spent: dict[str, int] = {}
    trace, ops = context.trace, context.trace.host_ops
    names = {"aten::" + name for name in (*MATRIX, "convolution", "linear", "matmul")}
    rows = np.flatnonzero(trace.named(names.__contains__)[ops.name] & (ops.signature >= 0))
    known, kinds = np.unique(ops.signature[rows], return_inverse=True)
    spent_ns = np.zeros(len(known), np.int64)
    np.add.at(spent_ns, kinds, context.spent_ns[rows])
    for signature, ns in zip(known.tolist(), spent_ns.tolist(), strict=True):
        dtypes = [d for d in trace.signatures[signature].dtypes if d in ELEMENT_TYPES]
        if dtypes:
            name = ELEMENT_TYPES[dtypes[-1]].name
            spent[name] = spent.get(name, 0) + ns
    return max(spent, key=lambda name: spent[name]) if spent else None


RULES = (
    Rule(
        "D13", "wide-gradients", "gradients exchanged in float32, computed in 16 bits", wide_gradients,
        trigger="all-reduce or reduce-scatter of float32 gradients where most products run in bfloat16 or float16",
        advice="exchange them in 16 bits (a communication hook of DDP, reduce_dtype of FSDP)",
        saving="half of the exposed time of exchanging gradients, without waits for other ranks",
        cannot_show="the error: sums over many ranks in 16 bits round more; compare the losses",
        proof="flag", effort="line", about="communication", needs=("shapes",),
        example=Example("model = DistributedDataParallel(model)",
                        "model.register_comm_hook(None, default_hooks.bf16_compress_hook)"),
    ),
)  # fmt: skip
