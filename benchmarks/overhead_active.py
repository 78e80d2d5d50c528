"""Is a step that probe records dearer than one under torch.profiler alone, with the same options?

    python benchmarks/overhead_active.py [--rounds 15] [--steps 80] [-o benchmarks/results/overhead_active.txt]

A profiler leaves traces in its process: flags of torch's, memory, a thread. So every loop has a process of its own, on
one thread of torch's. Within a round bare, torch and probe follow each other in a new order each time; a process gives
the median of its steps, by the clock and by the CPU time of the loop's thread, which others on the machine do not
lengthen. Ratios are those of a round; shown are their median over rounds and its 95 % bootstrap interval.

torch: `torch.profiler.profile` with a schedule that only records, `prof.step()` after each step. Both record with what
probe takes by default (shapes, trace_only), or with memory and stacks. Ending and writing the recording is not in it.
`step() itself` is a step without work. Goal: probe / torch at most 1; the interval must not lie above it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from probe.units import format_time

SIDES = ("bare", "torch", "probe")
RATIOS = (("probe", "torch"), ("torch", "bare"), ("probe", "bare"))
CLOCKS = ("clock", "CPU")
WARM = 10  # steps before those that count: the first recorded ones fill caches and take memory
ALL: dict[str, bool] = {"memory": True, "stacks": True}
NOTHING = "step() itself"
ROWS: tuple[tuple[str, dict[str, bool]], ...] = (
    (NOTHING, {}), ("1000 tiny additions", {}), ("10 products 256³", {}), ("training step", {}), ("training step", ALL),
)  # fmt: skip
RESAMPLES = 10_000

Medians = dict[str, float]  # by the clock: seconds of a step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        side, row = json.loads(asked.child)
        print(json.dumps(measured(side, *ROWS[row], asked.steps)), flush=True)
        os._exit(0)  # a recording of so many steps would take longer to write than to make
    lines = [heading()]
    print(lines[0], flush=True)
    for row in range(len(ROWS)):
        lines += table(row, rounds_of(row, asked.rounds, asked.steps))
        print("\n".join(lines[-len(CLOCKS) :]), flush=True)
    if asked.output is not None:
        asked.output.write_text("\n".join(lines) + "\n")


# --- the process that measures ----------------------------------------------------------------------------------


def measured(side: str, work_name: str, options: dict[str, bool], steps: int) -> Medians:
    """The median step of one side, in this process."""
    import torch
    from overhead import WORKLOADS  # beside this file; imports torch

    torch.set_num_threads(1)
    work = WORKLOADS[work_name]() if work_name != NOTHING else lambda: None
    for _ in range(WARM):
        work()
    with contextlib.redirect_stderr(io.StringIO()), tempfile.TemporaryDirectory() as directory:
        prof = entered(side, options, Path(directory), steps + 2 * WARM)
        return timed(work, prof, steps)


def entered(side: str, options: dict[str, bool], directory: Path, steps: int) -> Any:
    """A profiler that records from now on, for longer than `steps`."""
    if side == "bare":
        return Bare()
    if side == "probe":
        from probe.session import profile

        return profile(
            directory / "r", wait=0, warmup=0, active=steps, max_pause_s=1e6, telemetry=False, **options
        ).__enter__()  # type: ignore[arg-type]
    return torch_alone(steps, memory=options.get("memory", False), stacks=options.get("stacks", False)).__enter__()


def torch_alone(steps: int, *, memory: bool, stacks: bool) -> Any:
    """torch.profiler as a user has it, with the options that probe sets."""
    import torch
    from torch._C._profiler import _ExperimentalConfig

    return torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU],
        schedule=torch.profiler.schedule(wait=0, warmup=0, active=steps),
        record_shapes=True,
        profile_memory=memory,
        with_stack=stacks,
        experimental_config=None if stacks else _ExperimentalConfig(trace_only=True),
    )


class Bare:
    """The loop without a profiler."""

    def step(self) -> None:
        return None


def timed(work: Callable[[], object], prof: Any, steps: int) -> Medians:
    """Medians of a step with the profiler's own step(), by the clock and by this thread's CPU time."""
    clock, cpu = [time.perf_counter()], [time.thread_time()]
    for _ in range(WARM + steps):
        work()
        prof.step()
        clock.append(time.perf_counter())
        cpu.append(time.thread_time())
    both = (np.diff(times)[WARM:] for times in (clock, cpu))
    return {name: float(np.median(values)) for name, values in zip(CLOCKS, both, strict=True)}


# --- the process that compares ----------------------------------------------------------------------------------


def rounds_of(row: int, rounds: int, steps: int) -> list[dict[str, Medians]]:
    """Every side once a round, each in a fresh process, in a new order."""
    found = []
    for _ in range(rounds):
        order = random.sample(SIDES, len(SIDES))
        found.append({side: child(side, row, steps) for side in order})
    return found


def child(side: str, row: int, steps: int) -> Medians:
    command = [sys.executable, __file__, "--child", json.dumps([side, row]), "--steps", str(steps)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, env=environ, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side}, {ROWS[row][0]}: exit code {done.returncode}\n{done.stderr}")
    told: Medians = json.loads(done.stdout.splitlines()[-1])
    return told


def heading() -> str:
    names = "".join(f"{f'{over} / {under}':>24}" for over, under in RATIOS)
    return f"{'median step, fresh processes':36}{'by':>6}{names}{''.join(f'{side:>10}' for side in SIDES)}"


def table(row: int, rounds: Sequence[dict[str, Medians]]) -> list[str]:
    """A line a clock: ratios with their intervals, and the step of each side."""
    name, options = ROWS[row]
    shown = f"{name}{', memory and stacks' if options else ''}"
    lines = []
    for clock in CLOCKS:
        of_side = {side: [one[side][clock] for one in rounds] for side in SIDES}
        cells = [
            cell(of_side[over], of_side[under], shown=name != NOTHING or under != "bare") for over, under in RATIOS
        ]
        times = [f"{format_time(statistics.median(values)):>10}" for values in of_side.values()]
        lines.append(f"{shown:36}{clock:>6}{''.join(cells)}{''.join(times)}")
    return lines


def cell(over: Sequence[float], under: Sequence[float], *, shown: bool) -> str:
    """The median ratio of the rounds, and the 95 % percentile interval of medians of rounds drawn again."""
    if not shown:
        return f"{'–':>24}"
    ratios = np.array(over) / np.array(under)
    drawn = np.random.default_rng(0).choice(ratios, (RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    return f"{np.median(ratios):9.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
