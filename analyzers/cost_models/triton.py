"""What does a kernel that Inductor generated cost?

Traffic: every tensor passed, read or written once; what is passed both ways counts once. Arithmetic: the operators
that the kernel's name lists, each once per element of the largest tensor; a name lists no repetitions, so this is an
estimate, and it is only made where every word of the name is known.
"""

from __future__ import annotations

import re

from probe.analyzers.cost_models.call import Call
from probe.analyzers.cost_models.pointwise import FORMULAS
from probe.analyzers.cost_models.tensors import UndeterminedError
from probe.analyzers.cost_models.terms import Cost, Kind, attempted, unknown, work

_KERNEL = re.compile(r"triton_(poi|red|per|for|tem|mix|spl)_(?:fused_)?(.*?)_?(\d*)$")

_NO_WORK = (
    "view clone copy permute transpose t expand unsqueeze squeeze slice select cat stack to_copy unsafe_view reshape "
    "embedding index gather fill zeros ones full arange detach alias split constant_pad_nd empty lift_fresh"
)
_ROWS = (
    "native_layer_norm=7 sum=1 mean=1 amax=1 amin=1 var_mean=4 var=4 std=4 argmax=1 any=1 all=1 softmax=5 "
    "log_softmax=5 softmax_backward_data=4 log_softmax_backward_data=4 native_layer_norm_backward=12 "
    "linalg_vector_norm=2 cumsum=1 scalar_tensor=0 native_dropout=2 convert_element_type=0 native_group_norm=7 "
    "convolution=1 addmm=1 mm=0 bmm=0 "
)

WORDS: dict[str, int] = {
    **{name: formula.flops for name, formula in FORMULAS.items()},
    **dict.fromkeys(_NO_WORK.split(), 0),
    **{name: int(flops) for name, flops in (item.split("=") for item in _ROWS.split())},
}


def is_generated(name: str) -> bool:
    """Whether this is the name of a kernel that Inductor generated."""
    return name.startswith("triton_") and _KERNEL.match(name) is not None


def kernel(call: Call) -> Cost:
    """The cost of a generated kernel with recorded arguments."""
    match = _KERNEL.match(call.name)
    if match is None:
        return unknown(f"no model for {call.name}")
    tensors = call.tensors()
    if not tensors:
        raise UndeterminedError("no tensor among the recorded arguments")
    largest = max(t.elements for t in tensors)
    kind: Kind = "reduction" if match[1] in ("red", "per") else "pointwise"
    flops, reason = attempted(lambda: _per_element(match[1], match[2]) * largest)
    dtype = max((t.element for t in tensors), key=lambda e: e.is_floating).name
    assumes = "tensors pass once; operators as the kernel's name lists them, each once per element"
    return work(kind, dtype, flops, tensors, reason=reason, assumes=assumes)


def _per_element(sort: str, words: str) -> int:
    """Operations per element of the operators whose names are joined in `words`, the longest match first."""
    if sort == "tem":
        raise UndeterminedError("the sizes of a templated product are not recorded")
    total, rest = 0, words.split("_")
    while rest:
        if rest[0] == "":  # of a name that starts with an underscore
            rest = rest[1:]
            continue
        length = next((n for n in range(min(len(rest), 5), 0, -1) if "_".join(rest[:n]) in WORDS), 0)
        if not length:
            raise UndeterminedError(f"no operator is known as {rest[0]!r} in the kernel's name")
        total += WORDS["_".join(rest[:length])]
        rest = rest[length:]
    return total
