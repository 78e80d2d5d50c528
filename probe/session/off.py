"""What stands for a session, or for an analysis, that is not there?"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any, TypeVar

from probe.session.requests import NO_REQUEST, Request

_Item = TypeVar("_Item")


class NoAnalysis:
    """Stands for an analysis that cannot be made; prints as the reason, in one line."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __str__(self) -> str:
        return f"probe: no analysis: {self.reason}"

    __repr__ = __str__

    def to_json(self) -> dict[str, Any]:
        """An analysis object that holds nothing but the reason."""
        return {"schema": "probe.analysis/1", "warnings": [self.reason]}

    def to_pandas(self) -> Any:
        """An empty table."""
        import pandas as pd

        return pd.DataFrame()

    def _repr_html_(self) -> str:
        return f"<p>{escape(str(self))}</p>"


class Off:
    """What `profile(enabled=False)` is: the whole interface, at no cost."""

    __slots__ = ()
    path = None
    warnings: tuple[str, ...] = ()

    def __enter__(self) -> Off:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        return None

    def step(self, samples: object = None, tokens: object = None, micro_batches: int = 1) -> None:
        return None

    def batches(self, iterable: Iterable[_Item]) -> Iterable[_Item]:
        return iterable

    def add_wait(self, wait_ns: int) -> None:
        return None

    def metric(self, name: str, value: object, unit: str = "") -> None:
        return None

    def follow(self, tell: object, *, every_s: float = 0.0, close: object = None) -> None:
        return None

    def request(self, prompt_tokens: object = None) -> Request:
        return NO_REQUEST

    def analysis(self) -> NoAnalysis:
        return NoAnalysis("profiling was disabled (enabled=False)")


OFF = Off()
