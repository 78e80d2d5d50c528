"""The projected step on many ranks, over links that were measured where the run was recorded, else tabulated ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from probe.analyzers.projection.base import Base
from probe.analyzers.projection.devices import DeviceFacts, Target, facts_of
from probe.analyzers.projection.layout import Layout, Model, check
from probe.analyzers.projection.links import Link, Times, among_cores, path
from probe.analyzers.projection.links import Path as Way
from probe.analyzers.projection.result import TargetStep
from probe.analyzers.projection.scale import Observed, crossover, curve, scaled
from probe.errors import UsageError
from probe.machine.device import Ceilings
from probe.planning.measured import measured_link, nearest
from probe.projecting.question import Wish
from probe.results.analysis import Analysis

MEASURED = "measured"
NO_LATENCY = (
    "of the measured link only the bandwidth is kept, and no latency of it is known: give --link FILE, the JSON of"
    " `probe run microbench collectives`, to count it"
)


@dataclass(frozen=True)
class Ways:
    """What joins the ranks of a node, and the nodes."""

    near: Way
    far: Way


def on_ranks(ready: Base, found: TargetStep, wish: Wish, onto: Target | None) -> TargetStep:
    """The step under the layout. Raises UsageError for a layout that cannot be, and for links that are not known."""
    assert wish.layout is not None
    model = replace(_model(ready.analysis, wish.model), trains=_trains(ready))
    check(wish.layout, model)
    ways = ways_of(ready, wish, onto)
    seen = _observed(ready.analysis, found)
    here = scaled(seen, wish.layout, model, ways.near, ways.far)
    points = curve(seen, wish.layout, model, ways.near, ways.far)
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


def ways_of(ready: Base, wish: Wish, onto: Target | None) -> Ways:
    """What was chosen, else what was measured on that device, else what is tabulated."""
    layout = wish.layout or Layout(1, 1)
    facts = onto.facts if onto is not None else facts_of(ready.analysis.source.device or "")
    ceilings = onto.ceilings if onto is not None else ready.ceilings
    if wish.link is not None:
        near = _chosen("--link", wish.link, layout.per_node)
    else:
        near = _measured(ready, ceilings, facts, layout.per_node) or _tabulated(facts)
    far = _chosen("--network", wish.network, layout.nodes) if wish.network is not None else path(Link.NDR)
    return Ways(near, far)


def said_of_links(targets: Iterable[TargetStep]) -> list[str]:
    """Which links were measured, and which are tabulated."""
    names = dict.fromkeys(link for one in targets for c in one.communication for link in c.link.split(" + "))
    tabulated = [name for name in names if not name.startswith(MEASURED)]
    said = [f"link {name} ranks, by the collectives suite" for name in names if name.startswith(MEASURED)]
    if tabulated:
        said.append(
            f"{', '.join(tabulated)}: as tabulated, nothing was measured; of NVLink 4's 450 GB/s collectives reach 370"
            " (nccl-tests issue 212), and as large a share is taken of every link"
        )
    return said


def _measured(ready: Base, ceilings: Ceilings, facts: DeviceFacts | None, ranks: int) -> Way | None:
    """The link by the ceilings of its device; the latency is that of the tabulated link where there is one."""
    rates = {int(n): rate for n, rate in ceilings.link_bytes_per_s.items()}
    if not rates:
        return None
    among = nearest(rates, ranks)
    cores = ready.trace.device.cores if not ready.on_device else None
    return _way(rates[among], facts.link.hop_s if facts is not None else 0.0, among, cores)


def _way(busbw: float, hop_s: float, ranks: int, cores: int | None, times: Times = ()) -> Way:
    name = f"{MEASURED} among {ranks}"
    if cores:
        return among_cores(name, busbw, hop_s, ranks, cores, times)
    return Way(name, busbw, hop_s, True, None, times, ranks)


def _chosen(option: str, name: str, ranks: int) -> Way:
    """A link of the table by its name, or by a file of measurements."""
    if Path(name).is_file():
        link = measured_link(name, ranks)
        return _way(link.busbw, link.hop_s, link.ranks, link.cores, link.times)
    wanted = name.strip().lower()
    for known in Link:
        if wanted in (known.title.lower(), known.name.lower()):
            return path(known)
    raise UsageError(
        f"{option} {name}: no such link is known, and no such file; there are {', '.join(each.title for each in Link)}"
    )


def _tabulated(facts: DeviceFacts | None) -> Way:
    if facts is None:
        raise UsageError(
            "what joins the ranks of a node is not known here: measure it with `probe run microbench collectives`, or"
            " give --link, such as 'NVLink 4'"
        )
    return path(facts.link)


def _trains(ready: Base) -> bool:
    """Whether the step has a backward pass."""
    return any(name.startswith(("autograd::engine", "Optimizer.")) for name in ready.trace.names)


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
