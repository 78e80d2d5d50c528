"""Record the sample traces again, each with the analysis that the tests expect of it.

Usage: python sample_traces/record.py [NAME…] [--device cuda] [--into FOLDER]
       python sample_traces/record.py --expect [NAME…]     only write the expected analyses again
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from workloads import SEED, WORKLOADS

import probe

HERE = Path(__file__).parent
STEPS = 24


def record(name: str, folder: Path, device: str) -> None:
    """Run one workload under probe and keep its run directory."""
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # two threads on a busy machine wait for each other, and the trace would show that
    with probe.profile(folder, wait=10, warmup=2, active=3, tags={"sample": name}) as prof:
        for _, told in zip(range(STEPS), WORKLOADS[name](device), strict=False):
            prof.step(**told)
    forget_the_machine(folder / "run.json")


def forget_the_machine(part: Path) -> None:
    """Take out of a run what names the machine and the person it was recorded by."""
    content = json.loads(part.read_text())
    content["host"] = ""
    content["command"] = {"argv": ["sample_traces/record.py"], "executable": "python", "cwd": "."}
    content["environment"]["git"] = None
    part.write_text(json.dumps(content, separators=(",", ":")) + "\n")


def expect(folder: Path, ceilings: Path | None) -> None:
    """Write what the analysis says now; look at it before you commit it."""
    analysis = probe.analyze(folder, ceilings=ceilings)
    content = analysis.to_json()
    content["source"]["path"] = folder.name
    (folder / "expected.json").write_text(json.dumps(content, indent=1) + "\n")
    print(analysis)


def main() -> None:
    parser = argparse.ArgumentParser(description="Record the sample traces again.")
    parser.add_argument("names", nargs="*", default=list(WORKLOADS), metavar="NAME", help=", ".join(WORKLOADS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--into", type=Path, default=HERE)
    parser.add_argument("--expect", action="store_true", help="do not record, only analyse again")
    options = parser.parse_args()
    os.environ["PROBE_CACHE_DIR"] = tempfile.mkdtemp()  # no ceilings and no verdicts of this machine's user
    own = options.into == HERE
    for name in options.names:
        folder = options.into / name
        if not options.expect:
            record(name, folder, options.device)
        expect(folder, HERE / "ceilings.json" if own else None)


if __name__ == "__main__":
    main()
