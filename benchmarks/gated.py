"""What probe gates of itself: reading a trace with its analysis, and a loop under probe.profile that waits."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

TRACE = Path(__file__).parents[1] / "sample_traces" / "transformer_step"
os.environ["PROBE_TRACE_CACHE"] = "off"  # each step reads the file


def analyse_a_run() -> None:
    """Read a recorded run and analyse it."""
    import probe

    probe.analyze(TRACE)


def steps_under_observation() -> None:
    """Two hundred tiny steps of a loop that is observed and not recorded."""
    import probe

    with tempfile.TemporaryDirectory() as folder:
        session = probe.profile(Path(folder) / "run", wait=10**6)
        session.quiet = True
        with session as observed:
            for _ in range(200):
                observed.step()
