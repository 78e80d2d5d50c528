"""`Trainer(…, callbacks=[ProbeCallback("runs/exp1")])`: a run of Hugging Face's Trainer under probe.profile."""

from __future__ import annotations

import os
from typing import Any

from transformers import TrainerCallback

import probe


class ProbeCallback(TrainerCallback):
    """A step is one optimizer step; gradient accumulation and the number of samples are told.

    path and options are those of `probe.profile`; the model is the trainer's. `session` is the session while training.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, **options: Any) -> None:
        self.session: Any = None
        self._path = path
        self._options = options

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Open the session; one that a failed training left open ends."""
        self.on_train_end(args, state, control)
        self.session = probe.profile(self._path, **{"model": model, **self._options}).__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """An optimizer step has ended."""
        if self.session is not None:
            accumulated = args.gradient_accumulation_steps
            samples = args.train_batch_size * accumulated
            self.session.step(samples=samples, micro_batches=accumulated)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Keep the losses and learning rates that the trainer logs."""
        for name, value in (logs or {}).items():
            if self.session is not None and isinstance(value, (int, float)):
                self.session.metric(name, value)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close it."""
        session, self.session = self.session, None
        if session is not None:
            session.__exit__(None, None, None)
