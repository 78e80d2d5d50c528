"""How much of its throughput does a rank keep when the job grows?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from probe.errors import UsageError
from probe.results.multirank import Interval, RankSummary
from probe.results.scaling import Scaling, ScalingJob, ScalingMode, ScalingPoint
from probe.stats import fewest_for_interval, median_interval_ranks

# Two intervals that each hold with 97.5 % hold together with 95 %, whatever their dependence.
CONFIDENCE = 0.975
FEWEST = fewest_for_interval(CONFIDENCE)

ASSUMPTIONS: dict[ScalingMode, str] = {
    "weak": "weak scaling: every rank does the same work in a step whatever their number, so steps should take as long",
    "strong": "strong scaling: all ranks together do the same work in a step, so steps should shorten in proportion",
    "throughput": "samples or tokens per second and rank, as the jobs counted them",
}


def scaling_job(summaries: Sequence[RankSummary], work_per_step: float | None = None) -> ScalingJob:
    """A job of the ranks at hand; work_per_step: samples or tokens of all its ranks together."""
    if not summaries:
        raise UsageError("a job without ranks has no steps: name at least one trace for each number of ranks")
    world = max((s.world_size for s in summaries if s.world_size is not None), default=len(summaries))
    if not all(s.steps_marked for s in summaries):
        without = next(s.path for s in summaries if not s.steps_marked)
        raise UsageError(f"{without}: no steps are marked, so step times cannot be compared; call step() in the loop")
    common = reduce(np.intersect1d, (s.steps.number for s in summaries))
    times = np.array([s.steps.duration_ns[np.isin(s.steps.number, common)] for s in summaries])
    return ScalingJob(world, tuple((times.mean(axis=0) / 1e9).tolist()), work_per_step)


def scaling(jobs: Sequence[ScalingJob], mode: ScalingMode | None = None) -> Scaling:
    """Throughput per rank against the job with the fewest ranks, with intervals over the steps.

    Without a mode it is that of the work per step where every job knows it, else weak scaling.
    """
    usable = sorted((job for job in jobs if job.step_s), key=lambda job: job.world_size)
    if len(usable) < 2:
        raise UsageError(f"scaling takes jobs at two numbers of ranks or more, {len(usable)} have steps: add a job")
    if len({job.world_size for job in usable}) < 2:
        raise UsageError(
            f"scaling takes jobs at two numbers of ranks or more, and all of these have {usable[0].world_size}; "
            "`probe compare` sets two runs side by side"
        )
    counted = all(job.work_per_step for job in usable)
    if mode == "throughput" and not counted:
        raise UsageError("a job does not say its samples or tokens per step: pass them, or say weak or strong")
    mode = mode or ("throughput" if counted else "weak")
    points = tuple(_point(job, usable[0], mode) for job in usable)
    return Scaling(mode, ASSUMPTIONS[mode], points, tuple(_warnings(jobs, usable)))


def _warnings(jobs: Sequence[ScalingJob], usable: Sequence[ScalingJob]) -> list[str]:
    said = [f"the job with {job.world_size} ranks has no steps and is left out" for job in jobs if not job.step_s]
    sizes = [job.world_size for job in usable]
    twice = sorted({size for size in sizes if sizes.count(size) > 1})
    said += [
        f"{sizes.count(size)} jobs have {size} rank{'s' * (size != 1)}: each is a row, the first of the smallest counts"
        for size in twice
    ]
    few = [job for job in usable if len(job.step_s) < FEWEST]
    said += [f"{job.world_size} ranks: {len(job.step_s)} steps are too few for an interval" for job in few]
    return said


def _point(job: ScalingJob, smallest: ScalingJob, mode: ScalingMode) -> ScalingPoint:
    """Throughput is work over time; its share per rank is the ratio of both to the smallest job's."""
    growth = job.world_size / smallest.world_size
    work = growth if mode == "weak" else 1.0
    if mode == "throughput":
        work = (job.work_per_step or 0.0) / (smallest.work_per_step or 1.0)
    here, there = float(np.median(job.step_s)), float(np.median(smallest.step_s))
    efficiency = work / growth * there / here
    low_high = None if job is smallest else _ratio_interval(smallest.step_s, job.step_s)
    interval = None if low_high is None else (work / growth * low_high[0], work / growth * low_high[1])
    return ScalingPoint(job.world_size, len(job.step_s), here, efficiency, interval, efficiency * growth)


def _ratio_interval(above: Sequence[float], below: Sequence[float]) -> Interval | None:
    """Interval of the ratio of two medians, at least 95 %."""
    if min(len(above), len(below)) < FEWEST:
        return None
    (low, high), (least, most) = _median_interval(above), _median_interval(below)
    return (low / most, high / least)


def _median_interval(samples: Sequence[float]) -> Interval:
    ordered = sorted(samples)
    low, high = median_interval_ranks(len(ordered), CONFIDENCE)
    return (ordered[low], ordered[high])
