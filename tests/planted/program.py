"""What is a planted program, how is it recorded, and what must probe say of it?

A program is a function that prepares everything and returns the step: a function without arguments. `planted("F12")`
says which rule must be the first or the second finding; `clean` that no finding may promise more than 5 % of the step.
Sizes are chosen so that the planted thing is most of the step on any machine: tens of milliseconds at the most.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch

import probe

Step = Callable[[], object]


@dataclass(frozen=True)
class Fed:
    """A loop that takes its batches through `prof.batches`, in place of a step without arguments."""

    batches: Iterable[Any]
    step: Callable[[Any], object]


Make = Callable[[], Step | Fed]
FALSE_FRACTION = 0.05  # of the step: what a finding on a clean program may promise at most
FIRST = 2  # findings among which the planted one must be


@dataclass(frozen=True)
class Program:
    """One program. code: the planted rule; None for a clean one. options: of probe.profile."""

    name: str
    make: Make
    code: str | None
    also: tuple[str, ...] = ()  # other rules that are right to speak, before the planted one too
    options: dict[str, Any] = field(default_factory=dict)


PROGRAMS: list[Program] = []


def planted(code: str, *, also: tuple[str, ...] = (), **options: Any) -> Callable[[Make], Make]:
    """Register a program in which `code` must be found."""

    def register(make: Make) -> Make:
        PROGRAMS.append(Program(make.__name__, make, code, also, options))
        return make

    return register


def clean(make: Make) -> Make:
    """Register a program that is as it should be."""
    PROGRAMS.append(Program(make.__name__, make, None))
    return make


def record(program: Program, folder: Path, *, threads: int | None = 1, steps: int = 7) -> probe.Analysis:
    """The analysis of some steps of a program; `threads` None leaves torch's own number."""
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        step = program.make()
        options = {"wait": 2, "warmup": 1, "active": 3, "telemetry": False, **program.options}
        with probe.profile(folder / "run", **options) as prof:
            prof.quiet = True
            loop = step if isinstance(step, Fed) else Fed(range(steps), lambda _, step=step: step())
            batches = prof.batches(loop.batches) if loop is step else loop.batches
            for batch in islice(batches, steps):
                loop.step(batch)
                prof.step()
    finally:
        torch.set_num_threads(before)
    return probe.analyze(folder / "run")


def verdict(program: Program, analysis: probe.Analysis) -> str | None:
    """What is wrong with the findings; None where nothing is."""
    told = [f"{f.code} {f.saving_fraction or 0:.0%}" for f in analysis.findings]
    if program.code is None:
        loud = [f.code for f in analysis.findings if (f.saving_fraction or 0.0) > FALSE_FRACTION]
        return f"{program.name} is clean, and {', '.join(loud)} speak: {told}" if loud else None
    others = [f for f in analysis.findings if f.code == program.code or f.code not in program.also]
    if program.code in {f.code for f in others[:FIRST]}:
        return None
    return f"{program.name}: {program.code} is not among the first {FIRST}: {told or 'no finding at all'}"


def judged(threads: int | None = None) -> Iterator[tuple[Program, str | None]]:
    """Every program with what is wrong; for a table of all of them."""
    for program in PROGRAMS:
        with tempfile.TemporaryDirectory() as folder:
            yield program, verdict(program, record(program, Path(folder), threads=threads))
