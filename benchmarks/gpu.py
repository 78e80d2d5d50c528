"""Everything that needs a GPU, in one call under ten minutes: tests, microbenchmarks, verified kernels, real traces.

Usage: python benchmarks/gpu.py [--device cuda:0] [--seconds 570]        (`make gpu`)

Results lie in $OUT (default build/gpu), few and small enough to be carried home: `summary.md` (what was done, what is
not as expected), `microbench.json` and `.html`, `quick.json`, `kernels.json`, `samples.tar.gz` (recorded runs),
`logs.tar.gz` (the output of every part). A part that fails or runs out of its time does not stop the others; the exit
code says so.

Needs no network and no environment of its own: python with a CUDA build of torch, numpy, pandas, msgspec, platformdirs,
typer, rich, fsspec, nvidia-ml-py, pytest and hypothesis.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FUSED = "tests/kernels/test_fused_kernels.py"
MOST_SPREAD = 0.02  # between the medians of the full and of the quick run
# What a GPU of a known kind should reach: (name of the device, suite, params, at least, unit in words).
TARGETS = (
    ("H200", "memory_bandwidth", {"kernel": "copy", "level": "DRAM"}, 4.2e12, "B/s"),
    ("H200", "matmul", {"dtype": "bfloat16"}, 760e12, "FLOP/s"),
)


@dataclass(frozen=True)
class Part:
    """One command with its share of the time, at most `limit_s`."""

    name: str
    limit_s: float
    command: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """How a part ended: None where it ran out of time."""

    part: Part
    exit_code: int | None
    seconds: float

    @property
    def words(self) -> str:
        if self.exit_code is None:
            return f"cut after {self.seconds:.0f} s"
        return "done" if self.exit_code == 0 else f"FAILED (exit code {self.exit_code})"


def parts(out: Path, device: str) -> tuple[Part, ...]:
    """What is run, in this order."""
    probe = (sys.executable, "-m", "probe")
    pytest = (sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider")
    samples = out / "samples"
    return (
        Part("doctor", 60, (*probe, "doctor")),
        Part("tests", 120, (*pytest, "tests", f"--ignore={FUSED}")),
        Part("microbench", 300, (*probe, "run", "microbench", "--device", device, "-o", str(out / "microbench.json"),
                                 "--html", str(out / "microbench.html"), "--force")),
        Part("quick", 75, (*probe, "run", "microbench", "--quick", "--device", device, "-o", str(out / "quick.json"),
                           "--force")),
        Part("samples", 100, (sys.executable, "sample_traces/record.py", "--device", "cuda", "--into", str(samples))),
        Part("verify", 90, (*probe, "verify", str(samples / "transformer_step"), "--budget", "60")),
        Part("fused", 150, (*pytest, FUSED)),  # compiles hundreds of kernels
        Part("kernels", 150, (sys.executable, "benchmarks/kernels.py", "--quick", "--device", device,
                              "--seconds", "130", "-o", str(out / "kernels.json"))),
    )  # fmt: skip


def run(part: Part, out: Path, left_s: float) -> Outcome:
    """Run one part; what it prints is shown and kept."""
    print(f"== {part.name}", flush=True)
    began = time.monotonic()
    limit_s = max(5.0, min(part.limit_s, left_s))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    with (out / f"{part.name}.log").open("wb") as log:
        process = subprocess.Popen(part.command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            process.send_signal(2)  # microbench keeps what it has measured
            code = None
            _end(process)
    outcome = Outcome(part, code, time.monotonic() - began)
    print((out / f"{part.name}.log").read_text(errors="replace")[-3000:], flush=True)
    print(f"== {part.name}: {outcome.words}, {outcome.seconds:.0f} s", flush=True)
    return outcome


def _end(process: subprocess.Popen[bytes]) -> None:
    """Give a process that was interrupted a moment to write what it has."""
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def unexpected(full: dict[str, Any] | None, quick: dict[str, Any] | None) -> Iterator[str]:
    """What is not as it should be, one line each."""
    if full is None:
        yield "there is no result of the full microbenchmark run"
        return
    yield from (f"warning: {warning}" for warning in full["warnings"])
    yield from (f"unsupported: {entry['suite']}: {entry['reason']}" for entry in full["unsupported"])
    for m in full["measurements"]:
        if "implausible" in m["flags"]:
            yield f"implausible: {_told(m)}"
        elif m.get("verdict") in ("worse", "better"):
            reference = m["reference"]
            because = f" because {m['because']}" if m.get("because") else ""
            published = f"{reference['low']:.4g} to {reference['high']:.4g}"
            yield f"{m['verdict']} than published{because}: {_told(m)}, published {published} ({reference['source']})"
    yield from _below_target(full)
    yield from _not_repeated(full, quick)


def _told(m: dict[str, Any]) -> str:
    return f"{m['suite']} {m['name']} {m['value']:.4g} {m['unit']}"


def _below_target(full: dict[str, Any]) -> Iterator[str]:
    for name, suite, params, least, unit in TARGETS:
        if name not in full["device"]["name"]:
            continue
        fitting = [m for m in full["measurements"] if m["suite"] == suite and params.items() <= m["params"].items()]
        best = max((m["value"] for m in fitting), default=0.0)
        if best < least:
            yield f"below target: {suite} {params} reached {best:.4g} {unit}, {least:.4g} were expected"


def _not_repeated(full: dict[str, Any], quick: dict[str, Any] | None) -> Iterator[str]:
    """Rows whose medians differ between two runs by more than they should."""
    again = {(m["suite"], m["name"]): m for m in (quick or {"measurements": []})["measurements"]}
    ratios = []
    for m in full["measurements"]:
        other = again.get((m["suite"], m["name"]))
        if other and m["median"] > 0 and other["median"] > 0 and m["params"] == m["params"] | _same(m, other):
            ratios.append((other["median"] / m["median"], m))
    far = [(ratio, m) for ratio, m in ratios if not 1 - MOST_SPREAD <= ratio <= 1 + MOST_SPREAD]
    if ratios:
        yield f"repeated: {len(ratios) - len(far)} of {len(ratios)} medians of the quick run within {MOST_SPREAD:.0%}"
    for ratio, m in sorted(far, key=lambda entry: -abs(math.log(entry[0])))[:20]:
        yield f"not repeated: quick to full {ratio:.3f}: {_told(m)} {','.join(m['flags'])}"


def _same(m: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """What the other measurement says of the size and kernel: rows of one name are the same where these agree."""
    return {key: other["params"].get(key) for key in ("size_bytes", "kernel", "dtype", "level") if key in m["params"]}


def load(path: Path) -> dict[str, Any] | None:
    """A result; None where none was written."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content


def pack(out: Path) -> None:
    """Logs and recorded runs as one file each."""
    with tarfile.open(out / "logs.tar.gz", "w:gz") as logs:
        for log in sorted(out.glob("*.log")):
            logs.add(log, log.name)
            log.unlink()
    if (out / "samples").is_dir():
        with tarfile.open(out / "samples.tar.gz", "w:gz") as samples:
            samples.add(out / "samples", "samples")


def summary(outcomes: list[Outcome], lines: list[str], device: str) -> str:
    """The short table."""
    rows = [f"| {o.part.name} | {o.words} | {o.seconds:.0f} s |" for o in outcomes]
    told = [f"- {line}" for line in lines] or ["- nothing"]
    return "\n".join(
        [
            f"# {device}",
            "",
            "| part | outcome | time |",
            "|---|---|---|",
            *rows,
            "",
            "What is not as expected:",
            *told,
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Everything that needs a GPU.")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--seconds", type=float, default=570, help="for all parts together")
    options = parser.parse_args()
    out = Path(os.environ.get("OUT") or ROOT / "build" / "gpu").resolve()
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    outcomes = [run(part, out, options.seconds - (time.monotonic() - began)) for part in parts(out, options.device)]
    full = load(out / "microbench.json")
    lines = list(unexpected(full, load(out / "quick.json")))
    text = summary(outcomes, lines, full["device"]["name"] if full else options.device)
    (out / "summary.md").write_text(text)
    pack(out)
    print(text)
    return int(any(outcome.exit_code != 0 for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
