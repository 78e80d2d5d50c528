"""Which steps are recorded? The machine that walks through a cycle's phases.

A cycle is: wait - calibrate (the last waiting step) - warmup - active; after the last cycle comes `after`, for good.
The tracer acts only at the edges between phases and after each active step; in between, step() is two additions.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from pathlib import Path

from probe.collectors import execution_trace
from probe.collectors.execution_trace import TensorRecording
from probe.collectors.memory_history import MemoryHistory
from probe.collectors.pause_budget import FASTEST_EVENT_S, SAFETY, PauseModel, Plan, plan
from probe.collectors.torch_profiler import Marking, Recording, foreign_profiler, import_torch
from probe.runs.run import Cycle, memory_name, tensors_name, trace_name
from probe.session.closing import TELLING_S
from probe.session.launch import Place, exchanged, initialised_distributed
from probe.session.options import SNAPSHOT, Options, Phase
from probe.session.rotation import rotated
from probe.session.steps import NEVER, StepLog
from probe.session.threads import computing_threads
from probe.session.watch import Watch
from probe.trace import TENSORS_MARK

SLOWEST_WAIT_S = 5.0  # for the other ranks, which are at the same step
LONGER_STEP = 2.0  # recording alone can double a step's time; what is longer than that has more events


class Tracer:
    """Records the active steps of each cycle on this rank. Its methods may raise: the session guards every call.

    `due` is the number of steps after which `edge` must be called; `reason` says why there is no (further) trace, and
    `chosen` whether this rank was to record at all.
    """

    def __init__(
        self, options: Options, place: Place, directory: Path, log: StepLog, warn: Callable[[str], None],
        marking: Marking | None = None,
    ) -> None:  # fmt: skip
        self.options = options
        self.due = NEVER
        self.phase: Phase = "wait"
        self.cycles: list[Cycle] = []
        self.reason: str | None = None
        self.chosen = options.may_record(place.rank)
        self._place = place
        self._directory = directory
        self._log = log
        self._warn = warn
        self._marking = marking
        self._model = PauseModel(stacks=options.stacks)
        self._plan: Plan | None = None
        self._recording: Recording | None = None
        self._tensors: TensorRecording | None = None  # from the step it records until the cycle ends
        self._queue: list[tuple[Phase, int]] = []
        self._index = 0  # of the cycle
        self._first = 0  # active: its first step
        self._durations: list[int] = []  # active: of its complete steps
        self._bearable = False  # whether torch's observer of tensors bears what the calibration step called
        self._calibrated: tuple[int, int] | None = None  # duration (ns) and events of the calibration step
        self._events = 0.0  # active: estimated so far
        self._history = MemoryHistory() if options.memory == SNAPSHOT else None
        self._trigger: str | None = None  # what asked for the cycle
        self._watch = self._new_watch() if options.watches else None

    def start(self) -> None:
        """Enter the first cycle; on a rank that records this imports torch."""
        if not self.chosen:
            self._log.add_phase("wait", 0)
            self.reason = f"this is rank {self._place.rank}, and ranks={self.options.ranks!r} records others"
            return
        import_torch()
        if self._watch is not None:
            self._watch.begin()
        if self.options.repeat:
            self._enter_cycle(0)
        else:
            self._next_phase(0)

    def edge(self, steps: int, duration_ns: int) -> bool:
        """The step number steps-1 has ended and a phase with it, perhaps. Whether a cycle was completed."""
        if self._recording is not None:
            self._recording.end_mark()
        if self._tensors is not None and self.phase == "tensors":
            self._tensors.stop()
        if self.phase == "active":
            return self._after_active(steps, duration_ns)
        if self.phase == "calibrate":
            self._calibrate(duration_ns)
        if self.phase == "after" and self._watch is not None:
            self._look(self._watch, steps, duration_ns)
        else:
            self._next_phase(steps)
        return False

    def _new_watch(self) -> Watch:
        options = self.options
        lead = options.warmup + 1 + options.active // 2
        return Watch(
            self._log, self._directory, every_s=options.every_s, slow=options.slow, on_demand=options.on_demand,
            lead=lead,
        )  # fmt: skip

    def _look(self, watch: Watch, steps: int, duration_ns: int) -> None:
        """Between recordings: is one asked for? A profiler of the program's own is waited for."""
        asked = watch.look(steps)
        if asked is not None and self.reason is None and self._is_free():
            self._trigger = asked.why
            self._enter_cycle(steps, asked=True)
            return
        self.due = steps + watch.pace(duration_ns)
        planned = watch.until(steps)
        if planned is not None:
            self.due = min(self.due, planned)
        if self.reason is not None:
            self.due = NEVER

    def _is_free(self) -> bool:
        foreign = foreign_profiler()
        if foreign is not None:
            self._warn(f"a recording that was asked for was left out: {foreign}")
        return foreign is None

    def finish(self, steps: int, *, raised: bool) -> None:
        """The loop is over: keep what a recording in progress has, and say what is missing."""
        recording = self._recording
        if self._watch is not None:
            self._watch.end()
        if recording is not None:
            recording.end_mark()
        lost = recording is None or recording.lost
        if self.phase == "active" and not lost and (self._durations or raised):
            self._end_cycle(steps, early="the loop ended while it was being recorded", cut_short=steps)
        else:
            self.abandon()
        if self.reason is None and not any(cycle.file for cycle in self.cycles):
            needed = self.options.wait + self.options.warmup + 1
            self.reason = (
                "nothing asked for a recording"
                if not self.options.repeat
                else (
                    f"the loop ended after {steps} steps, and the first trace needs {needed} "
                    f"(wait={self.options.wait}, warmup={self.options.warmup}, then active ones)"
                )
            )

    def forget(self) -> None:
        """This is a forked child: nothing here listens to signals."""
        if self._watch is not None:
            self._watch.end()

    def abandon(self) -> None:
        """Stop recording without a trace, and record no more."""
        recording, self._recording = self._recording, None
        self._forget_tensors()
        if self._history is not None:
            self._history.stop()
        self.due = NEVER
        if recording is not None:
            recording.abandon()

    def _enter_cycle(self, steps: int, *, asked: bool = False) -> None:
        self._durations = []
        self._events = 0.0
        self._trigger = self._trigger if asked else None
        self._queue = self.options.phases(calibrated=self._plan is not None, asked=asked)
        self._next_phase(steps)

    def _next_phase(self, steps: int) -> None:
        """Enter the next phase that has a step, and do what it begins with."""
        length = 0
        while not length:
            self.phase, length = self._queue.pop(0) if self._queue else ("after", NEVER - steps)
        if self.phase in ("calibrate", "warmup", "tensors", "active") and not self._may_record():
            self.phase, length = "after", NEVER - steps
        self._log.add_phase("warmup" if self.phase == "tensors" else self.phase, steps)
        self.due = steps + length
        if self.phase == "after" and self._watch is not None and self.reason is None:
            self._rest(self._watch, steps)
        if self.phase == "calibrate":
            self._recording = self._new_recording(shapes=False)
            self._recording.start()
        elif self.phase in ("warmup", "tensors"):
            if self._recording is None:
                self._recording = self._new_recording(shapes=self._plan is None or self._plan.shapes)
                self._recording.prepare()
            if self.phase == "tensors":
                self._begin_tensors(steps)
        elif self.phase == "active":
            self._begin_active(steps)

    def _rest(self, watch: Watch, steps: int) -> None:
        """Nothing is recorded from now on, until something asks for it."""
        if not self.cycles and self.options.wait > 1:
            watch.learn(1, min(steps, self.options.wait - 1))
        watch.rest(steps)
        self.due = steps + 1

    def _may_record(self) -> bool:
        """Whether this cycle can and should be recorded; else the reason is kept."""
        if (
            self.reason is None
            and self.phase in ("warmup", "tensors", "active")
            and self._plan is not None
            and not self._plan.steps
        ):
            self.reason = self._plan.reason
            self._warn(f"no trace: {self.reason}")
        if self.phase == "calibrate" and self.options.ranks == "slowest":
            self.chosen = self._is_slowest()
        if not self.chosen:
            self.reason = "another rank was slower in the waiting steps"
        if self.reason is None and (self._recording is None or self._recording.state != "recording"):
            foreign = foreign_profiler()
            if foreign is not None:
                self._give_up(f"{foreign}; it is left alone")
        return self.reason is None

    def _is_slowest(self) -> bool:
        """Decided once, before the first cycle's last waiting step, by all ranks together."""
        if self._place.world_size == 1:
            return True
        distributed = initialised_distributed()
        if distributed is None:
            self._warn('ranks="slowest" needs torch.distributed to be initialised; rank 0 is recorded instead')
            return self._place.rank == 0
        mine = statistics.median(self._log.durations_ns[1:] or self._log.durations_ns)
        key = f"{self._place.launch}/{self._directory.name}"
        times = exchanged(distributed, key, float(mine), SLOWEST_WAIT_S)
        if times is None:
            self._warn(f'ranks="slowest": not every rank told its steps in {SLOWEST_WAIT_S:g} s; rank 0 is recorded')
            return self._place.rank == 0
        return bool(times.index(max(times)) == distributed.get_rank())

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        self._warn(f"no trace: {reason}")
        self.abandon()

    def _new_recording(self, *, shapes: bool) -> Recording:
        options = self.options
        return Recording(shapes=shapes, memory=bool(options.memory), stacks=options.stacks, marking=self._marking)

    def _calibrate(self, duration_ns: int) -> None:
        """Learn from the calibration step how many events a step has and what stopping costs here."""
        recording = self._recording
        if recording is None or recording.lost:
            self._give_up("the program's own profiler was started while probe calibrated; it is left alone")
            return
        recording.stop()
        self._recording = None
        events = recording.event_count()
        self._bearable = execution_trace.affordable(events) and execution_trace.bearable(recording.names())
        self._model.calibrate(recording.pause_s["stop"], events)
        self._calibrated = (max(duration_ns, 1), events)
        pause_s = recording.pause_s["stop"]
        if pause_s > max(self.options.max_pause_s, TELLING_S):  # nothing can end a recording in mid-step
            self._warn(
                f"counting the {events} events of one step paused training for {pause_s:.2f} s, more than "
                f"max_pause_s={self.options.max_pause_s:g}; repeat=0 records nothing, and counts nothing"
            )
        self._make_plan()

    def _make_plan(self) -> None:
        if self._calibrated is None:
            self._plan = None
            return
        self._plan = plan(self._model, self._calibrated[1], self.options.active, self.options.max_pause_s)

    def _begin_tensors(self, steps: int) -> None:
        """Record the next step for its tensors, where that costs little; else it is a warm-up step like the others."""
        if self._plan is None or not self._plan.shapes or self._calibrated is None:
            return
        if initialised_distributed() is not None or computing_threads():
            return  # torch's observer crashes where another thread runs operators while it starts or ends
        events = self._calibrated[1]
        whole = self._model.pause_s(events * (self._plan.steps + 1), shapes=True)
        if not self._bearable or whole > self.options.max_pause_s * SAFETY:
            return
        tensors = TensorRecording(self._directory)
        if not tensors.start():
            return
        self._tensors = tensors
        self._start_recording(steps + 1)
        assert self._recording is not None
        self._recording.mark(TENSORS_MARK)

    def _start_recording(self, first: int) -> None:
        assert self._recording is not None
        self._recording.add_metadata("probe", rank=self._place.rank, cycle=self._index, first_step=first)
        self._recording.start()

    def _forget_tensors(self) -> None:
        tensors, self._tensors = self._tensors, None
        if tensors is not None:
            tensors.forget()

    def _begin_active(self, steps: int) -> None:
        if self._recording is None:
            self._recording = self._new_recording(shapes=self._plan is None or self._plan.shapes)
        if self._recording.state != "recording":
            self._start_recording(steps)
        self._first = steps
        if self._history is not None:
            self._history.start()
        self._mark(steps)

    def _mark(self, steps: int) -> None:
        assert self._recording is not None
        self._recording.mark_step(steps)
        self.due = steps + 1

    def _after_active(self, steps: int, duration_ns: int) -> bool:
        recording = self._recording
        if recording is None or recording.lost:
            self._give_up("the program's own profiler was started while probe recorded; it is left alone")
            self._next_phase(steps)
            return False
        self._durations.append(duration_ns)
        if len(self._durations) < self._wanted and self._has_room(duration_ns):
            self._mark(steps)
            return False
        full = len(self._durations) >= self._wanted
        self._end_cycle(steps, early=None if full else "one more would have made the pause too long")
        return True

    @property
    def _wanted(self) -> int:
        return self.options.active if self._plan is None else self._plan.steps

    def _has_room(self, duration_ns: int) -> bool:
        """Whether one more step like those recorded still fits into the pause allowed.

        A step much longer than the calibration step (an evaluation, a larger batch) is taken to have more events in
        proportion. Without calibration the bound is that of a step of nothing but the smallest operators.
        """
        if self._calibrated is None:
            step = duration_ns * 1e-9 / FASTEST_EVENT_S
        else:
            usual_ns, events = self._calibrated
            step = events * max(1.0, duration_ns / (LONGER_STEP * usual_ns))
        self._events += step
        shapes = self._plan is None or self._plan.shapes
        return self._model.pause_s(self._events + step, shapes=shapes) <= self.options.max_pause_s

    def _end_cycle(self, steps: int, *, early: str | None = None, cut_short: int | None = None) -> None:
        """Stop, export, note the cycle and enter the next one. early: why it has fewer steps than were planned."""
        recording = self._recording  # kept until all is done: an interruption on the way leads to `finish`
        assert recording is not None
        self.due = NEVER
        recording.stop()
        shapes = self._plan is None or self._plan.shapes
        path = self._directory / trace_name(self._place.rank, self._index)
        tensors = self._keep_tensors()
        memory = self._keep_memory()
        try:
            size = recording.export(path, incomplete_step=cut_short)
        except OSError as error:
            if tensors is not None:
                (self._directory / tensors).unlink(missing_ok=True)
            self._note(recording, None, None, f"{type(error).__name__}: {error}", shapes=shapes)
            self._give_up(f"the trace could not be written: {os.strerror(error.errno) if error.errno else error}")
        else:
            less = self._why_less(early)
            self._note(recording, path.name, size, less, shapes=shapes, tensors=tensors, memory=memory)
            if less is not None and all(cycle.note is None for cycle in self.cycles[:-1]):  # of many cycles once
                more = "" if cut_short is not None and shapes else "; pass a larger max_pause_s= for more"
                self._warn(f"recorded less than asked: {less}{more}")
        self._recording = None
        self._index += 1
        self._make_room()
        self._after_cycle(steps, over=cut_short is not None)

    def _why_less(self, early: str | None) -> str | None:
        """What the cycle lacks of what was asked for, and why; None where it has all."""
        planned = self._plan.reason if self._plan is not None else None
        if early is None:
            return planned
        shapes = "" if self._plan is None or self._plan.shapes else "; no shapes, for a short pause"
        return f"{len(self._durations)} of {self.options.active} steps: {early}{shapes}"

    def _keep_tensors(self) -> str | None:
        """Put away the tensors of the cycle; the name of their file, None where there is none."""
        tensors, self._tensors = self._tensors, None
        path = self._directory / tensors_name(self._place.rank, self._index)
        return path.name if tensors is not None and tensors.keep(path) else None

    def _keep_memory(self) -> str | None:
        """Write what the allocator holds; the name of the file. What goes wrong costs no trace."""
        if self._history is None:
            return None
        path = self._directory / memory_name(self._place.rank, self._index)
        try:
            return path.name if self._history.write(path) else None
        except Exception as error:  # private functions of torch, and a disk
            self._warn(f"no snapshot of the memory: {type(error).__name__}: {error}")
            return None

    def _make_room(self) -> None:
        """Old traces go where the user set a limit."""
        if self.options.kept is not None or self.options.max_bytes is not None:
            self.cycles = rotated(self.cycles, self._directory, self.options.kept, self.options.max_bytes)

    def _after_cycle(self, steps: int, *, over: bool) -> None:
        if over:
            return
        if self.reason is None and self._index < self.options.repeat:
            self._make_plan()
            self._enter_cycle(steps)
        elif self._watch is not None:
            self._make_plan()
            self._queue = []
            self._next_phase(steps)
        else:
            self._queue = []
            self._next_phase(steps)

    def _note(
        self, recording: Recording, file: str | None, size: int | None, note: str | None, *, shapes: bool,
        tensors: str | None = None, memory: str | None = None,
    ) -> None:  # fmt: skip
        """Keep what the cycle was, compare its pause with the bound, and learn from it."""
        events = recording.event_count()
        cycle = Cycle(
            index=self._index,
            file=file,
            first_step=self._first,
            durations_ns=tuple(self._durations),
            requested_steps=self.options.active,
            events=events,
            bytes=size,
            shapes=shapes,
            tensors=tensors,
            partial=len(self._durations) < self.options.active,
            pause_s=recording.pause_s,
            predicted_pause_s=self._plan.pause_s if self._plan is not None else None,
            note=note,
            memory=memory,
            trigger=self._trigger,
        )
        self.cycles.append(cycle)
        if self._durations:
            recorded = len(self._durations) + (tensors is not None)
            self._calibrated = (max(int(statistics.mean(self._durations)), 1), round(events / recorded))
        self._model.correct(cycle.end_pause_s, events, shapes=shapes)
        if cycle.end_pause_s > self.options.max_pause_s:
            self._warn(
                f"cycle {cycle.index} paused training for {cycle.end_pause_s:.2f} s, more than "
                f"max_pause_s={self.options.max_pause_s:g}; fewer active steps pause less"
            )
