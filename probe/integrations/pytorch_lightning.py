"""`Trainer(…, callbacks=[ProbeCallback("runs/exp1")])`: a run of Lightning's Trainer under probe.profile."""

from __future__ import annotations

import os
from typing import Any

from lightning.pytorch import Callback

import probe
from probe.program.recognition import samples_in


class ProbeCallback(Callback):
    """A step is one optimizer step, as `trainer.global_step` counts; batches before it are its micro-batches.

    path and options are those of `probe.profile`; the model is the module. `session` is the session while training.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, **options: Any) -> None:
        self.session: Any = None
        self._path = path
        self._options = options
        self._step = 0
        self._batches = 0
        self._samples: int | None = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the session."""
        self._step = trainer.global_step
        self.session = probe.profile(self._path, **{"model": pl_module, **self._options}).__enter__()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A batch has ended, and a step with it where the optimizer stepped."""
        self._batches += 1
        count = samples_in(batch)
        self._samples = self._samples + count if self._samples is not None and count is not None else None
        if trainer.global_step == self._step or self.session is None:
            return
        self.session.step(samples=self._samples, micro_batches=self._batches)
        self._step, self._batches, self._samples = trainer.global_step, 0, 0

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Close it."""
        self._close(None)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Keep what was recorded."""
        self._close(type(exception))

    def _close(self, kind: type[BaseException] | None) -> None:
        session, self.session = self.session, None
        if session is not None:
            session.__exit__(kind, None, None)
