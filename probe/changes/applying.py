"""What does a change do to a whole step? The program with and without it in fresh processes, alternately.

Times come from sessions of the gate (probe.gate.session), with the program's own files on both sides; losses step by
step, held against how far the unchanged program differs from itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from probe.analyzers.gates.sequential import LOOKS, Bounds, bounds
from probe.errors import UsageError
from probe.examine.examine import Request, examine
from probe.examine.sources import Named, RunSource, find
from probe.gate.check import LONGEST_S, SESSION_PART
from probe.gate.checkout import Checkout, here
from probe.gate.command import Command, command_of
from probe.gate.session import Plan, Taken, take
from probe.gate.workers import Start, workers
from probe.results.findings import Verdict
from probe.results.step_effect import FEWEST_LOSSES, StepEffect
from probe.runs.run import Run
from probe.session.snapshot import MASK
from probe.units import significant
from probe.verify.verdict import Memory

SAME = math.log(1.01)  # a step within 1 % either way is called no different
LOSS_TOLERANCE = 1e-3  # relative, as the canary's: less is rounding that grew
OWN_FACTOR = 2.0  # the losses may differ by so much more than those of two unchanged runs


@dataclass(frozen=True)
class Sought:
    """What to apply to what. apply: MODULE:FUNC or FILE.py:FUNC; predicted_speedup: as its suggestions stated it."""

    apply: str
    command: Command
    cwd: Path
    budget_s: float
    predicted_speedup: float | None = None
    seed: int = 0


def apply_to(
    source: Named, apply: str, words: tuple[str, ...], codes: tuple[str, ...], budget_s: float,
    progress: Callable[[str], None],
) -> StepEffect:  # fmt: skip
    """The effect of `apply` on a step. Raises UsageError for what cannot be run."""
    if not budget_s > 0:
        raise UsageError(f"--budget {budget_s:g}: give seconds above 0")
    if words:
        command, cwd = command_of(words), Path.cwd()
    else:
        found = find(source)
        if not isinstance(found, RunSource):
            raise UsageError("a trace does not say how its program is started; add -- python train.py …")
        command, cwd = recorded_command(found.run)
    function = checked(apply, command)
    predicted = predicted_speedup(source, codes) if codes else None
    return measured(Sought(function, command, cwd, budget_s, predicted), progress)


def predicted_speedup(source: Named, codes: tuple[str, ...]) -> float | None:
    """Of the step, by the savings of the findings of these rules; None where they state none."""
    findings = examine(source, Request()).analysis.findings
    fraction = sum(f.saving_fraction or 0.0 for f in findings if f.code in codes)
    return 1 / (1 - fraction) if 0 < fraction < 1 else None


def checked(apply: str, command: Command) -> str:
    """The text, if it can name a function that is not the program's own. Raises UsageError."""
    name, colon, function = apply.rpartition(":")
    parts = [name] if name.endswith(".py") else name.split(".")
    if not colon or not function.isidentifier() or not (name.endswith(".py") or all(p.isidentifier() for p in parts)):
        raise UsageError(f"--apply {apply}: give MODULE:FUNC or FILE.py:FUNC")
    if name.endswith(".py") and not Path(name).is_file():
        raise UsageError(f"--apply {apply}: there is no file {name}")
    own = Path(command.target).stem if not command.module else command.target
    if command.target and (
        name == own or (name.endswith(".py") and Path(name).resolve() == Path(command.target).resolve())
    ):
        raise UsageError(f"--apply {apply}: importing the program would run it; put {function} into a file of its own")
    return f"{Path(name).resolve()}:{function}" if name.endswith(".py") else apply


def _is_program(name: str, command: Command) -> bool:
    """Whether a module or file is the program itself."""
    if command.module or not name.endswith(".py"):
        return name == (command.target if command.module else Path(command.target).stem)
    return Path(name).resolve() == Path(command.target).resolve()


def recorded_command(run: Run) -> tuple[Command, Path]:
    """How the run's program was started, and where. Raises UsageError where the record does not say enough."""
    told = run.main.command
    argv, cwd = [str(word) for word in told.get("argv", ())], Path(str(told.get("cwd", ".")))
    remedy = "give it: probe verify RUN --apply MODULE:FUNC -- python train.py …"
    if not argv or not argv[0].endswith(".py"):
        raise UsageError(f"the run does not say what its program was; {remedy}")
    if any(MASK in word for word in argv):
        raise UsageError(f"a secret of the recorded command line was not kept; {remedy}")
    script = cwd / argv[0]
    if not script.is_file():
        raise UsageError(f"the run's program {script} is not here; {remedy}")
    return replace(command_of([str(script)]), arguments=tuple(argv[1:])), cwd


@dataclass
class _Sessions:
    """What was taken so far."""

    taken: list[Taken] = field(default_factory=list)
    losses: list[tuple[list[float | None], list[float | None]]] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    @property
    def bounds(self) -> Bounds:
        """Of the speed-up: old / new."""
        return bounds([-one.session.blocks.log_ratio for one in self.taken])


def measured(sought: Sought, progress: Callable[[str], None] = lambda text: None) -> StepEffect:
    """Sessions until the step's ratio is known or the budget is spent.

    Raises UsageError for a function that was never called, InputError where the program fails, with its last words.
    """
    begin, longest_s = time.monotonic(), 0.0
    version, found = here(sought.cwd), _Sessions()
    while len(found.taken) < LOOKS[-1]:
        started = time.monotonic()
        left_s = sought.budget_s - (started - begin)
        if found.taken and left_s < longest_s and len(found.taken) >= LOOKS[0]:
            break
        if len(found.taken) > 1 and left_s <= 0:
            break
        _session(sought, version, found)
        longest_s = max(longest_s, time.monotonic() - started)
        progress(f"session {len(found.taken)}: {_ratio(found.bounds)}")
        if len(found.taken) in LOOKS and _pace(found.bounds) != "unknown":
            break
    return _judged(sought, found)


def _session(sought: Sought, version: Checkout, found: _Sessions) -> None:
    number = len(found.taken)
    plan = Plan(min(sought.budget_s / SESSION_PART, LONGEST_S), trace=not number, seed=sought.seed + number)
    task = replace(sought.command.task(version), losses=True)
    sides = (("without it", task), (f"with {sought.apply}", replace(task, apply=sought.apply)))
    starts: tuple[Start, ...] = tuple((name, one, sought.cwd, version.python, {}) for name, one in sides)
    with workers(*starts) as (old, new):
        taken = take(old, new, plan)
        if taken.new.changed is None:
            raise UsageError(
                f"--apply {sought.apply}: it takes a model, and the program made no optimizer for one; "
                "let it take nothing and change classes or functions"
            )
        found.taken.append(taken)
        found.losses.append((old.losses, new.losses))
        found.changed = taken.new.changed


def _judged(sought: Sought, found: _Sessions) -> StepEffect:
    """The numbers of all sessions, and what they amount to."""
    first, between = found.taken[0], found.bounds
    memory = Memory(*(_peak(counts) for counts in (first.session.base_counts, first.session.new_counts)))
    steps, apart = _apart(found.losses)
    own = _own(found.losses)
    verdict, reason = _verdict(between, memory, steps, apart, own)
    before, after = (_median_s(found.taken, side) for side in ("base", "new"))
    finite = math.isfinite(between.lower)
    return StepEffect(
        verdict, reason, sought.apply, str(sought.command), tuple(found.changed),
        "wall_time" if first.new.on_gpu else "cpu_time", before, after, between.ratio,
        between.interval if finite else None, between.n, sought.predicted_speedup, steps, apart, own,
        memory.before_bytes, memory.after_bytes, _device(first), first.new.torch, _warnings(found),
    )  # fmt: skip


def _median_s(taken: Sequence[Taken], side: str) -> float:
    import numpy as np

    return float(np.median(np.concatenate([getattr(one.session.blocks, side) for one in taken])))


def _peak(counts: Any) -> int | None:
    found = counts.get("peak_memory_bytes")
    return int(found.most) if found is not None else None


def _device(taken: Taken) -> str:
    if taken.new.on_gpu:
        return taken.new.device
    from probe.machine.environment import cpu_device

    return cpu_device().name


def _warnings(found: _Sessions) -> tuple[str, ...]:
    if found.changed:
        return ()
    return ("no module, class or function of torch was seen to change; let the function return what it did",)


Losses = Sequence[float | None]


def _apart(pairs: Sequence[tuple[Losses, Losses]]) -> tuple[int, float | None]:
    """How many steps have a loss on both sides in each pair, and the largest relative difference of all."""
    known = [[(a, b) for a, b in zip(*pair, strict=False) if a is not None and b is not None] for pair in pairs]
    steps = min(map(len, known), default=0)
    if steps < FEWEST_LOSSES:
        return steps, None
    return steps, max(_difference(a, b) for pair in known for a, b in pair[:steps])


def _difference(before: float, after: float) -> float:
    """Relative; infinite where only the second is no number."""
    if not math.isfinite(before):
        return 0.0
    return abs(after - before) / max(abs(before), 1e-12) if math.isfinite(after) else math.inf


def _own(losses: Sequence[tuple[Losses, Losses]]) -> float | None:
    """How far the unchanged program differs from itself, over the sessions."""
    first = losses[0][0]
    return _apart([(first, later[0]) for later in losses[1:]])[1] if len(losses) > 1 else None


def _pace(found: Bounds) -> str:
    """What the interval says of the step."""
    if found.n < LOOKS[0]:
        return "unknown"
    if found.lower > 0:
        return "faster"
    if found.upper < 0:
        return "slower"
    return "same" if found.lower > -SAME and found.upper < SAME else "unknown"


def _verdict(found: Bounds, memory: Memory, steps: int, apart: float | None, own: float | None) -> tuple[Verdict, str]:
    """Losses first: a change that learns otherwise is no replacement."""
    wrong = _wrong(steps, apart, own)
    if wrong:
        return "reject", wrong
    pace, ratio = _pace(found), _ratio(found)
    if pace == "faster":
        return ("trade", f"faster ({ratio}), but {memory}") if memory.change == "more" else ("accept", ratio)
    if pace == "unknown":
        return "inconclusive", f"the sessions do not decide: {ratio}; raise the budget or quieten the machine"
    if memory.change == "less":
        return "trade", f"{'slower' if pace == 'slower' else 'no faster'} ({ratio}), but {memory}"
    return ("reject", f"slower: {ratio}") if pace == "slower" else ("inconclusive", f"no difference: {ratio}")


def _wrong(steps: int, apart: float | None, own: float | None) -> str:
    """Why the losses are not the unchanged program's; "" where they are, or where nothing is known."""
    if apart is None or apart <= max(LOSS_TOLERANCE, OWN_FACTOR * (own or 0.0)):
        return ""
    itself = f"; the unchanged program differs from itself by {own:.1g}" if own is not None else ""
    return f"learns otherwise: the loss differs by up to {apart:.1g} over {steps} steps{itself}"


def _ratio(found: Bounds) -> str:
    """1.21× [1.10, 1.33] over 5 sessions."""
    if not math.isfinite(found.lower):
        return f"{significant(found.ratio)}× in one session"
    low, high = found.interval
    return f"{significant(found.ratio)}× [{significant(low)}, {significant(high)}] over {found.n} sessions"
