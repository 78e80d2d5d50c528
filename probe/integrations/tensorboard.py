"""A run's steps as TensorBoard scalars while it goes on.

with probe.profile("runs/exp1") as prof:
    follow(prof, "runs/exp1/tensorboard")      # or a SummaryWriter of yours
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from probe.errors import UnavailableError
from probe.session.following import EVERY_S


def follow(session: Any, writer: Any, *, every_s: float = EVERY_S) -> None:
    """Write step time, throughput, wait for data and the user's metrics to `writer`, a SummaryWriter or a directory.

    A writer of yours stays open; one that is made here is closed with the run. Raises UnavailableError where
    TensorBoard is not installed.
    """
    own = isinstance(writer, (str, PathLike))
    target = _opened(writer) if own else writer

    def tell(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            target.add_scalar(name, value, step)

    session.follow(tell, every_s=every_s, close=target.close if own else target.flush)


def _opened(directory: Any) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UnavailableError(f"TensorBoard is not installed ({error}); pip install tensorboard") from None
    return SummaryWriter(str(directory))
