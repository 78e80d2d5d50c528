"""E04–E07: kernels that do not fill the device: a tail, few blocks, few warps; and those far below the roof."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import ceil, prod

from probe.analyzers.cost_models.terms import IDLE
from probe.analyzers.gpu.kernel_evidence import (
    LOW_OCCUPANCY,
    MOST,
    TAIL,
    Filling,
    KernelRuns,
    blocks_text,
    causes,
    filling,
)
from probe.analyzers.gpu.kernel_names import WORDS, is_unvectorised, sort_of
from probe.analyzers.gpu.tensor_cores import arithmetic, float32_runs_in
from probe.analyzers.operators.op_table import shapes_text
from probe.analyzers.operators.strides import is_strided
from probe.analyzers.roofline import Placement, place
from probe.analyzers.rules.context import Context, Match, times
from probe.analyzers.rules.matching.claims import below
from probe.analyzers.rules.rule import Example, Rule
from probe.units import format_time

LONG_S = 10e-6  # a shorter kernel is over before its shape matters
VERY_LONG_S = 20e-6
FEW_WAVES = 4  # beyond it a last wave that is not full wastes less than a fifth
FAR = 3.0  # times its roof
REACHABLE = 0.5  # of the roof: what ordinary kernels reach
LEAST_FRACTION = 0.005  # of the step, for one operator
UNTIMED_FRACTION = 0.02  # of the step, for what is told without a saving
SHOWN = 3  # sizes in the evidence


@dataclass(frozen=True)
class _Site:
    """One group of calls whose kernels a rule is about. Times are seconds per step."""

    group: int
    run: KernelRuns  # the kernel that takes longest among those concerned
    filled: Filling | None
    concerned_s: float  # of those kernels
    saving_s: float | None
    rows: tuple[int, ...]  # its operators that no other finding is about


class _Unclaimed:
    """The operators of each group that belong to no finding yet, themselves or by what calls them."""

    def __init__(self, context: Context) -> None:
        self._groups, self._claimed = context.groups, below(context)

    def rows(self, group: int) -> tuple[tuple[int, ...], float]:
        """Rows of a group, and which share of all its rows they are; 1 for kernels that no operator launched."""
        rows = self._groups.rows_of(group)
        free = rows[~self._claimed[rows]]
        return tuple(free.tolist()), len(free) / len(rows) if len(rows) else 1.0


_Test = Callable[[Context, KernelRuns, Filling], float | None]  # the share of the kernel's time that could be saved


def tails(context: Context) -> Iterator[Match]:
    """E04: a few waves of blocks, the last of which leaves most of the device idle."""
    for name, sites in _by_operator(context, _tail):
        run, filled = sites[0].run, sites[0].filled
        if filled is None or filled.waves is None or filled.residence is None:
            continue
        whole = ceil(filled.waves)
        yield _match(
            context, name, sites,
            f"{filled.waves:.2f} waves of blocks take the time of {whole}",
            (
                f"{blocks_text(filled.blocks)}, {filled.residence.blocks} at a time on each of "
                f"{context.trace.device.sm_count} SMs (limited by {filled.residence.limited_by})",
            ),
            "sizes, or a batch, that fill whole waves",
            f"# {run.name[:40]}: work {whole / filled.waves:.2f}× as large takes the same time",
        )  # fmt: skip


def few_blocks(context: Context) -> Iterator[Match]:
    """E05: fewer blocks than the device has SMs."""
    sms = context.trace.device.sm_count
    for name, sites in _by_operator(context, _idle_sms):
        filled = sites[0].filled
        if filled is None or not sms:
            continue
        yield _match(
            context, name, sites,
            f"{blocks_text(filled.blocks)} for {sms} SMs: {1 - filled.blocks / sms:.0%} of the device idles",
            (), *_wider(context, sites[0]),
        )  # fmt: skip


def few_warps(context: Context) -> Iterator[Match]:
    """E06: enough blocks, but registers or shared memory let few warps onto an SM."""
    for name, sites in _by_operator(context, _low_occupancy):
        filled = sites[0].filled
        if filled is None or filled.residence is None:
            continue
        fits = filled.residence
        yield _match(
            context, name, sites,
            f"{fits.warps} warps on an SM, {fits.occupancy_fraction:.0%} of its room, limited by {fits.limited_by}",
            (f"{blocks_text(fits.blocks)} of {_threads(sites[0].run)} threads fit on an SM at a time",),
            "a kernel that needs fewer registers or less shared memory per block",
            "ncu --section Occupancy --section WarpStateStats …  # whether the warps wait for memory",
        )  # fmt: skip


def far_below(context: Context) -> Iterator[Match]:
    """E07: long, and far below both roofs."""
    unclaimed = _Unclaimed(context)
    found = (_far_site(context, group, runs, unclaimed) for group, runs in context.kernel_runs.items())
    for name, sites in _named(context, found):
        first = sites[0]
        placement = _placement(context, first.group)
        share = (placement.roof_s or 0.0) / _call_s(context, first.group)
        said = _suspect(context, first.group, first.run)
        yield _match(context, name, sites, f"{share:.0%} of the roof", (said.why,), said.replacement, said.how)


def _by_operator(context: Context, test: _Test) -> Iterator[tuple[str, list[_Site]]]:
    """The sites that pass `test` by operator, those of the most time first."""
    unclaimed = _Unclaimed(context)
    found = (_site(context, group, runs, test, unclaimed) for group, runs in context.kernel_runs.items())
    yield from _named(context, found)


def _named(context: Context, found: Iterable[_Site | None]) -> Iterator[tuple[str, list[_Site]]]:
    by_name: dict[str, list[_Site]] = defaultdict(list)
    for site in found:
        if site is not None:
            by_name[context.groups.name[site.group]].append(site)
    for name, sites in by_name.items():
        yield name, sorted(sites, key=lambda site: -site.concerned_s)


def _site(
    context: Context, group: int, runs: tuple[KernelRuns, ...], test: _Test, unclaimed: _Unclaimed
) -> _Site | None:
    """The kernels of a group that pass `test`, where they matter and are no part of another finding."""
    tested = [(run, _tested(context, run, test)) for run in runs]
    concerned = [(run, share) for run, share in tested if share is not None]
    total = sum(run.seconds for run in runs)
    if not concerned or not total or not _has_work(context, group):
        return None
    rows, free = unclaimed.rows(group)
    per_step = float(context.groups.device_s[group].mean()) * free
    concerned_s = sum(run.seconds for run, _ in concerned) / total * per_step
    if concerned_s < LEAST_FRACTION * context.step_s or _near(context, group):
        return None
    wasted_s = sum(run.seconds * share for run, share in concerned) / total * per_step
    saving_s = min(wasted_s, _above_roof_s(context, group, per_step)) if wasted_s else None
    if saving_s is None and concerned_s < UNTIMED_FRACTION * context.step_s:
        return None
    first = concerned[0][0]
    filled = filling(first.shape, context.trace.device) if first.shape else None
    return _Site(group, first, filled, concerned_s, saving_s, rows)


def _tested(context: Context, run: KernelRuns, test: _Test) -> float | None:
    """The share of a kernel's time that `test` says could be saved; None where the rule is not about it."""
    if run.shape is None or run.mean_s < LONG_S or sort_of(run.name) == "collective":
        return None
    filled = filling(run.shape, context.trace.device)
    return test(context, run, filled) if filled is not None else None


def _has_work(context: Context, group: int) -> bool:
    cost = context.costs[group]
    return cost.kind not in IDLE and cost.kind != "collective"


def _call_s(context: Context, group: int) -> float:
    calls = float(context.groups.calls[group].sum())
    return float(context.groups.device_s[group].sum()) / calls if calls else 0.0


def _placement(context: Context, group: int) -> Placement:
    device = context.trace.device
    tf32 = any(float32_runs_in(use.name, device) == "tf32" for use in context.groups.kernels[group])
    return place(context.costs[group], context.machine.ceilings, tf32=tf32)


def _near(context: Context, group: int) -> bool:
    """Whether the operator comes close to a roof all the same."""
    roof_s = _placement(context, group).roof_s
    return roof_s is not None and roof_s >= REACHABLE * _call_s(context, group)


def _above_roof_s(context: Context, group: int, per_step: float) -> float:
    """What lies between the operator and its roof; all of its time where the roof is not known."""
    roof_s, call_s = _placement(context, group).roof_s or 0.0, _call_s(context, group)
    return per_step * max(1 - roof_s / call_s, 0.0) if call_s else per_step


def _tail(context: Context, run: KernelRuns, filled: Filling) -> float | None:
    if filled.waves is None or filled.tail_fraction is None or filled.waves > FEW_WAVES:
        return None
    return 1 - filled.tail_fraction if filled.tail_fraction <= TAIL else None


def _idle_sms(context: Context, run: KernelRuns, filled: Filling) -> float | None:
    sms = context.trace.device.sm_count
    return 1 - filled.blocks / sms if sms and filled.blocks <= TAIL * sms else None


def _low_occupancy(context: Context, run: KernelRuns, filled: Filling) -> float | None:
    """Not for tensor cores: their kernels keep tiles in registers on purpose. What is gained is not known: 0."""
    uses = arithmetic(run.name)
    fits, sms = filled.residence, context.trace.device.sm_count or 0
    if fits is None or not fits.exact or filled.blocks < sms or (uses is not None and uses.tensor_cores):
        return None
    return (
        0.0 if fits.limited_by in ("registers", "shared memory") and fits.occupancy_fraction < LOW_OCCUPANCY else None
    )


def _far_site(context: Context, group: int, runs: tuple[KernelRuns, ...], unclaimed: _Unclaimed) -> _Site | None:
    """A group of long kernels, most of whose time lies far above both roofs."""
    total = sum(run.seconds for run in runs)
    long_s = sum(run.seconds for run in runs if run.mean_s >= VERY_LONG_S)
    placement, call_s = _placement(context, group), _call_s(context, group)
    if context.bounds[group] not in ("latency", "memory", "unknown") or not total or long_s < MOST * total:
        return None
    if placement.roof_s is None or not placement.decided(call_s) or call_s <= FAR * placement.roof_s:
        return None
    rows, free = unclaimed.rows(group)
    per_step = float(context.groups.device_s[group].mean()) * free
    helps = _suspect(context, group, runs[0]).helps
    if per_step < (LEAST_FRACTION if helps else UNTIMED_FRACTION) * context.step_s:
        return None
    saving_s = per_step * (1 - placement.roof_s / REACHABLE / call_s) if helps else None
    return _Site(group, runs[0], None, per_step, saving_s, rows)


@dataclass(frozen=True)
class _Suspect:
    """What may be the reason, what to put in its place, and how; and whether that brings it near the roof."""

    why: str
    replacement: str
    how: str
    helps: bool = False


def _suspect(context: Context, group: int, run: KernelRuns) -> _Suspect:
    signature = context.groups.signature[group]
    sort = sort_of(run.name)
    if sort in ("indexed", "atomic", "sort", "scan"):
        return _Suspect(
            WORDS[sort], "indices that are sorted, or fewer and larger rows", "indices, order = indices.sort()"
        )
    if signature is not None and is_strided(signature):
        return _Suspect("an argument is not contiguous", "one contiguous copy before it", "x = x.contiguous()", True)
    if is_unvectorised(run.name) or sort == "strided":
        return _Suspect(WORDS["strided"], "contiguous arguments of one type", "x = x.contiguous()", True)
    found = causes(context.kernel_runs[group], context.trace.device, LONG_S)
    return _Suspect(
        found[0].text if found else "the trace does not show why",
        "torch.compile of the function that calls it, or another kernel",
        "ncu --set full …  # memory access pattern and stalls of this kernel",
    )


def _wider(context: Context, site: _Site) -> tuple[str, str]:
    """What makes more blocks of an operator of this kind, and how."""
    name, kind = context.groups.name[site.group], context.costs[site.group].kind
    if kind == "attention":
        return "split the keys over blocks (flash-decoding)", "flex_attention, or a larger batch of sequences"
    if kind == "matmul":
        return "a product that is split along K, or several in one", 'torch.compile(step, mode="max-autotune")'
    if "batch_norm" in name:
        return "channels_last, whose kernels split the batch as well", "model.to(memory_format=torch.channels_last)"
    if kind == "normalisation" or kind == "reduction":
        return "a reduction in two stages, or more rows per call", "step = torch.compile(step)"
    return (
        "larger work per call: a larger batch, or several calls in one",
        "batch the calls, e.g. torch._foreach_… or torch.stack",
    )


def _threads(run: KernelRuns) -> int:
    return prod(run.shape.block) if run.shape is not None else 0


def _match(
    context: Context, name: str, sites: list[_Site], figures: str, evidence: tuple[str, ...], replacement: str,
    how: str,
) -> Match:  # fmt: skip
    spent_s = sum(site.concerned_s for site in sites)
    known = [site.saving_s for site in sites if site.saving_s is not None]
    calls = sum(float(context.groups.calls[site.group].mean()) for site in sites)
    return Match(
        rows=tuple(row for site in sites for row in site.rows),
        ops=tuple(site.group for site in sites),
        key=name,
        summary=f"{name}, {times(calls)}, takes {format_time(spent_s)}: {figures}",
        evidence=(*evidence, f"kernel {sites[0].run.name[:80]}", *_sizes(context, sites)),
        saving_s=sum(known) if known else None,
        where=f"{name}, {times(calls)}",
        replacement=replacement,
        how=how,
    )


def _sizes(context: Context, sites: list[_Site]) -> tuple[str, ...]:
    """The sizes of the first sites, where they were recorded."""
    found = [context.groups.signature[site.group] for site in sites[:SHOWN]]
    told = [shapes_text(signature) for signature in found if signature is not None and signature.dims]
    return (f"sizes {'; '.join(told)}",) if told else ()


RULES = (
    Rule(
        "E04", "wave-tail", "the last wave of blocks leaves most of the device idle", tails,
        trigger="kernels of 10 µs or more in 1 to 4 waves of blocks that use at most three quarters of the SMs' time",
        advice="sizes that fill whole waves: another batch size or tile, or a product split along K",
        saving="the share of the SMs' time that the last wave leaves idle, at most down to the roof",
        cannot_show="kernels that hand out their tiles themselves, and others that run beside it on another stream",
        proof="replay", effort="line", needs=("device work", "launches"), about="compute",
        example=Example("loader = DataLoader(data, batch_size=33)", "loader = DataLoader(data, batch_size=32)"),
    ),
    Rule(
        "E05", "few-blocks", "a kernel has fewer blocks than the device has SMs", few_blocks,
        trigger="kernels of 10 µs or more with fewer blocks than SMs, less than half as fast as their roof",
        advice="more parallel work per call: split along K or the sequence, a larger batch, channels_last",
        saving="the share of the SMs that idle, at most down to the roof",
        cannot_show="whether other work runs on the idle SMs at the same time",
        proof="replay", effort="function", needs=("device work", "launches"), about="compute",
        example=Example("for x in xs:\n    y = f(x)", "y = f(torch.stack(xs))"),
    ),
    Rule(
        "E06", "low-occupancy", "registers or shared memory let few warps onto an SM", few_warps,
        trigger="kernels of 10 µs or more on the vector units with a theoretical occupancy below 25 %",
        advice="fewer registers or less shared memory per block, or other tile sizes",
        saving="not known from a trace",
        cannot_show="whether the warps that are there hide the latency of memory: Nsight Compute shows it",
        proof="arithmetic", effort="design", needs=("device work", "launches"), about="compute",
        example=Example("kernel[grid](x, BLOCK=4096, num_warps=4)", "kernel[grid](x, BLOCK=1024, num_warps=8)"),
    ),
    Rule(
        "E07", "far-below-roof", "a long operator runs far below both roofs", far_below,
        trigger="kernels of 20 µs or more that take over three times as long as the nearer roof",
        advice="look at the layout of its arguments first, then at its memory accesses with Nsight Compute",
        saving="for arguments that are not contiguous its time less twice that at the roof: kernels reach half",
        cannot_show="why: caches, stalls and uncoalesced accesses are not in a trace",
        proof="replay", effort="function", needs=("shapes", "device work"), about="compute",
        example=Example("y = x.transpose(1, 2).sum(-1)", "y = x.sum(1)"),
    ),
)  # fmt: skip
