"""When is the model's graph captured? Its calls are seen in warm-up steps; FX follows them when the loop is over.

Nothing here raises: whatever fails is one warning, and the run goes without a graph.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from probe.files import write_atomically
from probe.runs.run import graph_name

if TYPE_CHECKING:
    from probe.collectors.model_calls import ModelCalls

# Of processor time, for each second that a recording may pause training: nobody trains once the block is left, and a
# model of 12 layers takes 1.3 s (docs/decisions.md).
MOST_S = 15.0
MOST_PAUSES = 4.0  # beyond which a larger max_pause_s allows the graph no more

_RECORDS = ("calibrate", "warmup", "tensors", "active")


class GraphOfModel:
    """The graph of one session's model. state: True once it is written, else why it is not."""

    def __init__(self, model: object, warn: Callable[[str], None], max_pause_s: float = 1.0) -> None:
        self.most_s = MOST_S * min(max_pause_s, MOST_PAUSES)
        self.state: bool | str = "the loop is not over yet"
        self.file: str | None = None
        self._model = model
        self._warn = warn
        self._calls: ModelCalls | None = None
        self._ended = False

    def follow(self, phase: str) -> None:
        """A phase begins: watch the model in those before recording, and in recording while it was not called yet."""
        if self._ended or (phase not in _RECORDS and self._calls is None):
            return
        try:
            self._follow(phase)
        except Exception as error:
            self._fail(str(error) or type(error).__name__)

    def _follow(self, phase: str) -> None:
        from probe.collectors.model_calls import ModelCalls
        from probe.collectors.module_graph import unwrapped

        if self._calls is None:
            self._model = unwrapped(self._model)
            self._calls = ModelCalls(self._model)
        if phase not in _RECORDS or (phase == "active" and self._calls.found):
            self._ended = True
            self._calls.leave()
        else:
            self._calls.watch()

    def leave(self) -> None:
        """The loop is over: leave the model alone."""
        self._ended = True
        if self._calls is not None:
            self._calls.leave()

    def write(self, directory: Path, rank: int) -> None:
        """Capture what was seen, and write it."""
        if self._calls is None:  # nothing was to be recorded, or the model is none to look at
            return
        problem = self._calls.problem
        if not self._calls.found:
            self._fail(problem or "the model was not called itself in the steps before recording")
            return
        try:
            self._write(directory, rank, self._calls)
        except Exception as error:  # the capture's own reason, or a full disk
            self._fail(str(error) or type(error).__name__)
        else:
            self.state = True

    def _write(self, directory: Path, rank: int, calls: ModelCalls) -> None:
        from probe.analyzers.rules.matching.units import normalised
        from probe.collectors.module_graph import capture
        from probe.readers.module_graph import encode

        data = encode(capture(self._model, calls.found, normalised, self.most_s))
        write_atomically(directory / graph_name(rank), data)
        self.file = graph_name(rank)

    def _fail(self, reason: str) -> None:
        self.leave()
        self._calls = None
        self.state = f"the model's graph was not captured: {reason}"
        self._warn(self.state)
