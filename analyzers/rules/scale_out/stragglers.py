"""D06: is a rank late, so that all others wait for it at each collective?

One rank's trace shows only that it waits; who is late, the traces of several ranks show together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from probe.analyzers.ranks.kinds import BLOCKING
from probe.analyzers.rules.context import Context, Match
from probe.analyzers.rules.rule import Example, Rule
from probe.analyzers.rules.scale_out.exchanges import Exchange, exchanges, found
from probe.analyzers.rules.scale_out.lateness import LATE, late_ranks
from probe.results.multirank import Straggler
from probe.units import format_fraction, format_time

FEW = 4  # collectives of a size: fewer say nothing of how long one takes without waiting
LONGER = 3.0  # times the shortest of its size: a collective that waited


def waits(context: Context) -> Iterator[Match]:
    """Who is late, where ranks were compared; else, or where some are not at hand, that this rank waits."""
    named = late_ranks(context.compared)
    yield from (_late(context, one) for one in named)
    if not named and (context.compared is None or context.compared.missing or not context.compared.matched):
        yield from _one_rank_waits(context)


def _one_rank_waits(context: Context) -> Iterator[Match]:
    """On one rank: the same collective takes far longer than it can, step after step."""
    table = exchanges(context)
    sizes: dict[tuple[str, int], list[Exchange]] = {}
    for x in table.rows:
        if x.kind in BLOCKING and x.elements > 0:
            sizes.setdefault((x.kind, x.elements), []).append(x)
    waiting = [one for one in sizes.values() if len(one) >= FEW and _typical(one) > LONGER * _least(one)]
    own = [x for one in waiting for x in one]
    spent = sum(x.ran_ns for x in own)
    if not spent:
        return
    waited = 1 - sum(_least(one) * len(one) for one in waiting) / spent
    saving_s = waited * table.exposed_s(own)
    if saving_s < LATE * context.step_s:
        return
    yield from found(
        context, own, saving_s=saving_s,
        summary=(
            f"{table.per_step(own):.0f} collectives per step take far longer than the shortest of their size: "
            f"{format_time(saving_s)} of waiting for another rank, or of others on the links"
        ),
        evidence=tuple(
            f"{one[0].kind.replace('_', '-')} of {one[0].elements:,} elements: {format_time(_least(one) / 1e9)} at "
            f"least, {format_time(_typical(one) / 1e9)} typically" for one in waiting[:4]
        ),
        where="another rank", replacement="equal work on all ranks",
        how='probe.profile(ranks="all")  # then probe analyze names the rank',
    )  # fmt: skip


def _least(some: Sequence[Exchange]) -> int:
    return min(x.ran_ns for x in some)


def _typical(some: Sequence[Exchange]) -> int:
    return sorted(x.ran_ns for x in some)[len(some) // 2]


def _late(context: Context, one: Straggler) -> Match:
    ranks = context.compared.ranks if context.compared is not None else ()
    low, high = one.late_interval_s
    waited = [rank.wait_s for rank in ranks if rank.rank != one.rank and rank.wait_s is not None]
    step_s = next((rank.step_s for rank in ranks if rank.rank == one.rank), None) or context.recorded_s
    return Match(
        rows=(), ops=(), key=f"rank-{one.rank}",
        summary=(
            f"rank {one.rank} comes to collectives {format_time(one.late_s)} per step after the others, which wait: "
            f"{format_fraction(one.late_s / step_s)} of the step"
        ),
        evidence=(
            f"late by {format_time(low)} to {format_time(high)} (95 %)",
            *((f"the others wait {format_time(sum(waited) / len(waited))} per step on average",) if waited else ()),
        ),
        where=f"rank {one.rank}", saving_s=one.delay_s * context.bare_fraction, replacement="equal work on all ranks",
        how=f"probe.profile(ranks=[{one.rank}])  # what it does longer: its batch, its clocks (nvidia-smi), its host",
    )  # fmt: skip


RULES = (
    Rule(
        "D06", "straggler", "one rank is late and all others wait for it", waits,
        trigger=(
            "several ranks: one late by more than clocks and chance explain, by 5 % of the step; one rank: collectives "
            "that take three times as long as the shortest of their size"
        ),
        advice="give all ranks equal work; look at the late one's batches, clocks, temperature and host",
        saving="the time by which it comes after the next to last rank",
        cannot_show="why the rank is late; record it beside one that is not",
        proof="arithmetic", effort="design", about="communication",
        example=Example("batch = longest_first[rank::world]", "batch = by_equal_token_counts[rank]"),
    ),
)  # fmt: skip
