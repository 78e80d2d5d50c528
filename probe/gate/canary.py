"""Does a training run still learn as a recorded good one did? Loss, gradient norms, loss scale and step time, by step.

For changes of the infrastructure: a driver, a library, a node. The program runs once, unchanged; what it computes is
caught at `backward()` (the loss), before each optimizer step (the norm of all gradients) and from torch's GradScaler.
The first run of a baseline that does not exist records it.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from probe.errors import InputError
from probe.files import write_report
from probe.gate.command import Command
from probe.gate.losses import Losses
from probe.program import hooks
from probe.program.imported import OnImport
from probe.program.main_module import Program, run_main
from probe.schema import to_jsonable

SCHEMA = "probe.canary/1"
SERIES = ("loss", "gradient_norm", "loss_scale")
TOLERANCE = 1e-3  # relative; a few steps apart rounding grows, so that the loss curves are compared smoothed too
SLOWER = 0.1  # of the step time: told, not held against it
FEWEST = 5

Kind = Literal["bitwise", "within tolerance", "diverges", "not finite", "too short", "missing"]


@dataclass(frozen=True)
class Curve:
    """What a run computed, by optimizer step; None where it was not known."""

    command: str
    torch: str
    device: str
    step_s: list[float] = field(default_factory=list)
    loss: list[float | None] = field(default_factory=list)
    gradient_norm: list[float | None] = field(default_factory=list)
    loss_scale: list[float | None] = field(default_factory=list)
    schema: str = SCHEMA


@dataclass(frozen=True)
class Found:
    """The new run beside the good one."""

    verdict: Literal["pass", "fail"]
    summary: str
    kinds: dict[str, Kind]  # by series
    first_step: dict[str, int | None]  # where a series leaves its tolerance
    worst_fraction: dict[str, float | None]  # largest relative difference
    step_ratio: float | None  # median step time, new by good
    steps: int
    schema: str = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """The object that --json prints."""
        found: dict[str, Any] = to_jsonable(asdict(self))
        return found


def observe(command: Command) -> tuple[Curve, int]:
    """Run the program here, once; what it computed, and its exit code."""
    watch = _Watch()
    imports = OnImport()
    hooks.listen(watch, imports)
    imports.do("torch.autograd", watch.losses.catch)
    imports.do("torch.optim.optimizer", watch.catch_gradients)
    imports.do("torch.amp.grad_scaler", watch.catch_scale)
    try:
        end = run_main(Program(command.target, command.arguments, command.module))
    finally:
        imports.forget()
    torch = sys.modules.get("torch")
    if torch is None or not watch.step_s:
        raise InputError(f"{command}: no optimizer stepped; the canary needs a program that trains")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() and torch.cuda.is_initialized() else "cpu"
    curve = Curve(str(command), torch.__version__, device, watch.step_s, watch.loss, watch.norm, watch.scale)
    return curve, end.exit_code


class _Watch:
    """Hears of losses, gradients and steps."""

    def __init__(self) -> None:
        self.step_s: list[float] = []
        self.loss: list[float | None] = []
        self.norm: list[float | None] = []
        self.scale: list[float | None] = []
        self.losses = Losses()
        self.failure: str | None = None
        self._norm: Any = None  # squares of the gradients' norms, each on its device
        self._scaler: Any = None
        self._at = time.perf_counter()

    def catch_gradients(self, module: Any) -> None:
        """Take the norm of all gradients before each step."""
        module.register_optimizer_step_pre_hook(lambda optimizer, *_: self._guarded(self._take_norm, optimizer))

    def _guarded(self, act: Callable[..., None], *args: Any) -> None:
        """Nothing of the canary's reaches the program: what cannot be read is unknown."""
        try:
            act(*args)
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"

    def catch_scale(self, module: Any) -> None:
        """Remember the scaler when it is first used."""
        step = module.GradScaler.step

        def caught(scaler: Any, *args: Any, **kwargs: Any) -> Any:
            self._scaler = scaler
            return step(scaler, *args, **kwargs)

        module.GradScaler.step = caught

    def _take_norm(self, optimizer: Any) -> None:
        torch = sys.modules["torch"]
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        dense = [g for g in gradients if not g.is_sparse]
        with torch.no_grad():
            squares = [torch.linalg.vector_norm(g).float().square() for g in dense]
            self._norm = squares or None

    def optimizer_made(self) -> None:
        """Nothing."""

    def optimizer_stepped(self, optimizer: Any) -> None:
        """A step: read what was kept; the values wait for the device, as a program that logs does."""
        self._guarded(self._read)
        now = time.perf_counter()
        self.step_s.append(now - self._at)
        self._at = now

    def _read(self) -> None:
        for series in (self.loss, self.norm, self.scale):
            series.append(None)  # of this step, until it is read
        scale = float(self._scaler.get_scale()) if self._scaler is not None else None
        losses = [float(loss) / (scale or 1.0) for loss in self.losses.taken()]
        norm, self._norm = self._norm, None
        self.scale[-1] = scale
        self.loss[-1] = statistics.fmean(losses) if losses else None
        self.norm[-1] = math.sqrt(math.fsum(float(square) for square in norm)) if norm is not None else None

    def asks_for_batch(self) -> None:
        """Nothing."""

    def got_batch(self, batch: object, waited_ns: int) -> None:
        """Nothing."""

    def called(self) -> None:
        """Nothing."""


def store(curve: Curve, path: Path) -> None:
    """Write the good run."""
    write_report(path, (json.dumps(to_jsonable(asdict(curve)), indent=1) + "\n").encode())


def load(path: Path) -> Curve:
    """A recorded good run. Raises InputError for what is none."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Curve)
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no recorded canary ({error}); record it again") from None
    if found.schema != SCHEMA:
        raise InputError(f"{path}: its schema is {found.schema}, this probe reads {SCHEMA}; record it again")
    return found


def compare(good: Curve, new: Curve, tolerance: float = TOLERANCE, *, bitwise: bool = False) -> Found:
    """Series by series over the steps that both have; a difference of less than `tolerance` is rounding."""
    steps = min(len(good.step_s), len(new.step_s))
    rows = {name: _compared(getattr(good, name)[:steps], getattr(new, name)[:steps], tolerance) for name in SERIES}
    kinds: dict[str, Kind] = {name: row[0] for name, row in rows.items() if row is not None}
    kinds |= {name: "missing" for name in SERIES if rows[name] is None and _known(getattr(good, name))}
    if not kinds:
        raise InputError("the recorded run has no loss, no gradients and no loss scale: there is nothing to compare")
    if steps < FEWEST or len(new.step_s) < len(good.step_s):
        kinds = dict.fromkeys(kinds, "too short")
    wanted = {"bitwise"} if bitwise else {"bitwise", "within tolerance"}
    bad = [name for name, kind in kinds.items() if kind not in wanted]
    ratio = _ratio(good.step_s[1:steps], new.step_s[1:steps])
    return Found(
        verdict="fail" if bad else "pass",
        summary=_summary(kinds, bad, rows, (len(good.step_s), len(new.step_s)), ratio),
        kinds=kinds,
        first_step={name: row[1] for name, row in rows.items() if row is not None},
        worst_fraction={name: row[2] for name, row in rows.items() if row is not None},
        step_ratio=ratio,
        steps=steps,
    )


def _known(series: Sequence[float | None]) -> bool:
    return any(value is not None for value in series)


def _compared(
    good: Sequence[float | None], new: Sequence[float | None], tolerance: float
) -> tuple[Kind, int | None, float | None] | None:
    """What one series is, the first step outside, and its largest relative difference; None where it is unknown."""
    pairs = [(step, g, n) for step, (g, n) in enumerate(zip(good, new, strict=True)) if g is not None and n is not None]
    if not pairs:
        return None
    for step, g, n in pairs:
        if math.isfinite(g) and not math.isfinite(n):
            return "not finite", step, None
    apart = [(step, abs(n - g) / max(abs(g), 1e-12)) for step, g, n in pairs if math.isfinite(g)]
    worst = max((fraction for _, fraction in apart), default=0.0)
    if all(g == n or not math.isfinite(g) for _, g, n in pairs):
        return "bitwise", None, 0.0
    first = next((step for step, fraction in apart if fraction > tolerance), None)
    return ("within tolerance" if first is None else "diverges"), first, worst


def _ratio(good: Sequence[float], new: Sequence[float]) -> float | None:
    return statistics.median(new) / statistics.median(good) if good and new else None


def _summary(
    kinds: dict[str, Kind], bad: list[str], rows: dict[str, Any], steps: tuple[int, int], ratio: float | None
) -> str:
    pace = f"; a step takes {ratio:.2f}× the time" if ratio is not None and abs(ratio - 1) > SLOWER else ""
    if not bad:
        exact = all(kind == "bitwise" for kind in kinds.values())
        return f"{min(steps)} steps are {'bit-identical to' if exact else 'as'} the recorded run{pace}"
    name = bad[0]
    words = name.replace("_", " ")
    if kinds[name] == "too short":
        return f"{steps[1]} steps were made, {max(steps[0], FEWEST)} are needed to compare"
    if kinds[name] == "missing":
        return f"{words} was recorded, and is not known of this run"
    if kinds[name] == "not finite":
        return f"{words} is not finite from step {rows[name][1]} on{pace}"
    if rows[name][1] is None:
        return f"{words} is not bit-identical (at most {rows[name][2]:.2g} apart){pace}"
    return f"{words} leaves the recorded run at step {rows[name][1]} (up to {rows[name][2]:.2g} apart){pace}"
