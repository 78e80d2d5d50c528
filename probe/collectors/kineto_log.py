"""Keep kineto's log lines off standard error. It reads its level once, when a process first prepares a profiler."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLE = "KINETO_LOG_LEVEL"
_SILENT = "6"  # kineto's levels end at 5 (USDT); a larger one lets nothing pass


@contextmanager
def silenced() -> Iterator[None]:
    """Silence kineto while a profiler is prepared, unless the user chose a level."""
    if _VARIABLE in os.environ:
        yield
        return
    os.environ[_VARIABLE] = _SILENT
    try:
        yield
    finally:
        os.environ.pop(_VARIABLE, None)
