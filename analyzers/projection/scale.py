"""What does a step take on many ranks? The recorded one divided, with its communication, its bubble and its spread."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from probe.analyzers.projection.layout import Layout, Model
from probe.analyzers.projection.links import Collective, Path, spread_seconds
from probe.analyzers.projection.result import Communication, Point

BACKWARD = 2 / 3  # of a training step's computation, during which gradients can be reduced
BUCKET_BYTES = 25 << 20  # DDP's: the last one is reduced when nothing is left to hide it
TAKES_OVER = 0.5  # of the step


@dataclass(frozen=True)
class Observed:
    """One rank's step as recorded or projected: seconds that ranks divide, and seconds that each keeps.

    divided_s: computation and memory traffic. kept_s: host, launches, latency. overlap: the share of communication
    that was hidden, where the run communicated; None where it did not. spread_s: standard deviation of a step.
    """

    divided_s: float
    kept_s: float
    overlap: float | None = None
    spread_s: float = 0.0

    @property
    def step_s(self) -> float:
        return self.divided_s + self.kept_s


@dataclass(frozen=True)
class Scaled:
    """A step on many ranks."""

    step_s: float
    compute_s: float
    exposed_s: float
    bubble_s: float
    straggler_s: float
    communication: tuple[Communication, ...]


def scaled(observed: Observed, layout: Layout, model: Model, near: Path, far: Path) -> Scaled:
    """The step of one rank under the layout; each data-parallel rank works on as much as the recorded one did."""
    compute_s = observed.divided_s / (layout.tensor * layout.pipeline) + observed.kept_s / layout.pipeline
    told = tuple(_communication(layout, model, near, far, observed, compute_s))
    bubble_s = compute_s * layout.bubble_fraction / (1 - layout.bubble_fraction)
    exposed_s = sum(one.exposed_s for one in told)
    late_s = observed.spread_s * math.sqrt(2 * math.log(layout.ranks)) if layout.ranks > 1 else 0.0
    return Scaled(compute_s + bubble_s + exposed_s + late_s, compute_s, exposed_s, bubble_s, late_s, told)


def curve(observed: Observed, layout: Layout, model: Model, near: Path, far: Path) -> tuple[Point, ...]:
    """The step at powers of two up to the layout's ranks, tensor and pipeline parallelism as they are."""
    model_ranks, per_node = layout.tensor * layout.pipeline, layout.per_node
    sizes = [layout.ranks]
    while sizes[-1] % 2 == 0 and sizes[-1] // 2 >= model_ranks and (sizes[-1] // 2) % model_ranks == 0:
        sizes.append(sizes[-1] // 2)
    return tuple(_point(observed, _sized(layout, ranks, per_node), model, near, far) for ranks in reversed(sizes))


def crossover(points: tuple[Point, ...]) -> int | None:
    """The fewest ranks at which communication and bubble take half of the step or more; None where they never do."""
    over = (p.ranks for p in points if p.exposed_communication_s + p.bubble_s >= TAKES_OVER * p.step_s)
    return next(over, None)


def _sized(layout: Layout, ranks: int, per_node: int) -> Layout:
    data = ranks // (layout.tensor * layout.pipeline)
    return replace(layout, ranks=ranks, nodes=max(1, ranks // per_node), expert=math.gcd(layout.expert, data))


def _point(observed: Observed, layout: Layout, model: Model, near: Path, far: Path) -> Point:
    found = scaled(observed, layout, model, near, far)
    model_ranks = layout.tensor * layout.pipeline
    ideal_s = observed.step_s / model_ranks
    return Point(layout.ranks, found.step_s, found.exposed_s, found.bubble_s, ideal_s / found.step_s)


def _communication(
    layout: Layout, model: Model, near: Path, far: Path, observed: Observed, compute_s: float
) -> Iterator[Communication]:
    def took(kind: Collective, size: float, ranks: int, per_node: int) -> float:
        return spread_seconds(kind, size, ranks, max(per_node, 1), near, far)

    inside = layout.per_node
    rows = (model.tokens or 0) * (model.hidden or 0) * model.activation_bytes
    if layout.tensor > 1:
        count = 2 * model.passes * (model.layers or 0) / layout.pipeline  # after attention and after feed-forward
        each_s = took("all_reduce", rows, layout.tensor, inside)
        volume = count * rows * 2 * (layout.tensor - 1) / layout.tensor
        yield _told("tensor", "all_reduce", layout.tensor, volume, count * each_s, count * each_s, inside, near, far)
    if layout.pipeline > 1:
        each = rows / layout.micro_batches
        apart = layout.ranks // layout.pipeline  # stages lie so far apart
        once_s = took("send_recv", each, 2, 2 if apart < inside else 1)
        sends = model.passes * layout.micro_batches * layout.interleave
        shown = model.passes * (layout.pipeline - 1)  # while the pipeline fills and drains
        yield _told(
            "pipeline", "send_recv", layout.pipeline, sends * each, sends * once_s, shown * once_s,
            inside if apart < inside else 1, near, far,
        )  # fmt: skip
    if layout.expert > 1:
        size = rows * model.experts_a_token
        count = 2 * model.passes * (model.moe_layers or 0) / layout.pipeline
        each_s = took("all_to_all", size, layout.expert, inside // layout.tensor)
        volume = count * size * (layout.expert - 1) / layout.expert
        yield _told("expert", "all_to_all", layout.expert, volume, count * each_s, count * each_s, inside, near, far)
    if layout.data > 1 and model.trains:
        yield _data(layout, model, near, far, observed, compute_s)


def _data(layout: Layout, model: Model, near: Path, far: Path, observed: Observed, compute_s: float) -> Communication:
    """Gradients are reduced; with ZeRO 3 parameters are gathered too, before the forward and the backward pass."""
    size = (model.parameters or 0.0) * model.gradient_bytes / (layout.tensor * layout.pipeline)
    inside = max(1, layout.per_node // layout.tensor)
    kinds: dict[int, tuple[tuple[Collective, int], ...]] = {
        0: (("all_reduce", 1),),
        3: (("all_gather", 2), ("reduce_scatter", 1)),
    }
    chosen = kinds.get(layout.zero, (("reduce_scatter", 1), ("all_gather", 1)))
    time_s = sum(n * spread_seconds(kind, size, layout.data, inside, near, far) for kind, n in chosen)
    share = (layout.data - 1) / layout.data
    volume = sum(n * size * share * (2 if kind == "all_reduce" else 1) for kind, n in chosen)
    name = "data" if not layout.zero else f"ZeRO {layout.zero}"
    exposed_s = _exposed(layout, size, time_s, near, far, observed, compute_s)
    return _told(name, "+".join(kind for kind, _ in chosen), layout.data, volume, time_s, exposed_s, inside, near, far)


def _exposed(
    layout: Layout, size: float, time_s: float, near: Path, far: Path, observed: Observed, compute_s: float
) -> float:
    """What nothing hides: the share that the run showed, else what the backward pass leaves and the last bucket."""
    last_s = time_s * min(1.0, BUCKET_BYTES / size) if size else 0.0
    room_s = (1.0 if layout.zero == 3 else BACKWARD) * compute_s
    least_s = max(time_s - room_s, last_s)
    if observed.overlap is None:
        return least_s
    return min(time_s, max((1 - observed.overlap) * time_s, time_s - room_s))


def _told(
    what: str, kind: str, ranks: int, volume: float, time_s: float, exposed_s: float, inside: int, near: Path, far: Path
) -> Communication:
    ways = (near,) if ranks <= inside else (near, far) if inside > 1 else (far,)
    link, measured = " + ".join(way.name for way in ways), all(way.measured for way in ways)
    return Communication(what, kind, ranks, volume, time_s, min(exposed_s, time_s), link, measured)
