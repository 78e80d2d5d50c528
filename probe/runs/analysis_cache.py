"""What did the last analysis of a run say, in a line? Kept in the user's cache, so that lists of runs need no analysis.

One small file a run, by its place and the moment it was begun: a run that is recorded anew is another one.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from probe.files import cache_directory, write_atomically
from probe.results.analysis import Analysis
from probe.runs import run as runs


@dataclass(frozen=True)
class Brief:
    """What bounds a run's step, and the time in it that nothing uses or that findings would save."""

    bound: str
    step_s: float | None = None
    idle_s: float | None = None
    recoverable_s: float | None = None


def idle_s(analysis: Analysis) -> float | None:
    """Seconds of a step for which nothing runs, whatever the cause; on a CPU, those without a cause."""
    if analysis.idle_s and analysis.source.device_kind != "cpu":
        return sum(analysis.idle_s.values())
    return analysis.time_s.get("idle")


def recoverable_s(analysis: Analysis) -> float | None:
    """Seconds of a step that all findings together would save; 0 where there is none that saves time."""
    step_s = analysis.time_s.get("step")
    if step_s is None:
        return None
    return step_s - analysis.fixes[-1].step_after_s if analysis.fixes else 0.0


def keep(analysis: Analysis) -> None:
    """Remember what a whole run's analysis said; where that cannot be written, nothing is lost."""
    directory = Path(analysis.source.path)
    if analysis.source.kind != "run" or not directory.is_dir():
        return
    brief = Brief(analysis.bound, analysis.time_s.get("step"), idle_s(analysis), recoverable_s(analysis))
    with contextlib.suppress(OSError):
        file = _file(directory, runs.created(directory))
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, msgspec.json.encode(brief))


def find(directory: Path, created: str) -> Brief | None:
    """What was remembered of the run that was begun at `created`; None where it was never analysed here."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(_file(directory, created).read_bytes(), type=Brief)
    return None


def _file(directory: Path, created: str) -> Path:
    name = hashlib.sha256(f"{directory.resolve()}\n{created}".encode()).hexdigest()[:32]
    return cache_directory() / "analyses" / f"{name}.json"
