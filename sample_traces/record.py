"""Record the sample traces again, each with the analysis that the tests expect of it.

Usage: python sample_traces/record.py [NAME…]            (all of them by default)
       python sample_traces/record.py --expect [NAME…]   only write the expected analyses again
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from workloads import SEED, WORKLOADS

import probe

HERE = Path(__file__).parent
STEPS = 20


def record(name: str) -> None:
    """Run one workload under probe and keep its run directory."""
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(SEED)
    with probe.profile(folder, wait=8, warmup=2, active=3, tags={"sample": name}) as prof:
        for _, told in zip(range(STEPS), WORKLOADS[name](), strict=False):
            prof.step(**told)


def expect(name: str) -> None:
    """Write what the analysis says now; look at it before you commit it."""
    analysis = probe.analyze(HERE / name, ceilings=HERE / "ceilings.json")
    content = {**analysis.to_json(), "source": {**analysis.to_json()["source"], "path": name}}
    (HERE / name / "expected.json").write_text(json.dumps(content, indent=1) + "\n")
    print(analysis)


def main(arguments: list[str]) -> None:
    names = [a for a in arguments if not a.startswith("-")] or list(WORKLOADS)
    for name in names:
        if "--expect" not in arguments:
            record(name)
        expect(name)


if __name__ == "__main__":
    main(sys.argv[1:])
