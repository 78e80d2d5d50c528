"""The verb `whatif`: read a run, ask the projection, and put prices and the model's own error beside the answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from probe import store
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
from probe.analyzers.projection.layout import Layout, Model
from probe.analyzers.projection.project import project
from probe.analyzers.projection.question import Question
from probe.analyzers.projection.result import BaseStep, TargetStep, WhatIfResult
from probe.analyzers.projection.validated import MEASURED, NO_ERRORS, Errors, Kind
from probe.errors import InputError, UsageError
from probe.examine.examine import Request, examine
from probe.examine.flows import split
from probe.examine.sources import Named, RunSource, files_of, find
from probe.price import Prices, prices
from probe.projecting.question import Wish, operators, question_of
from probe.projecting.ranks import NO_LATENCY, on_ranks, said_of_links, ways_of
from probe.readers import formats
from probe.readers.narrow import Selection
from probe.results.analysis import Analysis
from probe.schema import to_jsonable
from probe.trace import Trace

EVERY = "all"
LAUNCHES_KEPT = "host time and launches stay as they were recorded; another host is not projected"


class WhatIf(WhatIfResult):
    """The answer, for scripts and notebooks."""

    def to_pandas(self) -> Any:
        """One row per device."""
        import pandas as pd

        rows = [to_jsonable(one) for one in self.targets]
        return pd.DataFrame([{k: v for k, v in row.items() if not isinstance(v, list | dict)} for row in rows])

    def __str__(self) -> str:
        from probe.report.whatif import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def whatif(
    source: Named, *, onto: str | Sequence[str] = (), roof: Sequence[str | int] = (),
    remove: Sequence[str | int] = (), replace: Mapping[str | int, str] | None = None,
    fuse: Sequence[Sequence[str | int]] = (), graph: bool = False, dtype: str | None = None,
    batch: float | None = None, batch_size: int | None = None, layout: Layout | None = None,
    model: Model | None = None, link: str | None = None, network: str | None = None, price: float | None = None,
    ceilings: str | None = None,
) -> WhatIf:  # fmt: skip
    """What the recorded step would take elsewhere, with other work or other launches, as `probe whatif` tells it.

    Operators go by name or by their index in the analysis. replace: `{"aten::softmax": "2x", 7: "120us"}`. fuse: chains
    of operators. layout, model: of many ranks (probe.analyzers.projection.layout).
    """
    return what_if(source, Wish(
        onto=(onto,) if isinstance(onto, str) else tuple(onto), roof=tuple(map(str, roof)),
        remove=tuple(map(str, remove)), dtype=dtype, batch=batch, batch_size=batch_size, layout=layout,
        model=model or Model(), link=link, network=network, price=price, ceilings=ceilings,
        replace=tuple(f"{op}={told}" for op, told in (replace or {}).items()),
        fuse=tuple(",".join(map(str, chain)) for chain in fuse), graph=graph,
    ))  # fmt: skip


def what_if(source: Named, wish: Wish) -> WhatIf:
    """The answer for each device that is asked for, fastest first where all are."""
    told = prices(wish.price, Path.cwd())
    targets = _targets(wish)
    analysis = examine(source, Request(ceilings=wish.ceilings)).analysis
    _refuse(analysis, wish, targets)
    ready = _base(source, analysis)
    question = question_of(analysis, wish, on_device=ready.on_device)
    errors = _errors(wish, targets)
    asked: Sequence[Target | None] = targets or [None]
    found = [_target(ready, dataclasses.replace(question, onto=one), errors, wish, told) for one in asked]
    if EVERY in wish.onto:
        found.sort(key=lambda one: one.step_s)
    replay = ready.what_if
    recorded = BaseStep(
        analysis.source.device or "unknown device", ready.step_s, analysis.source.path, analysis.bound,
        _drift(replay.recorded_s, replay.replayed_s),
    )  # fmt: skip
    return WhatIf(
        recorded, tuple(found), errors.validation(), tuple(_warnings(ready, wish, targets)),
        (*_assumptions(wish), *said_of_links(found)),
    )  # fmt: skip


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
    if not any(op.shapes for op in analysis.ops) and wish.needs_shapes:
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
            trace = dataclasses.replace(trace, device=part.device)
    if trace.device.l2_bytes is None and facts is not None:
        trace = dataclasses.replace(trace, device=dataclasses.replace(trace.device, l2_bytes=facts.l2_bytes))
    return trace


def _errors(wish: Wish, targets: Sequence[Target]) -> Errors:
    """The measured error of the hardest kind of question that is asked."""
    kinds: list[Kind] = []
    if targets:
        kinds.append("threads" if all(one.facts is None for one in targets) else "device")
    kinds += ["batch"] if wish.batch is not None else []
    kinds += ["dtype"] if wish.dtype is not None else []
    kinds += ["fuse"] if wish.fuse else []
    kinds += ["replace"] if wish.replace else []
    known = [MEASURED[kind] for kind in kinds if kind in MEASURED]
    return max(known, key=lambda one: one.worst or 0.0) if known else NO_ERRORS


def _target(ready: Base, question: Question, errors: Errors, wish: Wish, told: Prices) -> TargetStep:
    found = project(ready, question, errors)
    onto = question.onto
    facts = onto.facts if onto is not None else facts_of(ready.analysis.source.device or "")
    if wish.layout is not None:
        found = on_ranks(ready, found, wish, onto)
    found = dataclasses.replace(found, fits=_fits(ready.analysis, wish, facts))
    return _paid(found, facts, told)


def _fits(analysis: Analysis, wish: Wish, facts: DeviceFacts | None) -> bool | None:
    """Whether the recorded peak fits; not known of other work, whose peak is another."""
    if wish.batch is not None or wish.dtype is not None or wish.layout is not None:
        return None
    peak = analysis.memory.peak_bytes if analysis.memory is not None else None
    return None if peak is None or facts is None else peak <= facts.memory_bytes


def _paid(found: TargetStep, facts: DeviceFacts | None, told: Prices) -> TargetStep:
    price = told(found.device)
    usd = price.usd_per_hour if price is not None else facts.usd_per_hour if facts is not None else None
    origin = price.origin if price is not None else PRICES_FROM if usd is not None else None
    return dataclasses.replace(
        found, usd_per_hour=usd, price_origin=origin,
        usd_per_step=None if usd is None else usd * found.ranks * found.step_s / 3600,
        j_per_step=None if facts is None else facts.power_w * found.ranks * found.step_s,
    )  # fmt: skip


def _warnings(ready: Base, wish: Wish, targets: Sequence[Target]) -> list[str]:
    analysis = ready.analysis
    said = [w for w in analysis.warnings if w.startswith(("no step marks", "it is not known"))]
    if analysis.ceilings is not None and analysis.ceilings.origin == "assumed":
        said.append("the roofs of the recorded device are assumed, not measured: so is its distance from them")
    if analysis.source.device_kind not in ("cpu",) and wish.batch is not None:
        said.append("another batch was validated on a CPU only")
    if analysis.source.device_kind not in ("cpu",) and (wish.fuse or wish.replace):
        said.append("fused chains and replaced operators were validated on a CPU only")
    if wish.graph:
        said.append("no graph was held against a measurement: its interval is what is open")
    if wish.onto and wish.layout is None and (analysis.time_s.get("communication") or 0.0) > 0:
        said.append("communication between ranks stays as it was recorded; --ranks projects it")
    said += [f"operator {i} ({name}) stays as it is: its roof is not known" for i, name in _roofless(ready, wish)]
    if wish.layout is not None and _without_latency(ready, wish, targets):
        said.append(NO_LATENCY)
    known = analysis.quality.known_cost_fraction
    if known is not None and known < 0.9:
        said.append(f"the work of {1 - known:.0%} of the time is not known: the interval says what that leaves open")
    return said


def _roofless(ready: Base, wish: Wish) -> list[tuple[int, str]]:
    """Operators that are asked for at a roof that they do not have."""
    asked = frozenset().union(*(operators(ready.analysis, "--roof", name) for name in wish.roof))
    groups = {index: group for group, index in enumerate(ready.index) if index in asked}
    return [(i, ready.groups.name[g]) for i, g in sorted(groups.items()) if not ready.placements[g].roof_s]


def _without_latency(ready: Base, wish: Wish, targets: Sequence[Target]) -> bool:
    assert wish.layout is not None
    asked: Sequence[Target | None] = targets or [None]
    return any(way.measured and not way.hop_s for one in asked for way in (ways_of(ready, wish, one).near,))


def _assumptions(wish: Wish) -> list[str]:
    said = [LAUNCHES_KEPT] if wish.onto and not wish.graph else []
    if wish.dtype:
        said.append(f"every floating tensor is {wish.dtype}, as after model.to()")
    if wish.onto:
        said.append("energy is the maker's power limit over the whole step: an upper bound")
    if wish.fuse:
        said.append(
            "fused: what an operator hands to the next is neither written nor read; the interval holds that only the"
            " read falls away, as where the backward pass needs it"
        )
    if wish.graph:
        said.append(
            "as graphs: the host does nothing that the step needs between its launches; 0.58 µs from kernel to kernel"
            " (ocannl issue 488), 2.5 µs a graph (NVIDIA, CUDA 12.6)"
        )
    if wish.layout is not None:
        said.append("every data-parallel rank works on as much as the recorded one: weak scaling")
        said.append("no number of ranks was validated over NCCL: see docs/validation.md for what was, over Gloo")
    return said
