"""Other systems that analyse the same traces, each in a virtual environment of its own under build/rivals/."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.traces.measure import Cost, run

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "build" / "rivals"


@dataclass(frozen=True)
class Rival:
    """A system, what pip installs for it, and the module here that runs it."""

    name: str
    folder: str
    requirements: tuple[str, ...]
    module: str
    title: str

    @property
    def python(self) -> Path:
        """The interpreter of its environment."""
        return HOME / self.folder / "bin" / "python"

    def command(self, path: Path) -> list[str | Path]:
        """What runs it on a trace."""
        return [self.python, "-m", self.module, path]


RIVALS = (
    Rival(
        "HolisticTraceAnalysis",
        "hta",
        ("HolisticTraceAnalysis", "pandas<3", "psutil", "PyYAML"),  # fails on pandas 3; imports the other two
        "benchmarks.traces.rival_hta",
        "Holistic Trace Analysis",
    ),
    Rival(
        "TraceLens",
        "tracelens",
        ("git+https://github.com/AMD-AGI/TraceLens",),  # not on PyPI
        "benchmarks.traces.rival_tracelens",
        "TraceLens",
    ),
)


def install(tracelens: str | None = None) -> None:
    """Make the environments that are not there; `tracelens`: another place to install it from, a folder or URL."""
    for rival in RIVALS:
        if version(rival) is not None:
            print(f"{rival.title}: {version(rival)} is installed in {rival.python.parents[1]}")
            continue
        wanted = (tracelens,) if rival.folder == "tracelens" and tracelens else rival.requirements
        subprocess.run([sys.executable, "-m", "venv", HOME / rival.folder], check=True)
        made = subprocess.run([rival.python, "-m", "pip", "install", "-q", *wanted], capture_output=True, text=True)
        problem = [line for line in made.stderr.splitlines() if "error" in line.lower()]
        print(
            f"{rival.title}: " + (version(rival) or f"not installed: {problem[0] if problem else made.stderr[-200:]}")
        )


def version(rival: Rival) -> str | None:
    """The installed version, None where it is not installed."""
    if not rival.python.exists():
        return None
    ask = f"from importlib.metadata import version; print(version('{rival.name}'))"
    asked = subprocess.run([rival.python, "-c", ask], capture_output=True, text=True)
    return asked.stdout.strip() or None


def measure(rival: Rival, path: Path, limit_s: float) -> Cost:
    """One run of it on a trace. matplotlib must not look for a screen."""
    return run(rival.command(path), {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", **_home()}, limit_s)


def _home() -> dict[str, str]:
    """Where they may leave configuration: not in the user's home."""
    home = HOME / "home"
    home.mkdir(parents=True, exist_ok=True)
    return {"HOME": str(home), "PATH": os.environ.get("PATH", "")}
