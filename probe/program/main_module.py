"""How is a Python program run in this process as if Python had been started with it?"""

from __future__ import annotations

import builtins
import os
import runpy
import sys
import traceback
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import Any

from probe.errors import UsageError

INTERRUPTED = 130  # what a shell reports of a program ended by Ctrl-C: 128 + SIGINT


@dataclass(frozen=True)
class Program:
    """A script's path or, with `module`, a module's name; and its arguments."""

    target: str
    arguments: tuple[str, ...] = ()
    module: bool = False
    # Names that the program's main module binds, each with what takes its place: for functions that end a step.
    replaced: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class End:
    """How a program ended: its exit code, and what it raised, if so."""

    exit_code: int
    raised: type[BaseException] | None = None


def run_main(program: Program) -> End:
    """Run the program to its end in this process.

    What it raises is printed as Python does, without the frames of probe's own.
    Raises UsageError, before anything runs, where there is no such script or module.
    """
    start = _module(program) if program.module else _script(program)
    sys.argv = [program.target, *program.arguments]  # for good: exit hooks and threads of the program's come later
    try:
        start()
        return End(0)
    except SystemExit as end:
        code = _code_of(end)
        return End(code, SystemExit if code else None)
    except BaseException as error:
        _show(error)
        return End(INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1, type(error))
    finally:
        _flush()


def _script(program: Program) -> Any:
    path = Path(program.target)
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {os.strerror(error.errno or 0).lower()}; give a Python script") from None
    try:
        code = compile(source, str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{path}: not a Python script: {error}") from None
    sys_path = str(path.resolve().parent)

    def start() -> None:
        sys.path.insert(0, sys_path)
        _execute(code, str(path), program.replaced)

    return start


def _execute(code: CodeType, file: str, replaced: Mapping[str, Any]) -> None:
    """In a module of its own, which stays __main__ for what the program leaves behind: pickles, threads, exit hooks."""
    main = ModuleType("__main__")
    main.__dict__.update(__file__=file, __builtins__=builtins)
    sys.modules["__main__"] = main
    if replaced:
        exec(code, main.__dict__, _Watched(main.__dict__, replaced))  # the user's program
    else:
        exec(code, main.__dict__)


class _Watched(MutableMapping[str, Any]):
    """The names of a module while it runs; some are bound to something else than it says."""

    def __init__(self, names: dict[str, Any], replaced: Mapping[str, Any]) -> None:
        self._names = names
        self._replaced = replaced

    def __getitem__(self, name: str) -> Any:
        return self._names[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._names[name] = self._replaced[name](value) if name in self._replaced else value

    def __delitem__(self, name: str) -> None:
        del self._names[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _module(program: Program) -> Any:
    """As `python -m`: the current directory comes first."""
    from importlib.util import find_spec

    sys.path.insert(0, str(Path.cwd()))
    try:
        found = find_spec(program.target)
    except (ImportError, ValueError) as error:
        raise UsageError(f"-m {program.target}: {error}") from None
    finally:
        sys.path.pop(0)
    if found is None:
        raise UsageError(f"-m {program.target}: no module of that name; is it on PYTHONPATH?")

    def start() -> None:
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(program.target, run_name="__main__", alter_sys=True)

    return start


def _code_of(end: SystemExit) -> int:
    """The exit code as Python gives it: what is no number is printed and means 1."""
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code & 0xFF
    sys.stderr.write(f"{end.code}\n")
    return 1


def _show(error: BaseException) -> None:
    """By the program's own hook, from its first frame on."""
    try:
        trimmed = error.with_traceback(_from_program(error.__traceback__))
        sys.excepthook(type(error), trimmed, trimmed.__traceback__)
    except Exception:  # the hook is the program's
        traceback.print_exc()


def _from_program(found: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames that led to the program's first."""
    own = {__file__, runpy.__file__, "<frozen runpy>"}
    whole = found
    while found is not None and found.tb_frame.f_code.co_filename in own:
        found = found.tb_next
    return found or whole


def _flush() -> None:
    """What the program printed stands before what probe says."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):  # none, closed, or nobody reads
            continue
