"""Where does a step of an unchanged program end? Told from its optimizers, else from what it fetches.

A program that makes an optimizer trains: a step ends with `step()` of its optimizer. Of several optimizers (a
generator's and a discriminator's, one a parameter) the first one counts, and another only once it has stepped twice
without it. Batches that are fetched meanwhile, with gradients on, are the step's micro-batches: gradient accumulation.
A program without optimizers infers, or evaluates: a step ends when the next batch is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

OVERTAKES = 2  # steps of another optimizer without one of the first: the first is no longer in use


@dataclass
class Ended:
    """A step has ended: what it was made of."""

    samples: float | None
    micro_batches: int


@dataclass
class Recogniser:
    """Told what happens, it says when a step ends. Identities are any integers."""

    trains: bool = False  # an optimizer was made
    _first: int | None = None
    _others: dict[int, int] = field(default_factory=dict)
    _fetched: int = 0
    _samples: float = 0.0
    _counted: bool = True  # whether every batch of the step said how many samples it has

    def optimizer_made(self) -> None:
        """From now on only optimizers end steps."""
        self.trains = True

    def optimizer_stepped(self, identity: int) -> Ended | None:
        """The step that ends with this, if one does."""
        self.trains = True
        if self._first is None:
            self._first = identity
        if identity != self._first:
            self._others[identity] = self._others.get(identity, 0) + 1
            if self._others[identity] < OVERTAKES:
                return None
            self._first = identity
        self._others.clear()
        return self._end()

    def asks_for_batch(self) -> Ended | None:
        """The step that ends before the next batch, in a program that does not train."""
        return self._end() if self._fetched and not self.trains else None

    def got_batch(self, samples: int | None, *, learning: bool) -> None:
        """A batch has come; `learning` whether gradients are on: an evaluation in between is no part of a step."""
        if self.trains and not learning:
            return
        self._fetched += 1
        self._counted = self._counted and samples is not None
        self._samples += samples or 0

    def called(self) -> Ended:
        """A function that the user named as a step has returned."""
        return self._end()

    def _end(self) -> Ended:
        ended = Ended(self._samples if self._fetched and self._counted else None, max(self._fetched, 1))
        self._fetched, self._samples, self._counted = 0, 0.0, True
        return ended


def samples_in(batch: object) -> int | None:
    """The leading dimension of a batch's first tensor, wherever it lies in tuples, lists and dictionaries."""
    for _ in range(8):  # no batch is nested deeper
        shape = getattr(batch, "shape", None)
        if shape is not None:
            return int(shape[0]) if len(shape) else None
        values = batch.values() if isinstance(batch, Mapping) else batch
        if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__") or not hasattr(values, "__len__"):
            return None
        if not len(values):
            return None
        batch = next(iter(values))
    return None
