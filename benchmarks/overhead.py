"""What does `probe.profile` cost a training loop? Step times as ratios to the bare loop's, and the pause of a cycle.

    python benchmarks/overhead.py [--rounds 15]

States alternate within each round, in a new order each time, so that what else the machine does hits all alike. A
ratio is the median over rounds of (shortest step in the state / shortest of the same round's bare loop), with its
95 % interval; the shortest, because what probe adds it adds to every step, and what others add it mostly leaves out.
Telemetry reads ten times a second, which the shortest step never meets: for it the mean step counts, in longer
stretches and less what the loop's thread waited for a core that others had (Linux counts it); beside it stands the CPU
time that its threads took.
Goals: disabled 1.00; waiting (also watched, with every_s= and slow=) and after the last cycle at most 1.005;
telemetry at most 1.01; the pause at most max_pause_s.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from probe.runs.run import load
from probe.session import profile
from probe.stats import summarise
from probe.units import format_time

STATES = ("disabled", "waiting", "watched", "after", "active")
Work = Callable[[], object]


def tiny() -> Work:
    """1000 additions of 16 numbers: nothing but dispatch, the worst case for a profiler."""
    ones = torch.ones(16)

    def work() -> None:
        for _ in range(1000):
            torch.add(ones, ones)

    return work


def products() -> Work:
    """10 products of 256 x 256 matrices: the operators' own time counts."""
    matrix = torch.randn(256, 256)
    return lambda: [matrix @ matrix for _ in range(10)]


def training() -> Work:
    """One training step of a small network: forward, backward, AdamW."""
    layers = [layer for _ in range(6) for layer in (torch.nn.Linear(128, 128), torch.nn.GELU())]
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(model.parameters())
    data = torch.randn(64, 128)

    def work() -> None:
        optimizer.zero_grad()
        model(data).square().mean().backward()
        optimizer.step()

    return work


WORKLOADS = {"1000 tiny additions": tiny, "10 products 256³": products, "training step": training}


class Bare:
    """The loop without probe."""

    def __enter__(self) -> Bare:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def step(self) -> None:
        return None


def enter(state: str, directory: Path, steps: int) -> Any:
    """A session that is in `state` for the next `steps` steps."""
    options: dict[str, Any] = {
        "bare": {},
        "disabled": {"enabled": False},
        "waiting": {"wait": 10**9, "telemetry": False},
        "watched": {"repeat": 0, "every_s": 1e9, "slow": 1e9, "telemetry": False},
        "telemetry": {"wait": 10**9},
        "after": {"wait": 0, "warmup": 0, "active": 1, "telemetry": False},
        "active": {"wait": 0, "warmup": 0, "active": steps, "max_pause_s": 1e6, "telemetry": False},
    }[state]
    return Bare() if state == "bare" else profile(directory / state, **options)


def step_s(state: str, work: Work, directory: Path, steps: int) -> float:
    """Seconds of the shortest step in `state`."""
    times = []
    with contextlib.redirect_stderr(io.StringIO()), enter(state, directory, steps + 4) as prof:
        for _ in range(3):  # the first of them brings `after` about
            work()
            prof.step()
        begin = time.perf_counter()
        for _ in range(steps):
            work()
            prof.step()
            end = time.perf_counter()
            times.append(end - begin)
            begin = end
    return min(times)


def ratios(work: Work, rounds: int, directory: Path) -> dict[str, list[float]]:
    """For each state the ratio to the bare loop of the same round."""
    work()
    begin = time.perf_counter()
    work()
    steps = max(10, min(400, int(0.15 / (time.perf_counter() - begin))))
    found: dict[str, list[float]] = {state: [] for state in STATES}
    for _ in range(rounds):
        order = ["bare", *STATES]
        random.shuffle(order)
        times = {state: step_s(state, work, directory, steps) for state in order}
        for state in STATES:
            found[state].append(times[state] / times["bare"])
    return found


def print_ratios(rounds: int, directory: Path) -> None:
    print(f"{'step time / bare':22}" + "".join(f"{state:>24}" for state in STATES))
    for name, make in WORKLOADS.items():
        found = ratios(make(), rounds, directory)
        cells = [summarise(found[state]) for state in STATES]
        print(f"{name:22}" + "".join(f"{c.median:10.3f} [{c.interval[0]:.3f}, {c.interval[1]:.3f}]" for c in cells))


def stretch(state: str, work: Work, directory: Path, seconds: float) -> tuple[float, float]:
    """Mean seconds of a step over a stretch of time, and the share of a core that other threads than ours took."""
    with contextlib.redirect_stderr(io.StringIO()), enter(state, directory, 0) as prof:
        work()
        prof.step()
        begin, all_cpu, own_cpu, queued = time.perf_counter(), time.process_time(), time.thread_time(), queued_s()
        steps = 0
        while (now := time.perf_counter()) - begin < seconds:
            work()
            prof.step()
            steps += 1
        others = (time.process_time() - all_cpu) - (time.thread_time() - own_cpu)
        queued = queued_s() - queued
    return (now - begin - queued) / steps, others / (now - begin)


def queued_s() -> float:
    """Seconds that this thread waited for a core; 0 where the system does not count them."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) * 1e-9
    except (OSError, ValueError, IndexError):
        return 0.0


def print_telemetry(rounds: int, directory: Path, seconds: float = 2.0) -> None:
    """What sampling costs: mean steps with it as ratios to those without, and its threads' share of a core."""
    print(f"\n{'mean step / bare':22}{'waiting':>24}{'telemetry':>24}{'its share of a core':>28}")
    for name, make in WORKLOADS.items():
        work = make()
        found: dict[str, list[float]] = {"waiting": [], "telemetry": [], "share": []}
        for _ in range(rounds):
            order = ["bare", "waiting", "telemetry"]
            random.shuffle(order)
            told = {state: stretch(state, work, directory, seconds) for state in order}
            for state in ("waiting", "telemetry"):
                found[state].append(told[state][0] / told["bare"][0])
            found["share"].append(told["telemetry"][1] - told["bare"][1])
        cells = [summarise(values) for values in found.values()]
        shown = "".join(f"{c.median:10.3f} [{c.interval[0]:.3f}, {c.interval[1]:.3f}]" for c in cells[:2])
        share = cells[2]
        print(f"{name:22}{shown}{share.median:14.3%} [{share.interval[0]:.3%}, {share.interval[1]:.3%}]")


def print_step_cost(directory: Path) -> None:
    """The call itself: CPU time of step(), nothing around it."""
    print()
    for state in ("disabled", "waiting", "after"):
        with contextlib.redirect_stderr(io.StringIO()), enter(state, directory, 1) as prof:
            prof.step()
            best = min(_seconds_per_call(prof.step) for _ in range(7))
        print(f"step() {state:9} {format_time(best)}")


def _seconds_per_call(call: Callable[[], object], calls: int = 50_000) -> float:
    begin = time.thread_time()
    for _ in range(calls):
        call()
    return (time.thread_time() - begin) / calls


def print_pauses(directory: Path) -> None:
    """The pause that ends a cycle, against max_pause_s, for steps of ever more operators."""
    print(f"\n{'operators a step':>16} {'max':>6} {'steps':>8} {'shapes':>7} {'predicted':>10} {'pause':>8}  per event")
    ones = torch.ones(16)
    for operators in (1_000, 10_000, 50_000, 200_000):
        for max_pause_s in (0.2, 1.0, 5.0):
            asked = profile(directory / "pause", max_pause_s=max_pause_s, wait=2, warmup=1)
            with contextlib.redirect_stderr(io.StringIO()), asked as prof:
                for _ in range(7):
                    for _ in range(operators):
                        torch.add(ones, ones)
                    prof.step()
            assert prof.path is not None
            cycles = load(prof.path).main.cycles
            if not cycles:
                print(f"{operators:16} {max_pause_s:4} s     none: {prof.warnings[-1][:60]}…")
            for c in cycles:
                print(
                    f"{operators:16} {max_pause_s:4} s {c.steps:3} of {c.requested_steps} {c.shapes!s:>7}"
                    f" {c.predicted_pause_s or 0:8.2f} s {c.end_pause_s:6.2f} s"
                    f"  {format_time(c.end_pause_s / (c.events or 1))}"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--telemetry-only", action="store_true")
    asked = parser.parse_args()
    rounds = asked.rounds
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        print_telemetry(rounds, Path(directory))
        if asked.telemetry_only:
            return
        print_ratios(rounds, Path(directory))
        print_step_cost(Path(directory))
        print_pauses(Path(directory))


if __name__ == "__main__":
    main()
