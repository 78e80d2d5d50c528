"""What the parts of one process cost: CPU seconds between marks, its finished children included.

Runs under any Python 3.9 with nothing installed, because rivals' environments use it as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable


class Stages:
    """Named parts of a process in their order; the first counts from the start of the interpreter."""

    def __init__(self) -> None:
        self._parts: dict[str, float] = {}
        self._failed: dict[str, str] = {}
        self._last_s = 0.0

    def mark(self, name: str) -> None:
        """The part called `name` ends here."""
        now_s = sum(os.times()[:4])
        self._parts[name] = round(now_s - self._last_s, 3)
        self._last_s = now_s

    def attempt(self, name: str, part: Callable[[], object]) -> None:
        """Run a part that may fail without the others: what it took either way, and how it failed."""
        try:
            part()
        except Exception as error:  # whatever a rival raises is a result here
            self._failed[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        self.mark(name)

    def print(self) -> None:
        """Say it on one line, in the form that `measure.run` reads."""
        print(json.dumps({"stages": self._parts, "failed": self._failed}), flush=True)
