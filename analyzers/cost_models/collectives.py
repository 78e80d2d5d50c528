"""How many bytes does a collective carry? No more than that: their times follow from links, not from memory."""

from __future__ import annotations

from probe.analyzers.cost_models.call import Call, all_tensors
from probe.analyzers.cost_models.tensors import UndeterminedError
from probe.analyzers.cost_models.terms import Cost

PREFIXES = ("c10d::", "_c10d_functional::", "c10d_functional::", "_c10d_functional_autograd::", "nccl:", "gloo:",
            "mpi:", "ucc:", "rccl:", "xccl:", "symm_mem::")  # fmt: skip
KERNELS = ("ncclKernel", "ncclDevKernel", "rcclKernel", "mscclKernel")
NAMES = ("record_param_comms",)


def is_collective(name: str) -> bool:
    """Whether an operator is a collective or a wrapper of one."""
    return name in NAMES or name.startswith(PREFIXES)


def payload(call: Call) -> Cost:
    """The largest tensor, or list of tensors, among the arguments (NCCL's "message size" for all but all-to-all)."""
    tensors = list(all_tensors(call))
    if not tensors:
        raise UndeterminedError("no payload recorded")
    size = float(max(max(t.bytes for t in tensors), _largest_list(call)))
    source = call.hints.source or None
    return Cost(0.0, size, "collective", tensors[0].element.name, None, size, source)


def _largest_list(call: Call) -> int:
    lists = [i for i in range(len(call)) if not call.is_tensor(i) and call.signature.dims[i]]
    return max((sum(t.bytes for t in call.tensor_list(i)) for i in lists), default=0)
