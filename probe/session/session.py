"""What is `probe.profile`? One training loop under observation, and never in its way.

Nothing that probe does raises into the loop: every entry point runs under a guard (guard.py) that turns an error into
a warning and gives up recording; the user's own exceptions pass unchanged. What this module owns is the life of a
session: from new over open to closed, and what is written when. The phases are in schedule.py, the format in
probe/runs/run.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from threading import get_ident
from time import perf_counter_ns
from types import TracebackType
from typing import Any, TypeVar, cast

from probe.collectors.telemetry import Telemetry, settings_of
from probe.errors import ProbeError, UsageError
from probe.runs.run import Cycle, RankPart, is_run, part_name, write_part
from probe.session import ownership, snapshot
from probe.session.annotation import annotate, note_phases
from probe.session.batches import Batches
from probe.session.beside import begun
from probe.session.closing import Closing, last_line, say
from probe.session.following import EVERY_S, Followers, Tell
from probe.session.graph import GraphOfModel
from probe.session.guard import Guard
from probe.session.launch import Place, default_path, find_place, join_directory
from probe.session.modules import ModuleRanges
from probe.session.off import OFF, NoAnalysis
from probe.session.options import Options, as_memory, as_ranks
from probe.session.requests import NO_REQUEST, Request, RequestLog
from probe.session.schedule import Tracer
from probe.session.steps import NEVER, StepLog

__all__ = ["NoAnalysis", "Session", "annotate", "profile"]

ANALYSE: Callable[[Path], Any] | None = None  # set by whoever imports the analyzer, which is above this module

_NOBODY = -1  # no thread has this identity

_Item = TypeVar("_Item")


def profile(
    path: str | os.PathLike[str] | None = None,
    *,
    wait: int = 5,
    warmup: int = 3,
    active: int = 3,
    repeat: int = 1,
    enabled: bool = True,
    ranks: str | Sequence[int] = "first",
    memory: bool | str = False,
    stacks: bool = False,
    telemetry: bool | Mapping[str, Any] = True,
    tags: Mapping[str, Any] | None = None,
    model: object = None,
    max_pause_s: float = 1.0,
    every_s: float | None = None,
    slow: float | None = None,
    on_demand: bool | None = None,
    keep: int | None = None,
    max_bytes: int | None = None,
) -> Session:
    """Observe a training loop: `with profile("runs/exp1") as prof:` around it, `prof.step()` at each step's end.

    Every step is timed on every rank. On the recording ranks, after `wait` and `warmup` steps, `active` ones are
    traced, `repeat` times; fewer where ending the recording would pause training for more than `max_pause_s` seconds.
    path: the run directory, by default a fresh one under ./runs; one that holds a run is kept, the new goes beside it.
    ranks: "first", "all", a list, or "slowest" (the one whose waiting steps take longest).
    memory: record allocations; "snapshot": and what CUDA's allocator holds, for PyTorch's viewer. stacks: Python stacks
    (dear). model: names its modules in the traces, and its graph is
    captured when the block ends.
    telemetry: what device and host did meanwhile; a dictionary sets rates and limits (docs/telemetry.md).
    every_s: after those, record again and again, at most once in so many seconds. slow: record where a step takes this
    many times the p95 of the bare ones. on_demand: record when the file `trigger` in the run directory is touched, or
    SIGUSR2 comes; by default with every_s= or slow=. keep, max_bytes: of the traces (docs/programs.md, "For ever").
    enabled=False costs nothing.
    Raises UsageError for options that make no sense; nothing else, ever.
    """
    if not enabled:
        return cast(Session, OFF)
    if not isinstance(path, (str, os.PathLike, type(None))):
        raise UsageError(f"profile({path!r}): give the path of a run directory, or nothing")
    if tags is not None and not isinstance(tags, Mapping):
        raise UsageError(f"profile(tags={tags!r}): give a dictionary such as {{'team': 'vision'}}")
    settings_of(telemetry)  # refused now, not once training has begun
    beside = dict(telemetry) if isinstance(telemetry, Mapping) else telemetry
    asked = bool(on_demand) if on_demand is not None else every_s is not None or slow is not None
    options = Options(
        wait, warmup, active, repeat, as_ranks(ranks), as_memory(memory), bool(stacks), beside, max_pause_s, every_s,
        slow, asked, keep, max_bytes,
    )  # fmt: skip
    return Session(Path(path) if path is not None else None, options, dict(tags or {}), model=model)


class Session:
    """A loop under observation; made by `profile`. Use it as a context manager, once.

    `path` is the run directory (None where there is none), `warnings` what went wrong or was left out; set `quiet` to
    be spared the line at the end.
    """

    path: Path | None
    warnings: list[str]

    def __init__(
        self, path: Path | None, options: Options, tags: dict[str, Any], *, model: object = None, graph: bool = True
    ) -> None:
        self.path = None
        self._guard = Guard(self._give_up)
        self._warn = self._guard.warn
        self.warnings = self._guard.warnings
        self.quiet = False  # True: no line at the end
        self.options = options
        self._asked = path
        self._tags = tags
        self._modules = ModuleRanges(model, self._warn) if model is not None else None
        self._graph = GraphOfModel(model, self._warn, options.max_pause_s) if model is not None and graph else None
        self._log = StepLog()
        self._keep = self._log.durations_ns.append
        self._mask = 0  # steps with a bit of it set are not kept
        self._requests = RequestLog()
        self._followers = Followers(self._log, self._warn)
        self._tracer: Tracer | None = None
        self._telemetry: Telemetry | None = None
        self._place = Place()
        self._part = RankPart()
        self._thread = _NOBODY  # only this thread's steps count; _NOBODY before, after, and where inert
        self._state = "new"  # "new" | "open" | "inert" | "closed"
        self._depth = 0  # of a second `with` on the same session
        self._steps = 0
        self._due = NEVER
        self._begin = 0  # ns: start of the current step
        self._opened = 0  # ns: start of the block
        self._waited = 0  # ns: wait for data in the current step
        self._closing = Closing()

    def __enter__(self) -> Session:
        if self._state != "new":
            self._depth += 1
            self._warn("this profile was entered a second time; the second block is not observed")
            return self
        self._state = "inert"
        self._guard("starting", self._open)
        self._begin = self._opened = perf_counter_ns()
        if self._telemetry is not None and self._tracer is not None:
            self._telemetry.mark(self._tracer.phase, 0, self._begin, self._begin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._depth:
            self._depth -= 1
            return
        self._close("finished" if kind is None else f"raised: {kind.__name__}", raised=kind is not None)

    def step(self, samples: float | None = None, tokens: float | None = None, micro_batches: int = 1) -> None:
        """One step (with gradient accumulation: one optimizer step) has ended.

        samples, tokens: processed in it, for throughput. micro_batches: into how many the step is divided.
        """
        now = perf_counter_ns()
        if get_ident() != self._thread:
            self._step_ignored()
            return
        step = self._steps
        if not step & self._mask:
            self._keep(now - self._begin)
        if self._waited or samples is not None or tokens is not None or micro_batches != 1:
            self._note_step(samples, tokens, micro_batches)
        self._steps = step = step + 1
        if step < self._due:
            self._begin = now
        else:
            self._edge(step, now)

    def batches(self, iterable: Iterable[_Item]) -> Iterable[_Item]:
        """The same items; the time the loop waits for each is measured and kept with its step."""
        return Batches(iterable, self.add_wait) if self._thread != _NOBODY else iterable

    def add_wait(self, wait_ns: int) -> None:
        """The loop has waited for its data, in its own thread; `batches` measures it, others may tell it."""
        if get_ident() == self._thread:  # else a prefetching thread of the user's: its waits are not the loop's
            self._waited += wait_ns

    def metric(self, name: str, value: float, unit: str = "") -> None:
        """Keep a number of the user's with the current step: a loss, a learning rate."""
        if get_ident() != self._thread:
            self._step_ignored("metric()")
        elif not isinstance(value, Real):
            self._warn(f"metric({name!r}): a {type(value).__name__} was ignored; give a number, such as tensor.item()")
        else:
            self._log.add_metric(str(name), self._steps, float(value), str(unit))

    def follow(self, tell: Tell, *, every_s: float = EVERY_S, close: Callable[[], None] | None = None) -> None:
        """Tell somebody about the steps while the run goes on: `tell(step, {name: value})`, on the loop's thread.

        Of many steps the means. One who raises is told no more. `close` is called when the run ends.
        """
        if self._state != "open":
            self._warn("follow() was called outside of the `with` block; nobody is told")
            return
        self._followers.add(tell, every_s, close)
        self._due = min(self._due, self._steps + 1)

    def request(self, prompt_tokens: int | None = None) -> Request:
        """A request to the program as a server has arrived: `with session.request() as r:`, `r.token()` at each token.

        For any thread; a handle without `with` is ended by `r.end()`.
        """
        return Request(self._requests, prompt_tokens) if self._state == "open" else NO_REQUEST

    def analysis(self) -> Any:
        """What `probe analyze` says of this run; prints as its report. Where there is none, as the reason."""
        if self.path is None:
            return NoAnalysis(self.warnings[0] if self.warnings else "the loop has not been observed")
        if ANALYSE is None:
            return NoAnalysis(f"the analyzer is not loaded; run: probe analyze {self.path}")
        try:
            return ANALYSE(self.path)
        except ProbeError as error:
            return NoAnalysis(str(error))
        except Exception as error:  # a defect of the analyzer's must not end the training script
            return NoAnalysis(f"{type(error).__name__}: {error}; run: probe analyze {self.path}")

    # --- what follows runs under the guard ----------------------------------------------------------------------

    def _give_up(self, doing: str) -> None:
        tracer = self._tracer
        if tracer is None:
            return
        tracer.reason = tracer.reason or f"{doing} failed: {self.warnings[-1] if self.warnings else 'unknown'}"
        try:
            tracer.abandon()
        except Exception as error:
            self._warn(f"ending the recording failed: {type(error).__name__}: {error}")

    def _open(self) -> None:
        """Take the process, a directory, and begin the first cycle."""
        if not ownership.take(self):
            self._warn("another probe.profile is open in this process; this one observes nothing")
            return
        self._state = "open"
        self._thread = get_ident()
        self._due = self._log.full_at
        self._log.add_phase("wait", 0)
        self._place = find_place()
        self._guard("making the run directory", self._make_directory)
        if self.path is None:
            return
        self._tracer = Tracer(self.options, self._place, self.path, self._log, self._warn, self._modules)
        self._guard("starting the profiler", self._tracer.start)
        self._follow_model()
        self._guard("describing the machine", self._describe)
        self._telemetry = begun(self.options, self._place, self.path, self._warn)
        note_phases(self._telemetry.phases if self._telemetry is not None else None)
        self._guard("writing the run", self._save)
        self._due = min(self._tracer.due, self._log.full_at)

    def _describe(self) -> None:
        self._part = snapshot.describe(self._place, self.options, self._tags)

    def _make_directory(self) -> None:
        asked = self._asked or default_path(self._place)
        part = part_name(self._place.rank)
        self.path, as_asked = join_directory(asked, self._place, part, is_run)
        if not as_asked:
            what = "is a file" if asked.is_file() else "holds a run and is kept"
            self._warn(f"{asked} {what}; this one is in {self.path}")

    def _edge(self, step: int, now: int) -> None:
        """A phase may have ended, or the log be full. The time spent here belongs to no step."""
        if step >= self._log.full_at:
            self._log.thin()
            self._mask = self._log.stride - 1
        tracer = self._tracer
        if tracer is not None and step >= tracer.due:
            ended = self._guard("recording", tracer.edge, step, now - self._begin)
            self._follow_model()
            if ended or tracer.due == NEVER:
                self._guard("writing the run", self._save)
        self._due = min(tracer.due if tracer is not None else NEVER, self._log.full_at)
        self._due = min(self._due, self._followers.tell(step, now - self._begin))
        if self._telemetry is not None and tracer is not None:
            self._telemetry.mark(tracer.phase, step, perf_counter_ns(), now)
        self._begin = perf_counter_ns()
        self._requests.pause(now, self._begin)

    def _follow_model(self) -> None:
        """Look at the model's calls in the phases before recording."""
        if self._graph is not None and self._tracer is not None and self._tracer.reason is None:
            self._graph.follow(self._tracer.phase)

    def _note_step(self, samples: Any, tokens: Any, micro_batches: Any) -> None:
        values: dict[str, float] = {"data_wait_ns": float(self._waited)}
        self._waited = 0
        for name, value in (("samples", samples), ("tokens", tokens), ("micro_batches", micro_batches)):
            if type(value) is int or isinstance(value, (float, Real)):  # the common types first: Real is slow to ask
                values[name] = float(value)
            elif value is not None:  # float() of a tensor would wait for the device
                self._warn(f"step({name}=…): a {type(value).__name__} was ignored; give a number")
        self._log.note(self._steps, **values)

    def _step_ignored(self, what: str = "step()") -> None:
        if self._state == "open" and self._thread != _NOBODY:
            self._warn(f"{what} was called in another thread than the one that entered; it was ignored")
        elif self._state == "new":
            self._warn(f"{what} was called outside of the `with` block; nothing was observed")

    def _close(self, status: str, *, raised: bool) -> None:
        if self._state != "open":
            return
        self._state = "closed"
        forked = self._thread == _NOBODY
        self._thread = _NOBODY
        if not forked:
            try:
                self._guard("ending the run", self._finish, status, raised=raised)
            finally:
                ownership.release(self)

    def _finish(self, status: str, *, raised: bool) -> None:
        ended_ns = self._closing.begin()
        duration_s = (ended_ns - self._opened) * 1e-9
        if not self._steps:
            self._warn(f"no step() was called in {duration_s:.2f} s: call prof.step() at the end of each step")
        if self._tracer is not None:
            self._guard("ending the recording", self._tracer.finish, self._steps, raised=raised)
            self._closing.done("recording")
            if self._tracer.reason and self._tracer.chosen and not self._traces:
                self._warn(f"no trace: {self._tracer.reason}")
        if self._graph is not None:
            self._graph.leave()
            if self._traces and self.path is not None and not raised:
                self._graph.write(self.path, self._place.rank)
                self._closing.done("graph")
        note_phases(None)
        if self._telemetry is not None:
            self._telemetry.stop(ended_ns)
            self._closing.done("telemetry")
        self._followers.end(self._steps)
        self._requests.pause(ended_ns, perf_counter_ns())
        self._guard("writing the run", self._save, status)
        if self._place.rank == 0 and not self.quiet:
            closing = self._closing.told(self.options.max_pause_s)
            say(last_line(self.path, self._steps, self._cycles, self.warnings, closing))

    @property
    def _cycles(self) -> tuple[Cycle, ...]:
        return tuple(self._tracer.cycles) if self._tracer is not None else ()

    @property
    def _traces(self) -> list[Cycle]:
        return [cycle for cycle in self._cycles if cycle.file]

    def _save(self, status: str = "running") -> None:
        """Write this rank's part as it is now."""
        if self.path is None:
            return
        reason = self._tracer.reason if self._tracer is not None else None
        waits = "data_wait_ns" in self._log.columns
        graph = self._graph
        part = replace(
            self._part,
            status=status,
            duration_s=(perf_counter_ns() - self._opened) * 1e-9,
            steps=snapshot.step_times(self._log, self._steps),
            metrics=snapshot.metrics(self._log),
            cycles=self._cycles,
            collected=snapshot.collected(
                self.options,
                self._cycles,
                self._steps,
                reason,
                waits=waits,
                graph=graph.state if graph is not None else None,
                modules=self._modules is not None,
                telemetry=self._telemetry.collected() if self._telemetry is not None else "it failed to start",
            ),
            graph=graph.file if graph is not None else None,
            closing_s=dict(self._closing.seconds),
            requests=self._requests.times(self._opened),
            telemetry=self._telemetry.describe() if self._telemetry is not None else {},
            warnings=tuple(self.warnings),
        )
        write_part(self.path, part)

    def process_exits(self) -> None:
        """The interpreter exits inside of the block."""
        self._close("interpreter exited", raised=True)

    def process_forked(self) -> None:
        """This is a forked child: nothing here is the parent's loop."""
        self._thread = _NOBODY
        if self._tracer is not None:
            self._tracer.forget()
        self._tracer = None
        note_phases(None)
        if self._telemetry is not None:
            self._telemetry.forget()
            self._telemetry = None
        self._followers.forget()
