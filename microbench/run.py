"""Runs the suites and hands back one result: what this machine can do, what could not be measured, and why."""

from __future__ import annotations

import dataclasses
import difflib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from probe.errors import UnavailableError, UsageError
from probe.machine import environment
from probe.machine.device import Device
from probe.microbench import ceilings, consistency, plateaus
from probe.microbench.collectives.operations import OPERATIONS
from probe.microbench.harness import Clock
from probe.microbench.precisions import CPU_PRECISIONS, CUDA_PRECISIONS
from probe.microbench.published import references
from probe.microbench.suite import Answer, Context, Suite
from probe.microbench.suites import SUITES, reason_against
from probe.results.measurement import Measurement, MicrobenchResult, Unsupported

__all__ = ["SUITES", "Options", "Progress", "measure"]


@dataclass(frozen=True)
class Options:
    """What to measure: all suites if none are named; `device` is auto, cpu, cuda or cuda:N."""

    suites: tuple[str, ...] = ()
    device: str = "auto"
    quick: bool = False
    path: Path | None = None  # directory whose storage is measured; None for the current one


class Progress(Protocol):
    """Who shows how far the run is; called often."""

    def __call__(self, suite: str, fraction: float) -> None:
        """`suite` is running and `fraction` (0 to 1) of the whole run is done."""


def _silent(suite: str, fraction: float) -> None:
    """Nobody watches."""


def measure(options: Options, progress: Progress | None = None, clock: Clock = time.perf_counter) -> MicrobenchResult:
    """Run the suites of `options` and derive the ceilings; an interrupt keeps what is done and says so.

    Raises UsageError for an unknown suite or device name, UnavailableError for a device that is not there.
    """
    suites = chosen(options.suites)
    device, index = find_device(options.device)
    unsupported = [
        Unsupported(suite.name, reason)
        for suite in suites
        if (reason := reason_against(suite, device.kind)) is not None
    ]
    runnable = [
        (suite.name, answer, _context(answer, device, index, options, clock))
        for suite in suites
        if (answer := suite.answers.get(device.kind)) is not None
    ]
    done = _run_all(runnable, progress or _silent)
    result = _result(device, index, options, done.found, unsupported + done.refused, done.warnings)
    return dataclasses.replace(result, interrupted=done.interrupted)


def chosen(names: Sequence[str]) -> list[Suite]:
    """The suites called `names`, in the registry's order; all of them if there are none."""
    for name in names:
        if name not in SUITES:
            near = difflib.get_close_matches(name, SUITES, n=1, cutoff=0.0)
            raise UsageError(f"there is no suite {name!r}; did you mean {near[0]}? --list shows all")
    return [suite for suite in SUITES.values() if not names or suite.name in names]


def find_device(name: str) -> tuple[Device, int | None]:
    """The device called auto, cpu, cuda or cuda:N, and its CUDA number; auto is cuda:0 where torch can use it."""
    if name == "cpu":
        return environment.cpu_device(), None
    if name == "auto":
        try:
            return environment.cuda_device(0), 0
        except UnavailableError:
            return environment.cpu_device(), None
    kind, _, number = name.partition(":")
    if kind != "cuda" or not (number or "0").isdecimal():
        raise UsageError(f"{name!r} is not a device; write auto, cpu, cuda or cuda:N")
    index = int(number or "0")
    return environment.cuda_device(index), index


def _context(answer: Answer, device: Device, index: int | None, options: Options, clock: Clock) -> Context:
    budget_s = answer.quick_s if options.quick else answer.full_s
    return Context(device, budget_s, quick=options.quick, index=index, path=options.path, clock=clock)


@dataclass
class _Done:
    """What the suites left: measurements, refused suites, warnings."""

    found: list[Measurement] = field(default_factory=list)
    refused: list[Unsupported] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    interrupted: bool = False


def _run_all(runnable: list[tuple[str, Answer, Context]], progress: Progress) -> _Done:
    """Run the suites; ends early, with what is done, on an interrupt."""
    done = _Done()
    total_s = sum(context.budget_s for _, _, context in runnable)
    done_s = 0.0
    for name, answer, context in runnable:
        context.report = _reporter(progress, name, done_s / total_s, context.budget_s / total_s)
        try:
            _run_one(answer, context, done.found)
        except UnavailableError as reason:
            done.refused.append(Unsupported(name, str(reason)))
        except MemoryError:
            done.refused.append(
                Unsupported(name, "out of memory: other processes hold it, or a limit (ulimit -v) is set")
            )
        except KeyboardInterrupt:
            done.interrupted = True
            context.warnings.append(f"interrupted in {name}: what was done until then is kept, the rest is missing")
            break
        done_s += context.budget_s
    done.warnings = [warning for _, _, context in runnable for warning in context.warnings]
    return done


def _reporter(progress: Progress, name: str, before: float, own: float) -> Callable[[float], None]:
    """What a suite reports its own fraction to, where it is `own` of the whole and `before` of it is done."""
    return lambda fraction: progress(name, before + fraction * own)


def _run_one(answer: Answer, context: Context, found: list[Measurement]) -> None:
    """Append each measurement as it comes, so that an interrupt loses at most one."""
    mine: list[Measurement] = []
    try:
        for measurement in answer.run(context):
            mine.append(measurement)
    finally:
        found += sorted(mine, key=_order)


def _order(measurement: Measurement) -> tuple[int, int]:
    """By threads, then size; products by dtype in the order they were asked for; the rest keeps its place."""
    params = measurement.params
    if measurement.suite == "matmul":
        names = (*CPU_PRECISIONS, *CUDA_PRECISIONS)
        return (names.index(params["dtype"]) if params["dtype"] in names else len(names), 0)
    if measurement.suite == "collectives":
        return (OPERATIONS.index(params["operation"]), params.get("size_bytes", 1 << 62))
    if measurement.suite not in ("cache_latency", "memory_bandwidth", "saxpy", "vector_loads", "copies"):
        return (0, 0)
    by_threads = measurement.suite not in ("saxpy", "copies") and "blocks" not in params
    threads = params.get("threads") or 0 if by_threads else 0
    return (threads, params.get("size_bytes") or 0)


def _result(
    device: Device,
    index: int | None,
    options: Options,
    found: list[Measurement],
    unsupported: list[Unsupported],
    warnings: list[str],
) -> MicrobenchResult:
    core = references.this_family() if device.kind == "cpu" else None
    labelled = ceilings.label(found, ceilings.levels_of(found, device), device)
    checked = consistency.check(labelled, device, core, core_clock_hz(found))
    sound = consistency.plausible(checked.measurements)
    levels, clock_hz = ceilings.levels_of(sound, device), core_clock_hz(sound)
    if device.kind == "cpu" and clock_hz:
        device = dataclasses.replace(device, clock_hz=clock_hz)
    described = environment.describe(device, cuda_index=index or 0)
    throttled_by = described.get("clocks_event_reasons") or ()
    return MicrobenchResult(
        device=device,
        environment=described,
        measurements=references.annotate(checked.measurements, device, core, clock_hz, throttled_by),
        ceilings=ceilings.derive(sound, levels, device, quick=options.quick),
        unsupported=tuple(unsupported),
        warnings=(*warnings, *plateaus.disagreements(levels, device.caches), *checked.warnings),
    )


def core_clock_hz(measurements: Sequence[Measurement]) -> float | None:
    """The highest clock seen by the chain of dependent additions; None where it was not run."""
    seen = [float(m.params["clock_hz"]) for m in measurements if "clock_hz" in m.params]
    return max(seen, default=None)
