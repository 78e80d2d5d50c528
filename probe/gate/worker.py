"""What runs one version of the code: a process that makes steps when it is asked to, and stands still between.

Started with the gate's own probe first on the path. Once what it needs of that is imported, the version's own files
come first; where the version is a probe itself, the gate's modules step aside so that the program imports its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import get_ident
from typing import Any

import probe.session
import probe.session.off
import probe.session.session
from probe.collectors.torch_profiler import Recording, import_torch
from probe.gate.applied import Applied
from probe.gate.losses import Losses
from probe.gate.protocol import Ask, Pipe, Ran, Ready, Task
from probe.program import hooks
from probe.program.imported import OnImport
from probe.program.main_module import Program, run_main
from probe.program.recognition import Recogniser


def main(task_text: str, read: int, write: int) -> int:
    """Run the task; the exit code is the program's."""
    task = Task.from_json(task_text)
    pacer = Pacer(Pipe(read, write), task)
    try:
        return _run(task, pacer)
    finally:
        pacer.end()


def _run(task: Task, pacer: Pacer) -> int:
    _make_way(Path(task.root))
    imports = OnImport()
    if task.losses:
        imports.do("torch.autograd", pacer.losses.catch)
    if task.apply is not None:
        pacer.applied = Applied(task.apply, task.target, imports)
    if task.function is not None:
        return _call_forever(task, pacer)
    if task.served:
        _pacers.append(pacer)
        return run_main(Program(task.target, task.arguments, task.module)).exit_code
    hooks.listen(_Steps(pacer, by_name=task.step_on is not None), imports)
    step_on = hooks.Named(task.step_on, pacer.step) if task.step_on else None
    replaced = step_on.watch(imports, task.target, module=task.module) if step_on is not None else {}
    _replace_profile(pacer)
    return run_main(Program(task.target, task.arguments, task.module, replaced)).exit_code


def _make_way(root: Path) -> None:
    """The version's files first; and its own probe, where it is one, instead of the gate's."""
    if (root / "probe" / "__init__.py").exists():
        tool = str(Path(__file__).parents[2])
        sys.path[:] = [entry for entry in sys.path if entry != tool]
        for name in [name for name in sys.modules if name == "probe" or name.startswith("probe.")]:
            del sys.modules[name]
    source = [str(root / "src")] if (root / "src").is_dir() else []
    sys.path[:0] = [*source, str(root)]


def _call_forever(task: Task, pacer: Pacer) -> int:
    """FILE.py:FUNCTION, a step a call."""
    assert task.function is not None
    file, _, name = task.function.rpartition(":")
    path = Path(task.root) / file if not Path(file).is_absolute() else Path(file)
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.exists():
        sys.stderr.write(f"{path}: no such file in this version\n")
        return 2
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        sys.stderr.write(f"{path}: it has no function {name}\n")
        return 2
    while True:
        function()
        pacer.step()


class Pacer:
    """Makes steps as the gate asks for them; `step` is called at the end of each."""

    def __init__(self, pipe: Pipe, task: Task) -> None:
        self._pipe = pipe
        self._task = task
        self._asked: Ask | None = None
        self._left = 0
        self._cpu: list[int] = []
        self._wall: list[int] = []
        self._recording: Recording | None = None
        self._recorded = False  # a recording ended with this step
        self._late = False  # what was asked for begins a step later
        self._on_gpu = False
        self.losses = Losses()
        self.applied: Applied | None = None
        self._lost: list[list[Any]] = []  # losses of each step that has not been told
        self._cpu_at = self._wall_at = 0

    def step(self) -> None:
        """A step has ended: take its time, and stand still where no more are asked for."""
        if self._task.losses:
            self._lost.append(self.losses.taken())
        if self._asked is None:
            self._pipe.send(self._ready())
            self._next()
            return
        if self._late:
            self._late = False
            self._begin()
            return
        self._left -= 1
        if self._recording is not None:
            self._recording.end_mark()
        if self._on_gpu and not self._left:
            sys.modules["torch"].cuda.synchronize()
        cpu, wall = time.process_time_ns(), time.perf_counter_ns()
        self._cpu.append(cpu - self._cpu_at)
        self._wall.append(wall - self._wall_at)
        if self._left:
            if self._recording is not None:
                self._recording.mark_step(len(self._cpu))
            self._cpu_at, self._wall_at = time.process_time_ns(), time.perf_counter_ns()
            return
        self._pipe.send(self._ran())
        self._next()

    def _next(self) -> None:
        """Wait for the next request and begin with it; a recording after another begins a step later.

        A step may end within a range of the program's, as where an optimizer's step ends ours. The recording that just
        ended saw that range begin, and torch crashes where it ends in another.
        """
        asked = self._pipe.receive()
        if not isinstance(asked, Ask):
            os._exit(0)  # the gate is done with this process, or gone; nothing of the program matters any more
        self._asked, self._left, self._cpu, self._wall = asked, asked.steps, [], []
        self._late, self._recorded = self._recorded and asked.trace is not None, False
        if not self._late:
            self._begin()

    def _begin(self) -> None:
        """The first of the steps that were asked for begins now."""
        assert self._asked is not None
        if self._on_gpu:
            sys.modules["torch"].cuda.reset_peak_memory_stats()
        if self._asked.trace is not None:
            self._recording = Recording(shapes=True, memory=self._asked.memory)
            self._recording.start()
            self._recording.mark_step(0)
        self._cpu_at, self._wall_at = time.process_time_ns(), time.perf_counter_ns()

    def end(self) -> None:
        """The program has ended: nothing may be recording when the interpreter does, or torch crashes."""
        recording, self._recording = self._recording, None
        if recording is not None:
            with contextlib.suppress(Exception):  # what the program ended with is what the gate must hear
                recording.stop()

    def _ran(self) -> Ran:
        recording, self._recording = self._recording, None
        if recording is not None:
            assert self._asked is not None and self._asked.trace is not None
            recording.stop()
            recording.export(Path(self._asked.trace))
            self._recorded = True
        cpu, wall = [t / 1e9 for t in self._cpu], [t / 1e9 for t in self._wall]
        peak = None
        if self._on_gpu:  # between the borders of a block the device works on; only the sums are known
            cpu, wall = [sum(cpu) / len(cpu)], [sum(wall) / len(wall)]
            peak = int(sys.modules["torch"].cuda.max_memory_allocated())
        lost, self._lost = self._lost, []
        return Ran(cpu, wall, _dynamo_counters(), peak, [_mean(losses) for losses in lost])

    def _ready(self) -> Ready:
        import_torch()
        torch = sys.modules["torch"]
        self._on_gpu = bool(torch.cuda.is_available() and torch.cuda.is_initialized())
        device = torch.cuda.get_device_name() if self._on_gpu else "cpu"
        return Ready(torch.__version__, device, self._on_gpu, torch.get_num_threads(), self._foreign(), self._changed)

    @property
    def _changed(self) -> list[str] | None:
        return self.applied.changed if self.applied is not None else None

    def _foreign(self) -> list[str]:
        """Files of the other version that were imported: an installed package may lead there."""
        if self._task.other_root is None:
            return []
        other = str(Path(self._task.other_root)) + os.sep
        own = str(Path(self._task.root)) + os.sep
        files = (getattr(module, "__file__", None) or "" for module in list(sys.modules.values()))
        tool = str(Path(__file__).parents[1]) + os.sep
        environment = os.sep + "site-packages" + os.sep
        return sorted(
            f for f in files if f.startswith(other) and not f.startswith((own, tool)) and environment not in f
        )[:5]


def _mean(losses: list[Any]) -> float | None:
    """Of a step's losses; None of a step without one."""
    return sum(float(loss) for loss in losses) / len(losses) if losses else None


def _dynamo_counters() -> dict[str, float]:
    """Graph breaks and compilations of torch.compile so far, where it is in use."""
    utils = sys.modules.get("torch._dynamo.utils")
    if utils is None:
        return {}
    counters = utils.counters
    return {
        "graph_breaks": float(sum(counters["graph_break"].values())),
        "recompilations": float(counters["stats"].get("unique_graphs", 0)),
    }


class _Steps:
    """Ends steps as `probe run` does; see probe.program.recognition."""

    def __init__(self, pacer: Pacer, *, by_name: bool) -> None:
        self._pacer = pacer
        self._by_name = by_name
        self._recogniser = Recogniser()
        self._thread = get_ident()

    def optimizer_made(self) -> None:
        self._recogniser.optimizer_made()

    def optimizer_stepped(self, optimizer: Any) -> None:
        if self._hears and self._recogniser.optimizer_stepped(id(optimizer)) is not None:
            self._pacer.step()

    def asks_for_batch(self) -> None:
        if self._hears and self._recogniser.asks_for_batch() is not None:
            self._pacer.step()

    def got_batch(self, batch: object, waited_ns: int) -> None:
        self._recogniser.got_batch(None, learning=sys.modules["torch"].is_grad_enabled())

    def called(self) -> None:
        """Named functions call the pacer themselves."""

    @property
    def _hears(self) -> bool:
        return not self._by_name and not _profiled and get_ident() == self._thread


_pacers: list[Pacer] = []  # of this process, where the program itself says what a step is


def step() -> None:
    """A step of a program that calls this itself has ended."""
    _pacers[-1].step()


_profiled: list[bool] = []  # not empty once the program has opened a probe.profile of its own: its steps count


def _replace_profile(pacer: Pacer) -> None:
    """The program's own probe.profile ends the gate's steps, and records nothing."""
    for module in (probe.session, probe.session.session):
        module.profile = lambda *args, **kwargs: _Session(pacer.step)  # type: ignore[attr-defined]


class _Session(probe.session.off.Off):
    """What probe.profile gives under the gate: the interface, whose steps are the gate's."""

    def __init__(self, step: Callable[[], None]) -> None:
        self._step = step

    def __enter__(self) -> _Session:
        _profiled.append(True)
        return self

    def step(self, samples: object = None, tokens: object = None, micro_batches: int = 1) -> None:
        """A step of the gate's."""
        self._step()
