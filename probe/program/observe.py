"""What is `probe run SCRIPT`? A session that opens with the program's first step and ends with the program."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import get_ident
from typing import Any

from probe.program import hooks
from probe.program.imported import OnImport
from probe.program.main_module import End, Program, run_main
from probe.program.model import model_of
from probe.program.recognition import Ended, Recogniser, samples_in
from probe.session import ownership
from probe.session.options import Options
from probe.session.session import Session


@dataclass(frozen=True)
class Request:
    """What to run, where the run goes, and how it is recorded."""

    target: str
    arguments: tuple[str, ...] = ()
    module: bool = False
    path: Path | None = None
    options: Options = field(default_factory=Options)
    tags: dict[str, Any] = field(default_factory=dict)
    step_on: str | None = None
    modules: bool = True  # whether the trained model's modules are named


@dataclass(frozen=True)
class Outcome:
    """The program's exit code, and what became of its observation: `session` is None where no step was recognised."""

    exit_code: int
    session: Session | None
    other: bool = False  # the program has a session of its own, which was left alone
    failure: str | None = None  # why nothing more was observed, where that is a defect


def observe(request: Request) -> Outcome:
    """Run the program and record its steps. Raises UsageError, before it runs, for what cannot be run."""
    imports = OnImport()
    watch = _Watch(request)
    step_on = hooks.Named(request.step_on, watch.called) if request.step_on else None
    replaced = step_on.watch(imports, request.target, module=request.module) if step_on is not None else {}
    undo = hooks.listen(watch, imports)
    end = End(1)
    try:
        end = run_main(Program(request.target, request.arguments, request.module, replaced))
    finally:
        imports.forget()
        for forget in undo:
            forget()
        watch.end(end.raised)
    failure = watch.failure or (step_on.trouble() if step_on is not None else None)
    return Outcome(end.exit_code, watch.session, watch.other, failure)


class _Watch:
    """Hears of the program's doings and tells the session its steps. Nothing of it reaches the program."""

    def __init__(self, request: Request) -> None:
        self.session: Session | None = None
        self.other = False
        self.failure: str | None = None
        self._request = request
        self._recogniser = Recogniser()
        self._thread = get_ident()  # steps are the main thread's: a loader of another thread prefetches
        self._by_name = request.step_on is not None
        self._ended = False

    def optimizer_made(self) -> None:
        self._recogniser.optimizer_made()

    def optimizer_stepped(self, optimizer: Any) -> None:
        if not self._by_name:
            self._hear(lambda: self._step(self._recogniser.optimizer_stepped(id(optimizer)), optimizer))

    def asks_for_batch(self) -> None:
        if not self._by_name:
            self._hear(lambda: self._step(self._recogniser.asks_for_batch(), None))

    def got_batch(self, batch: object, waited_ns: int) -> None:
        self._hear(lambda: self._fetched(batch, waited_ns))

    def called(self) -> None:
        self._hear(lambda: self._step(self._recogniser.called(), None))

    def _hear(self, act: Callable[[], None]) -> None:
        if get_ident() != self._thread or self._ended or self.other:
            return
        try:
            act()
        except Exception as error:  # whatever a batch, a model or an optimizer of the program's may be
            self.failure = f"{type(error).__name__}: {error}"
            self._ended = True

    def _fetched(self, batch: object, waited_ns: int) -> None:
        self._recogniser.got_batch(samples_in(batch), learning=sys.modules["torch"].is_grad_enabled())
        if self.session is not None:
            self.session.add_wait(waited_ns)

    def _step(self, ended: Ended | None, optimizer: Any) -> None:
        if ended is None:
            return
        if self.session is None:
            self._open(optimizer)
        else:
            self.session.step(samples=ended.samples, micro_batches=ended.micro_batches)

    def _open(self, optimizer: Any) -> None:
        """The first step has ended; from here on they are observed. What came before is the program's start."""
        if ownership.taken():
            self.other = True
            return
        request = self._request
        model = model_of(optimizer) if optimizer is not None and request.modules else None
        # No graph: capturing it calls the model's Python code once more, and nobody gave us this model.
        session = Session(request.path, request.options, request.tags, model=model, graph=False)
        self.session = session.__enter__()

    def end(self, raised: type[BaseException] | None) -> None:
        """The program has ended."""
        self._ended = True
        if self.session is not None:
            self.session.__exit__(raised, None, None)
