"""The gate in a GitHub workflow: a pull request that is slower fails and names the operator; mended, it passes.

    python docs/tutorials/gate_in_ci.py [--small] [--device cuda]

Everything happens in a scratch repository; what the runner would do is done here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

WORKFLOW = """\
name: performance
on: pull_request
jobs:
  gate:
    runs-on: ubuntu-latest
    timeout-minutes: 20
    steps:
      - uses: actions/checkout@v4
        with:
          fetch-depth: 0 # the base must be there
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
      - run: pip install torch --index-url https://download.pytorch.org/whl/cpu
      - run: pip install torch-probe
      - run: probe gate check --against "origin/${{ github.base_ref }}" --budget 180 --github -- bench.py:step
"""

BENCH = """\
import os

import torch
from torch.nn import functional

from model import activation

device = os.environ.get("DEVICE", "cpu")
torch.manual_seed(0)
x = torch.randn(128, 512, device=device)
weights = [torch.randn(512, 512, device=device) / 23 for _ in range(3)]


def step():
    y = x
    for weight in weights:
        y = activation(functional.linear(y, weight))
    return y
"""

MODEL = """\
from torch.nn import functional


def activation(x):
    return functional.gelu(x, approximate="tanh")
"""

SLOWER = """\
import math


def activation(x):
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1 + inner.tanh())
"""

MENDED = """\
from torch.nn import functional


def activation(x):
    \"\"\"The usual approximation of GELU, which torch computes in one pass.\"\"\"
    return functional.gelu(x, approximate="tanh")
"""


def git(folder: Path, *words: str) -> None:
    """Run git in the scratch repository, as somebody."""
    who = ["-c", "user.name=Tutorial", "-c", "user.email=tutorial@example.invalid", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True)


def commit(folder: Path, message: str, **files: str) -> None:
    """Write files (their names without .py) and commit all there is."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    git(folder, "add", "--all")
    git(folder, "commit", "--message", message)


def repository(folder: Path) -> None:
    """A project with a benchmark, a workflow, and a branch for a pull request."""
    git(folder, "init", "--initial-branch", "main")
    (folder / ".github" / "workflows").mkdir(parents=True)
    (folder / ".github" / "workflows" / "performance.yml").write_text(WORKFLOW)
    (folder / ".gitignore").write_text("__pycache__/\n")
    commit(folder, "A model and its benchmark", bench=BENCH, model=MODEL)
    git(folder, "checkout", "-b", "change")


def gate(folder: Path, options: argparse.Namespace, summary: Path) -> tuple[int, str, dict[str, Any]]:
    """What the workflow's last step does: exit code, what it says, and the gate's own result."""
    budget = "3" if options.small else "60"
    result = summary.with_suffix(".json")
    command = [sys.executable, "-m", "probe", "gate", "check", "--against", "main", "--budget", budget, "--github"]
    done = subprocess.run(
        [*command, "-o", str(result), "--", "bench.py:step"], cwd=folder, capture_output=True, text=True,
        env=os.environ | {"DEVICE": options.device, "GITHUB_STEP_SUMMARY": str(summary)},
    )  # fmt: skip
    if not result.exists():
        sys.exit(done.stderr)
    return done.returncode, done.stderr, json.loads(result.read_text())


def tell(title: str, code: int, said: str, found: dict[str, Any]) -> None:
    """The verdict, the operators that explain it, and what GitHub would show beside the change."""
    print(f"{title}: {found['verdict']}, exit code {code}")
    for cause in found["causes"][:4]:
        print(f"  {cause['op']} {cause['delta_s'] * 1e3:+.2f} ms a step: {cause['reason']}")
    for metric in found["metrics"]:
        if metric["verdict"] == "fail":
            print(f"  {metric['name']}: {metric['base']:.4g} → {metric['new']:.4g} {metric['unit']}")
    for line in said.splitlines():
        if line.startswith("::"):
            print(f"  {line}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="less time for the verdicts")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name) / "project"
        folder.mkdir()
        repository(folder)
        commit(folder, "GELU from the paper", model=SLOWER)
        tell("pull request", *gate(folder, options, Path(name) / "slower.md"))
        commit(folder, "GELU from torch again", model=MENDED)
        tell("mended", *gate(folder, options, Path(name) / "mended.md"))


if __name__ == "__main__":
    main()
