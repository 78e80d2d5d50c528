"""How well does the replay of a trace foretell its steps? Errors against the recording, as fractions of the step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from probe.analyzers.critical_path.graph import build
from probe.analyzers.critical_path.replay import Changes, Replay
from probe.analyzers.operators.steps import cut_by_device, recorded_steps, work_steps
from probe.analyzers.timeline.device import collective_kernels
from probe.trace import DeviceWork, Steps, Trace

LEAST_DEVICE_WORK = 10  # kernels and copies: with fewer nothing was replayed but the marks


@dataclass(frozen=True)
class ReplayAccuracy:
    """Errors as fractions of the measured step, signed: below 0 the replay is too short.

    unchanged: the graph walked as it is, delays that nothing explains included. explained: without those on the
    device. held_out: each piece of device work takes what its kind takes in the other steps, but for collectives, whose
    time is mostly waiting for other ranks; None with one step.
    """

    steps: int
    nodes: int
    measured_s: float
    unchanged: float
    explained: float
    held_out: float | None


def replay_accuracy(trace: Trace) -> ReplayAccuracy:
    """The errors of one trace's replay."""
    marks = recorded_steps(trace)
    replay = Replay(trace, build(trace, marks))
    measured_s = float(cut_by_device(trace, marks).duration_ns.mean()) / 1e9
    return ReplayAccuracy(
        steps=len(marks),
        nodes=len(replay.graph),
        measured_s=measured_s,
        unchanged=replay.step_s(Changes()) / measured_s - 1,
        explained=replay.undelayed_step_s() / measured_s - 1,
        held_out=_held_out(trace, marks, replay, measured_s),
    )


def why_not(trace: Trace) -> str | None:
    """Why a trace's replay says nothing; None where it does."""
    if not len(trace.steps):
        return "no steps are marked: the whole span would be one"
    if len(trace.kernels) + len(trace.copies) < LEAST_DEVICE_WORK:
        return "no device work: a step of one thread is the sum of its parts"
    return None


def _held_out(trace: Trace, marks: Steps, replay: Replay, measured_s: float) -> float | None:
    if len(marks) < 2:
        return None
    kernels = _others(trace, trace.kernels, marks)
    waiting = set(np.flatnonzero(collective_kernels(trace)).tolist())
    kernels = {row: kept for row, kept in kernels.items() if row not in waiting}
    changes = Changes(kernels=kernels, copies=_others(trace, trace.copies, marks))
    return replay.step_s(changes) / measured_s - 1


def _others(trace: Trace, work: DeviceWork, marks: Steps) -> dict[int, float]:
    """Per piece of work the mean time of the same name and operator in other steps, over its own."""
    if not len(work):
        return {}
    step, length = work_steps(trace, work, marks), work.duration_ns.astype(np.float64)
    signature = np.where(work.op >= 0, np.append(trace.host_ops.signature, -1)[work.op], -1)
    _, kind = np.unique(np.stack([work.name, signature]), axis=1, return_inverse=True)
    kind = kind.reshape(-1)
    usable = step >= 0
    shape = (int(kind.max()) + 1, len(marks))
    total, count = np.zeros(shape), np.zeros(shape)
    np.add.at(total, (kind[usable], step[usable]), length[usable])
    np.add.at(count, (kind[usable], step[usable]), 1)
    other_total = total.sum(axis=1)[kind] - total[kind, step]
    other_count = count.sum(axis=1)[kind] - count[kind, step]
    known = np.flatnonzero(usable & (other_count > 0) & (length > 0))
    return {int(row): float(other_total[row] / other_count[row] / length[row]) for row in known}
