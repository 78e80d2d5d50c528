"""What probe gates of itself: reading a trace with its analysis, and a loop under probe.profile that waits.

python benchmarks/gated.py      # make gate: against the last tag, else the parent commit
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRACE = ROOT / "sample_traces" / "transformer_step"
REGRESSION = 3  # the exit code of a gate that fails
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


GATED = ("analyse_a_run", "steps_under_observation")
BUDGET_S = 100  # of each


def against() -> str | None:
    """The last tag before this commit, else the parent commit; None where there is no history."""
    for words in (("describe", "--tags", "--abbrev=0", "HEAD~1"), ("rev-parse", "--verify", "--short", "HEAD~1")):
        found = subprocess.run(["git", *words], capture_output=True, text=True, cwd=ROOT)
        if found.returncode == 0:
            return found.stdout.strip()
    return None


def main() -> int:
    """Gate each; 3 where one is surely slower. What cannot be gated, as in a copy without history, fails nothing."""
    base = against()
    if base is None:
        print("not gated: there is no earlier commit here")
        return 0
    failed = False
    for name in GATED:
        command = [sys.executable, "-m", "probe", "gate", "check", "--against", base, "--budget", str(BUDGET_S)]
        code = subprocess.run([*command, "--no-install", "--", f"benchmarks/gated.py:{name}"], cwd=ROOT).returncode
        print(f"{name}: exit code {code}", flush=True)
        failed |= code == REGRESSION
    return REGRESSION if failed else 0


if __name__ == "__main__":
    sys.exit(main())
