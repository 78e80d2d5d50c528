"""Which model does an optimizer train? Found among the living objects, once, so that operators can name its modules."""

from __future__ import annotations

import gc
from typing import Any


def model_of(optimizer: Any) -> Any | None:
    """The innermost module that holds all of the optimizer's parameters; None where there is none.

    The innermost: not the wrapper of DistributedDataParallel or of a training framework.
    """
    import torch

    wanted = {id(p) for group in optimizer.param_groups for p in group["params"]}
    modules = [found for found in gc.get_objects() if issubclass(type(found), torch.nn.Module)]
    inner = {id(child) for module in modules for child in vars(module).get("_modules", {}).values()}
    for root in (module for module in modules if id(module) not in inner):
        if _holds(root, wanted):
            return _innermost(root, wanted)
    return None


def _innermost(module: Any, wanted: set[int]) -> Any:
    while True:
        child = next((c for c in module.children() if _holds(c, wanted)), None)
        if child is None:
            return module
        module = child


def _holds(module: Any, wanted: set[int]) -> bool:
    return bool(wanted) and wanted <= {id(p) for p in module.parameters()}
