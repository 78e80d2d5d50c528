"""`with observed(optimizer, "runs/exp1"):` round any loop: a step ends when that optimizer has stepped.

For loops of Accelerate (whose optimizer wraps torch's and steps only when gradients are whole), torchtitan (whose
container of optimizers is one), and everything else that steps a torch.optim.Optimizer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import probe
from probe.program.model import model_of


@contextmanager
def observed(
    optimizer: Any, path: str | os.PathLike[str] | None = None, *, micro_batches: int = 1, **options: Any
) -> Iterator[Any]:
    """A session of `probe.profile` whose steps are the optimizer's; `options` are those of `probe.profile`.

    micro_batches: into how many each step is divided. The model is found by the optimizer's parameters, where it is
    not given.
    """
    stepping = _stepping(optimizer)
    options.setdefault("model", model_of(stepping))
    with probe.profile(path, **options) as session:
        hook = stepping.register_step_post_hook(lambda *_: session.step(micro_batches=micro_batches))
        try:
            yield session
        finally:
            hook.remove()


def _stepping(optimizer: Any) -> Any:
    """The optimizer of torch's inside a wrapper; of a container the last one: its step ends the container's."""
    if hasattr(optimizer, "optimizers") and len(optimizer.optimizers):
        return _stepping(optimizer.optimizers[-1])
    inner = getattr(optimizer, "optimizer", None)
    return _stepping(inner) if hasattr(inner, "param_groups") else optimizer
