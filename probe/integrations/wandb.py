"""A run's steps in Weights & Biases while it goes on.

    wandb.init(project="mine")
    with probe.profile("runs/exp1") as prof:
        follow(prof)

Values have a step axis of their own, `probe/step`: what the program itself logs is not touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from probe.errors import UnavailableError, UsageError
from probe.session.following import EVERY_S

STEP = "probe/step"


def follow(session: Any, run: Any = None, *, every_s: float = EVERY_S) -> None:
    """Log step time, throughput, wait for data and the session's metrics to `run`, by default the one that is active.

    Raises UnavailableError where wandb is not installed, UsageError where no run is active.
    """
    target = run if run is not None else _active()
    target.define_metric(STEP)
    target.define_metric("probe/*", step_metric=STEP)

    def tell(step: int, values: Mapping[str, float]) -> None:
        named = {name if name.startswith("probe/") else f"probe/{name}": value for name, value in values.items()}
        target.log({STEP: step, **named})

    session.follow(tell, every_s=every_s)


def _active() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UnavailableError(f"wandb is not installed ({error}); pip install wandb") from None
    if wandb.run is None:
        raise UsageError("no run of wandb is active; call wandb.init() before, or give the run")
    return wandb.run
