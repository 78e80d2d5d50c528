"""How is an error of probe's kept from the loop? It becomes a warning, and what goes on without it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MAX_WARNINGS = 50  # a loop that does something odd in each of a million steps is told so once


class Guard:
    """Runs what must not raise; `failed` is called with what was done when it did. `warnings` are kept for the run."""

    def __init__(self, failed: Callable[[str], None]) -> None:
        self.warnings: list[str] = []
        self._failed = failed

    def __call__(self, doing: str, action: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What `action` returns, None where it raised. Interruptions pass."""
        try:
            return action(*args, **kwargs)
        except Exception as error:
            self.warn(f"{doing} failed: {type(error).__name__}: {error}")
        self._failed(doing)
        return None

    def warn(self, text: str) -> None:
        """Keep a warning, once."""
        if text not in self.warnings and len(self.warnings) < MAX_WARNINGS:
            self.warnings.append(text)
