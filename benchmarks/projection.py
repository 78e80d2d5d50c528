"""How far off are projections? Replay, threads, batches, element types, memory plans and collectives, measured here.

Usage: python benchmarks/projection.py replay TRACE…      errors of the replay, one row a trace
       python benchmarks/projection.py devices TRACE TRACE   one model on two devices, each projected to the other
       python benchmarks/projection.py pairs [--threads]  projected against measured steps on this CPU
       python benchmarks/projection.py changes            fused and replaced operators against measured steps
       python benchmarks/projection.py memory             planned against measured peaks of planned_steps.py
       python benchmarks/projection.py collectives        times of 2 ranks against those of 3 and 4 (Gloo)
       python benchmarks/projection.py docs               docs/validation.md from what lies in results/, and the
                                                          errors that reports tell (analyzers/projection/validated.py)

Results are kept under benchmarks/results/projection.*.json. A busy machine is met by short bursts in turn: of each
configuration the fastest burst counts, the same for what is projected from and for what is projected to.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from probe.errors import UsageError

RESULTS = Path(__file__).resolve().parent / "results"
DOCS = Path(__file__).resolve().parent.parent / "docs" / "validation.md"
TOLD = DOCS.parent.parent / "analyzers" / "projection" / "validated.py"
BURST = 4  # steps
MODELS = ("mlp", "transformer", "cnn", "norms")
BATCH = {"mlp": 64, "transformer": 4, "cnn": 4, "norms": 32}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", choices=("replay", "devices", "pairs", "changes", "memory", "collectives", "docs", "worker")
    )
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", action="store_true", help="pairs: also one thread against two")
    arguments = parser.parse_args()
    if arguments.what == "worker":
        worker(*arguments.rest)
        return
    actions: dict[str, Callable[[], Any]] = {
        "replay": lambda: replay(arguments.rest),
        "pairs": lambda: pairs(arguments.rounds, arguments.threads),
        "devices": lambda: devices(arguments.rest),
        "changes": lambda: changes(arguments.rounds),
        "memory": memory,
        "collectives": collectives,
    }
    if arguments.what == "docs":
        from projection_docs import text, with_errors

        DOCS.write_text(text(RESULTS))
        TOLD.write_text(with_errors(TOLD.read_text(), RESULTS))
        return
    found = actions[arguments.what]()
    (RESULTS / f"projection.{arguments.what}.json").write_text(json.dumps(found, indent=1) + "\n")


def replay(paths: list[str]) -> list[dict[str, Any]]:
    """Errors of each trace; those whose replay says nothing, with the reason."""
    from dataclasses import asdict

    from probe.analyzers.critical_path.accuracy import replay_accuracy, why_not
    from probe.readers import formats
    from probe.readers.narrow import Selection

    rows = []
    for path in paths:
        trace = formats.read(path, Selection())
        reason = why_not(trace)
        name = (
            "/".join(Path(path).parts[-2:])
            if Path(path).name.startswith(("rank", "trace", "sampled"))
            else Path(path).name
        )
        rows.append({"trace": name.replace(".json.gz", ""), "left_out": reason, **asdict(replay_accuracy(trace))})
        print(rows[-1])
    return rows


def devices(paths: list[str]) -> list[dict[str, Any]]:
    """Each of two recordings of the same work projected to the device of the other."""
    from probe.analyzers.projection.base import base
    from probe.analyzers.projection.devices import facts_of, of_sheet, reached
    from probe.analyzers.projection.project import Question, project
    from probe.analyzers.projection.validated import NO_ERRORS
    from probe.api import analyze
    from probe.machine import datasheets
    from probe.projecting.whatif import trace_of

    rows = []
    analyses = {path: analyze(path) for path in paths}
    for here, there in (paths, paths[::-1]):
        old, new = analyses[here], analyses[there]
        sheet, facts = datasheets.find(new.source.device or ""), facts_of(old.source.device or "")
        assert sheet is not None and old.ceilings is not None
        ready = base(trace_of(here, facts), old, reached(old.ceilings, facts))
        found = project(ready, Question(of_sheet(sheet)), NO_ERRORS)
        measured_s = new.time_s["step"] or 0.0
        rows.append({
            "from": old.source.device, "to": new.source.device, "base_s": ready.step_s, "projected_s": found.step_s,
            "interval_s": found.interval_s, "measured_s": measured_s, "error": found.step_s / measured_s - 1,
        })  # fmt: skip
        print(rows[-1])
    return rows


# --- projected against measured steps -------------------------------------------------------------------------------


def build(name: str, batch: int, dtype: str) -> Callable[[], None]:
    """One training step of a small model."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    if name == "mlp":
        model: nn.Module = nn.Sequential(*(m for _ in range(4) for m in (nn.Linear(768, 768), nn.GELU())))
        inputs = torch.randn(batch, 768)
    elif name == "transformer":
        model = nn.Sequential(*(nn.TransformerEncoderLayer(192, 4, 768, 0.0, batch_first=True) for _ in range(2)))
        inputs = torch.randn(batch, 80, 192)  # rows of no batch here are as many as features
    elif name == "cnn":
        layers = [m for i in range(4) for m in (nn.Conv2d(3 if not i else 48, 48, 3, padding=1), nn.ReLU())]
        model, inputs = nn.Sequential(*layers), torch.randn(batch, 3, 40, 40)
    else:
        model = nn.Sequential(*(m for _ in range(6) for m in (nn.LayerNorm(256), nn.Tanh(), nn.Linear(256, 256))))
        inputs = torch.randn(batch, 64, 256)
    model, inputs = model.to(kind), inputs.to(kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> None:
        loss = model(inputs).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def worker(name: str, batch: str, dtype: str, threads: str, folder: str) -> None:
    """Answers each line on standard input: `burst` with the median step, `record` with a run, `roofs` with ceilings."""
    import torch

    torch.set_num_threads(int(threads))
    step = build(name, int(batch), dtype) if name != "roofs" else None
    for line in sys.stdin:
        if line.strip() == "burst" and step is not None:
            answer: Any = burst(step)
        elif line.strip() == "record" and step is not None:
            answer = record(step, folder)
        else:
            answer = roofs()
        print(json.dumps(answer), flush=True)


def clock() -> Callable[[], float]:
    """With one thread processor time, which others' work does not lengthen, else the time of day."""
    import torch

    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def burst(step: Callable[[], None]) -> float:
    """The fastest step."""
    now, times = clock(), []
    for _ in range(BURST):
        begun = now()
        step()
        times.append(now() - begun)
    return min(times)


def record(step: Callable[[], None], folder: str) -> str:
    import probe

    with probe.profile(folder, wait=4, warmup=2, active=10, telemetry=False) as prof:
        prof.quiet = True
        for _ in range(18):
            step()
            prof.step()
    return str(prof.path)


def roofs() -> dict[str, float]:
    """Rates of this many threads: products by type, and a copy in each cache and beyond."""
    import torch

    found: dict[str, float] = {}
    for dtype in ("float32", "float64"):
        a = torch.randn(768, 768, dtype=getattr(torch, dtype))
        found[dtype] = 2 * 768**3 / fastest(lambda a=a: a @ a, 4)
    found["launch"] = seconds_of_copy(4)
    for level, size in (("L2", 256 << 10), ("L3", 4 << 20), ("DRAM", 96 << 20)):
        found[level] = size / (seconds_of_copy(size) - found["launch"])
    return found


def seconds_of_copy(size: int) -> float:
    """A copy that reads and writes `size` bytes together, of as many in a row as take longer than reading the clock."""
    import torch

    source, target = torch.ones(max(size // 8, 1)), torch.empty(max(size // 8, 1))
    calls = max((1 << 20) // size, 1) if size >= 1 << 10 else 100

    def repeated() -> None:
        for _ in range(calls):
            target.copy_(source)

    return fastest(repeated, 8) / calls


def fastest(function: Callable[[], Any], count: int) -> float:
    now, best = clock(), float("inf")
    for _ in range(count):
        begun = now()
        function()
        best = min(best, now() - begun)
    return best


class Child:
    """A configuration in a process of its own."""

    def __init__(self, name: str, batch: int, dtype: str, threads: int, folder: str) -> None:
        self.key = (name, batch, dtype, threads)
        command = [sys.executable, __file__, "worker", name, str(batch), dtype, str(threads), folder]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip

    def ask(self, what: str) -> Any:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def pairs(rounds: int, threads: bool) -> list[dict[str, Any]]:
    """Every pair of configurations that differ in one thing, projected and measured.

    threads: also one thread against two, which takes a machine on which nothing else runs.
    """
    rates = roofs_of_threads(rounds)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            for row in pairs_of(name, rounds, rates, folder, threads):
                print(row, flush=True)
                rows.append(row)
    return rows


def roofs_of_threads(rounds: int) -> dict[int, dict[str, float]]:
    children = {threads: Child("roofs", 0, "float32", threads, "") for threads in (1, 2)}
    found: dict[int, dict[str, float]] = {1: {}, 2: {}}
    for _ in range(rounds):
        for threads, child in children.items():
            for key, rate in child.ask("roofs").items():
                better = min if key == "launch" else max
                found[threads][key] = better(found[threads].get(key, rate), rate)
    for child in children.values():
        child.close()
    return found


def pairs_of(
    name: str, rounds: int, rates: dict[int, dict[str, float]], folder: str, threads: bool
) -> Iterator[dict[str, Any]]:
    batch = BATCH[name]
    keys = [(batch, "float32", 1), (2 * batch, "float32", 1), (4 * batch, "float32", 1), (batch, "float64", 1)]
    keys += [(batch, "float32", 2)] if threads else []
    children = [Child(name, b, d, t, f"{folder}/{name}-{b}-{d}-{t}") for b, d, t in keys]
    bursts: dict[Any, list[float]] = {child.key[1:]: [] for child in children}
    for _ in range(rounds):
        for child in children:
            bursts[child.key[1:]].append(child.ask("burst"))
    times = {key: min(each) for key, each in bursts.items()}
    runs = {child.key[1:]: child.ask("record") for child in children}
    for child in children:
        child.close()
    one, double, four, wide = keys[:4]
    asked = [("batch", one, double), ("batch", one, four), ("batch", double, one), ("batch", four, one),
             ("batch", double, four), ("batch", four, double), ("dtype", one, wide), ("dtype", wide, one)]  # fmt: skip
    if threads:
        asked += [("threads", one, keys[4]), ("threads", keys[4], one)]
    for kind, old, new in asked:
        try:
            step_s, measured_s = projected(runs[old], kind, old, new, rates, times[old]), times[new]
        except UsageError as refused:
            print(f"{name}, {old} to {new}: {refused}")
            continue
        yield {
            "model": name, "kind": kind, "from": list(old), "to": list(new), "base_s": times[old],
            "projected_s": step_s, "measured_s": measured_s, "error": step_s / measured_s - 1,
            "unchanged_error": times[old] / measured_s - 1, "repeat_error": repeat_error(bursts[new]),
            "roofs": "as the steps: processor time of one thread",
        }  # fmt: skip


def repeat_error(bursts: list[float]) -> float:
    """By how much a step differs from itself: the fastest of every other burst over that of the rest, less one."""
    return min(bursts[::2]) / min(bursts[1::2]) - 1


def projected(run: str, kind: str, old: Any, new: Any, rates: dict[int, dict[str, float]], step_s: float) -> float:
    """Seconds of the step as projected from one that takes `step_s`."""
    from probe.analyzers.projection.devices import Target
    from probe.analyzers.projection.project import Question

    question = Question()
    if kind == "threads":
        question = replace(question, onto=Target("this CPU", ceilings(rates[new[2]])))
    elif kind == "batch":
        question = replace(question, batch=(new[0] / old[0], old[0]))
    else:
        question = replace(question, dtype=new[1])
    return answered(run, lambda _: question, rates[old[2]], step_s).step_s


def answered(run: str, asked: Callable[[Any], Any], rates: dict[str, float], step_s: float) -> Any:
    """The projection of a run's step that takes `step_s`; asked: the question, given the run's analysis."""
    from probe.analyzers.projection.base import base
    from probe.analyzers.projection.project import project
    from probe.analyzers.projection.validated import NO_ERRORS
    from probe.api import analyze
    from probe.projecting.whatif import trace_of
    from probe.readers.narrow import Selection, narrow

    trace, analysis = trace_of(run, None), analyze(run)
    row = int(trace.steps.duration_ns.argmin())  # the least disturbed of the recorded steps
    number = int(trace.steps.number[row])
    trace = narrow(trace, Selection(steps=(number, number)))
    analysis = replace(analysis, time_s={**analysis.time_s, "step": step_s})
    return project(base(trace, analysis, ceilings(rates)), asked(analysis), NO_ERRORS)


def ceilings(rates: dict[str, float]) -> Any:
    from probe.machine.device import Ceilings, Level

    sizes = {"L2": 512 << 10, "L3": 32 << 20}
    return Ceilings(
        origin="measured", device="this CPU", dram_bytes_per_s=rates["DRAM"],
        flops_per_s={d: rates[d] for d in ("float32", "float64")}, launch_s=rates["launch"],
        levels={name: Level(size, None, rates[name]) for name, size in sizes.items()},
    )  # fmt: skip


def changes(rounds: int) -> list[dict[str, Any]]:
    """Steps with a fused or replaced operator, projected and measured."""
    from projection_changes import measure

    return measure(max(rounds // 2, 2))


# --- memory plans -----------------------------------------------------------------------------------------------------


def memory() -> list[dict[str, Any]]:
    """Planned and measured peak of each step, each in a process of its own."""
    import planned_steps

    rows = []
    for function in planned_steps.STEPS:
        command = [sys.executable, str(Path(planned_steps.__file__)), function.__name__]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        rows.append(found | {"error": found["planned_bytes"] / found["measured_bytes"] - 1})
        print(rows[-1], flush=True)
    return rows


def collectives() -> list[dict[str, Any]]:
    """All-reduce by Gloo: alpha and beta of the ring fitted at 2 ranks, held against 3 and 4."""
    from projection_collectives import measure

    return measure()


if __name__ == "__main__":
    main()
