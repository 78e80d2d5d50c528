"""How is a stored baseline made, and the working tree held against one?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from probe import store
from probe.analyzers.gates.evidence import OperatorTimes
from probe.analyzers.gates.limits import Limits
from probe.analyzers.gates.stored import Stored, judge_stored
from probe.errors import CeilingsError, InputError
from probe.gate import baseline as stored
from probe.gate.baseline import Baseline
from probe.gate.checkout import Checkout
from probe.gate.command import Command
from probe.gate.control import control_s
from probe.gate.session import Alone, Plan, take_alone
from probe.gate.workers import workers
from probe.machine.device import Device
from probe.machine.environment import cpu_device, cuda_device, describe
from probe.results.gate_result import GateResult, Side

SESSIONS = 5
SESSION_S = 6.0
SOFTWARE = ("cuda", "driver", "python")

Progress = Callable[[str], None]


def record(command: Command, checkout: Checkout, budget_s: float, progress: Progress) -> Baseline:
    """Run the working tree by itself: five fresh processes, two at least where the budget is short."""
    begin = time.monotonic()
    controls = [control_s()]
    taken: list[Alone] = []
    while len(taken) < SESSIONS and (len(taken) < 2 or _has_time(len(taken), time.monotonic() - begin, budget_s)):
        plan = Plan(min(SESSION_S, budget_s / (2 * SESSIONS)), costs=not taken, seed=len(taken))
        with workers((checkout.name, command.task(checkout), checkout.cwd, checkout.python, {})) as (worker,):
            taken.append(take_alone(worker, plan))
        controls.append(control_s())
        progress(f"session {len(taken)} of {SESSIONS}")
    least = {name: min(control[name] for control in controls) for name in controls[0]}
    device = cuda_device() if taken[0].ready.on_gpu else cpu_device()
    return stored.made_of(
        taken, str(command), checkout.commit, _fingerprint(taken[0], device), least, _ceilings(device)
    )


def _has_time(sessions: int, spent_s: float, budget_s: float) -> bool:
    return spent_s * (sessions + 1) / sessions <= budget_s


def _fingerprint(alone: Alone, device: Device) -> dict[str, Any]:
    """What must be the same for stored times to mean anything."""
    described = describe(device)
    own = {"device": device.name, "cores": device.cores, "torch": alone.ready.torch, "threads": alone.ready.threads}
    return own | {name: described.get(name) for name in SOFTWARE}


def _ceilings(device: Device) -> dict[str, Any]:
    """The machine's measured roofs, where there are any: for whoever reads the file elsewhere."""
    try:
        found = store.load(store.path_for(device.key))
    except CeilingsError:
        return {}
    return {
        "dram_bytes_per_s": found.dram_bytes_per_s,
        "flops_per_s": dict(found.flops_per_s),
        "launch_s": found.launch_s,
    }


def check_stored(
    path: Path, command: Command, checkout: Checkout, limits: Limits, budget_s: float, progress: Progress
) -> GateResult:
    """The working tree against a stored baseline."""
    base = stored.read(path)
    if base.command != str(command):
        raise InputError(f"{path}: it was recorded of {base.command!r}, not of {command!s}; record one for that")
    new = record(command, checkout, budget_s, progress)
    if base.metric != new.metric:
        raise InputError(f"{path}: it holds {base.metric}, this machine gives {new.metric}; record one here")
    differ = different(base.fingerprint, new.fingerprint)
    sides = (
        Side(stored.described(base, path), str(base.fingerprint.get("device")), base.fingerprint.get("torch")),
        Side(checkout.name, str(new.fingerprint.get("device")), new.fingerprint.get("torch")),
    )
    result = judge_stored(_side(base), _side(new), limits, sides, same=not differ)
    warnings = tuple(f"{name}: {before} in the baseline, {after} here" for name, before, after in differ)
    return replace(result, warnings=warnings)


def different(base: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """What of the fingerprints differs."""
    return [(name, base.get(name), new.get(name)) for name in new if base.get(name) != new.get(name)]


def _side(baseline: Baseline) -> Stored:
    keys = [(row.name, row.shapes) for row in baseline.operators]
    rows: Sequence[stored.Operator] = baseline.operators
    operators = OperatorTimes(
        dict(zip(keys, (row.seconds for row in rows), strict=True)),
        dict(zip(keys, (row.calls for row in rows), strict=True)),
        {row.name: row.kernels for row in rows if row.kernels},
    )
    return Stored(baseline.log_medians, baseline.counts, operators, baseline.control_s, baseline.metric)
