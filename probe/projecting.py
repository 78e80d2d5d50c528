"""The verb `whatif`: read a run, ask the projection, and put prices and the model's own error beside the answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from probe import store
from probe.analysis import Analysis
from probe.analyzers.projection.base import Base, base
from probe.analyzers.projection.devices import (
    PRICES_FROM,
    DeviceFacts,
    Target,
    all_targets,
    facts_of,
    reached,
    target,
)
from probe.analyzers.projection.layout import Layout, Model, check
from probe.analyzers.projection.links import Link, path
from probe.analyzers.projection.links import Path as Way
from probe.analyzers.projection.project import Question, project
from probe.analyzers.projection.result import BaseStep, TargetStep, WhatIfResult
from probe.analyzers.projection.scale import Observed, crossover, curve, scaled
from probe.analyzers.projection.validated import MEASURED, NO_ERRORS, Errors, Kind
from probe.errors import InputError, UsageError
from probe.examine import Request, examine
from probe.price import Prices, prices
from probe.readers import formats
from probe.readers.narrow import Selection
from probe.run_flows import split
from probe.sources import Named, RunSource, files_of, find
from probe.trace import Trace

EVERY = "all"
LAUNCHES_KEPT = "host time and launches stay as they were recorded; another host is not projected"


@dataclass(frozen=True)
class Wish:
    """What is asked for, as it was typed."""

    onto: tuple[str, ...] = ()
    roof: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    dtype: str | None = None
    batch: float | None = None
    batch_size: int | None = None
    layout: Layout | None = None
    model: Model = field(default_factory=Model)
    link: str | None = None
    network: str | None = None
    price: float | None = None
    ceilings: str | None = None


def what_if(source: Named, wish: Wish) -> WhatIfResult:
    """The answer for each device that is asked for, fastest first where all are."""
    told = prices(wish.price, Path.cwd())
    targets = _targets(wish)
    analysis = examine(source, Request(ceilings=wish.ceilings)).analysis
    _refuse(analysis, wish, targets)
    ready = _base(source, analysis)
    question = _question(ready, wish)
    errors = _errors(wish, targets)
    asked: Sequence[Target | None] = targets or [None]
    found = [_target(ready, replace(question, onto=one), errors, wish, told) for one in asked]
    if EVERY in wish.onto:
        found.sort(key=lambda one: one.step_s)
    replay = ready.what_if
    recorded = BaseStep(
        analysis.source.device or "unknown device", ready.step_s, analysis.source.path, analysis.bound,
        _drift(replay.recorded_s, replay.replayed_s),
    )  # fmt: skip
    return WhatIfResult(
        recorded, tuple(found), errors.validation(), tuple(_warnings(analysis, wish, ready)), tuple(_assumptions(wish))
    )


def _drift(recorded_s: float, replayed_s: float) -> float:
    return abs(replayed_s / recorded_s - 1) if recorded_s else 0.0


def _targets(wish: Wish) -> list[Target]:
    found: list[Target] = []
    for name in wish.onto:
        if name == EVERY:
            found.extend(all_targets())
        elif Path(name).is_file():
            loaded = store.load(Path(name))
            found.append(Target(loaded.device, loaded, facts_of(loaded.device)))
        else:
            found.append(target(name))
    return found


def _refuse(analysis: Analysis, wish: Wish, targets: Sequence[Target]) -> None:
    path = analysis.source.path
    if not analysis.time_s.get("step"):
        raise InputError(f"{path}: no step was timed, so that there is nothing to project; record a training loop")
    if not any(op.shapes for op in analysis.ops) and (targets or wish.dtype or wish.batch):
        raise InputError(f"{path}: no shapes were recorded, so that no operator's work is known; record with shapes")
    on_cpu = analysis.source.device_kind == "cpu"
    if on_cpu and any(one.facts is not None for one in targets):
        raise UsageError(
            f"{path}: recorded on a CPU: how a GPU's kernels would do is not in it; record on any GPU, or give --onto a"
            " file of another CPU's measured ceilings"
        )


def _base(source: Named, analysis: Analysis) -> Base:
    ceilings = analysis.ceilings
    if ceilings is None or not ceilings.flops_per_s:
        raise InputError(
            f"{analysis.source.path}: the roofs of its device are not known; give --ceilings or its device"
        )
    facts = facts_of(analysis.source.device or "")
    return base(trace_of(source, facts), analysis, reached(ceilings, facts))


def trace_of(source: Named, facts: DeviceFacts | None) -> Trace:
    """The trace of the analysis: of a run without the step that was recorded for its tensors."""
    trace = formats.read(files_of(source)[0], Selection())
    found = find(source)
    if isinstance(found, RunSource):
        part = next((p for p in found.run.parts if p.device is not None), None)
        trace = split(trace, None).trace
        if part is not None and part.device is not None:
            trace = replace(trace, device=part.device)
    if trace.device.l2_bytes is None and facts is not None:
        trace = replace(trace, device=replace(trace.device, l2_bytes=facts.l2_bytes))
    return trace


def _question(ready: Base, wish: Wish) -> Question:
    batch = None
    if wish.batch is not None:
        if not (math.isfinite(wish.batch) and wish.batch > 0):
            raise UsageError(f"--batch {wish.batch:g}: give a factor above 0, such as 2")
        if wish.batch_size is None:
            raise UsageError("--batch: a trace does not say which size is the batch's; give --batch-size as recorded")
        batch = (wish.batch, wish.batch_size)
    return Question(
        None, wish.dtype, batch, _operators(ready, "--roof", wish.roof), _operators(ready, "--remove", wish.remove)
    )


def _operators(ready: Base, option: str, names: Sequence[str]) -> frozenset[int]:
    """Indices by `ops[].index`, or of every operator of that name."""
    ops, found = ready.analysis.ops, set[int]()
    for name in names:
        here = {op.index for op in ops if str(op.index) == name or op.name == name}
        if not here:
            raise UsageError(f"{option} {name}: no operator of that index or name; `probe analyze` lists them")
        found |= here
    return frozenset(found)


def _errors(wish: Wish, targets: Sequence[Target]) -> Errors:
    """The measured error of the hardest kind of question that is asked."""
    kinds: list[Kind] = []
    if targets:
        kinds.append("threads" if all(one.facts is None for one in targets) else "device")
    kinds += ["batch"] if wish.batch is not None else []
    kinds += ["dtype"] if wish.dtype is not None else []
    known = [MEASURED[kind] for kind in kinds if kind in MEASURED]
    return max(known, key=lambda one: one.worst or 0.0) if known else NO_ERRORS


def _target(ready: Base, question: Question, errors: Errors, wish: Wish, told: Prices) -> TargetStep:
    found = project(ready, question, errors)
    onto = question.onto
    facts = onto.facts if onto is not None else facts_of(ready.analysis.source.device or "")
    if wish.layout is not None:
        found = _many(ready, found, wish, facts)
    found = replace(found, fits=_fits(ready.analysis, facts))
    return _paid(found, facts, told)


def _fits(analysis: Analysis, facts: DeviceFacts | None) -> bool | None:
    peak = analysis.memory.peak_bytes if analysis.memory is not None else None
    return None if peak is None or facts is None else peak <= facts.memory_bytes


def _paid(found: TargetStep, facts: DeviceFacts | None, told: Prices) -> TargetStep:
    price = told(found.device)
    usd = price.usd_per_hour if price is not None else facts.usd_per_hour if facts is not None else None
    origin = price.origin if price is not None else PRICES_FROM if usd is not None else None
    return replace(
        found, usd_per_hour=usd, price_origin=origin,
        usd_per_step=None if usd is None else usd * found.ranks * found.step_s / 3600,
        j_per_step=None if facts is None else facts.power_w * found.ranks * found.step_s,
    )  # fmt: skip


def _many(ready: Base, found: TargetStep, wish: Wish, facts: DeviceFacts | None) -> TargetStep:
    assert wish.layout is not None
    model = replace(_model(ready.analysis, wish.model), trains=_trains(ready.trace))
    check(wish.layout, model)
    near = path(_link("--link", wish.link)) if wish.link else _near(facts)
    far = path(_link("--network", wish.network) if wish.network else Link.NDR)
    seen = _observed(ready.analysis, found)
    here = scaled(seen, wish.layout, model, near, far)
    points = curve(seen, wish.layout, model, near, far)
    relative = [end / found.step_s for end in found.interval_s]
    parts = {"step": here.step_s, "work": here.compute_s, "communication": here.exposed_s,
             "bubble": here.bubble_s, "stragglers": here.straggler_s}  # fmt: skip
    return replace(
        found, ranks=wish.layout.ranks, step_s=here.step_s, time_s=parts,
        interval_s=(here.step_s * relative[0], here.step_s * relative[1]),
        bound="communication" if here.exposed_s + here.bubble_s > here.step_s / 2 else found.bound,
        speedup=ready.step_s / here.step_s, communication=here.communication, curve=points,
        crossover_ranks=crossover(points),
    )  # fmt: skip


def _trains(trace: Trace) -> bool:
    """Whether the step has a backward pass."""
    return any(name.startswith(("autograd::engine", "Optimizer.")) for name in trace.names)


def _near(facts: DeviceFacts | None) -> Way:
    if facts is None:
        raise UsageError("what joins the ranks of a node is not known here; give --link, such as 'NVLink 4'")
    return path(facts.link)


def _link(option: str, name: str) -> Link:
    wanted = name.strip().lower()
    for link in Link:
        if wanted in (link.title.lower(), link.name.lower()):
            return link
    raise UsageError(f"{option} {name}: no such link is known; there are {', '.join(link.title for link in Link)}")


def _model(analysis: Analysis, given: Model) -> Model:
    """The model as given, its parameters from the recorded memory where they were not."""
    if given.parameters is not None or analysis.memory is None:
        return given
    gradients = analysis.memory.by_category.get("gradients") or analysis.memory.by_category.get("parameters")
    return replace(given, parameters=gradients / given.gradient_bytes) if gradients else given


def _observed(analysis: Analysis, found: TargetStep) -> Observed:
    parts = found.time_s
    divided = parts["compute"] + parts["memory"]
    shown = [r for r in analysis.ranks if r.communication_s]
    overlap = None
    if shown:
        total = sum(r.communication_s or 0.0 for r in shown)
        overlap = 1 - min(sum(r.exposed_communication_s or 0.0 for r in shown) / total, 1.0)
    steps = analysis.steps
    spread = max((steps.p95_s or 0.0) - (steps.p50_s or 0.0), 0.0) / 1.645 if steps.n >= 20 else 0.0
    return Observed(divided, found.step_s - divided - parts["communication"], overlap, spread)


def _warnings(analysis: Analysis, wish: Wish, ready: Base) -> list[str]:
    said = [w for w in analysis.warnings if w.startswith(("no step marks", "it is not known"))]
    if analysis.ceilings is not None and analysis.ceilings.origin == "assumed":
        said.append("the roofs of the recorded device are assumed, not measured: so is its distance from them")
    if analysis.source.device_kind not in ("cpu",) and wish.batch is not None:
        said.append("another batch was validated on a CPU only")
    if wish.onto and wish.layout is None and (analysis.time_s.get("communication") or 0.0) > 0:
        said.append("communication between ranks stays as it was recorded; --ranks projects it")
    known = analysis.quality.known_cost_fraction
    if known is not None and known < 0.9:
        said.append(f"the work of {1 - known:.0%} of the time is not known: the interval says what that leaves open")
    return said


def _assumptions(wish: Wish) -> list[str]:
    said = [LAUNCHES_KEPT] if wish.onto else []
    if wish.dtype:
        said.append(f"every floating tensor is {wish.dtype}, as after model.to()")
    if wish.onto:
        said.append("energy is the maker's power limit over the whole step: an upper bound")
    if wish.layout is not None:
        said.append("every data-parallel rank works on as much as the recorded one: weak scaling")
        said.append("links as tabulated: what collectives reach is 370 of NVLink 4's 450 GB/s (nccl-tests issue 212)")
        said.append("no number of ranks was validated over NCCL: see docs/validation.md for what was, over Gloo")
    return said
