"""Run one task per file: here, on this machine's processes, or on a dask cluster, one executor for all."""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from probe.errors import ProbeError, UnavailableError, UsageError
from probe.executors.processes import Processes, WorkerDied, raised_at
from probe.machine import cpu_info

Item = TypeVar("Item")
Result = TypeVar("Result")

DASK = "dask://"
ENGINES = "processes, dask://HOST:PORT"
_ADDRESS = re.compile(r"[^\s/]+:\d{1,5}")
_MEMORY_SHARE = 0.8  # of what is free: the rest is for the page cache and for others
_CONNECT_S = 10.0  # to reach a dask scheduler


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """What became of an item: its result, or in one line why there is none."""

    item: Item
    result: Result | None
    error: str | None = None


def run(
    executor: Executor,
    function: Callable[[Item], Result],
    items: Sequence[Item],
    on_done: Callable[[Outcome[Item, Result]], None] | None = None,
) -> list[Outcome[Item, Result]]:
    """`function` of every item, in their order; one that fails stops no other. An interruption cancels what is left.

    An item whose worker died is tried again, alone: it may have been killed for the memory of all of them together.
    """
    outcomes: dict[int, Outcome[Item, Result]] = {}
    died: list[int] = []

    def keep(number: int, future: Future[Result], last: bool) -> None:
        if not last and not future.cancelled() and isinstance(future.exception(), WorkerDied):
            died.append(number)
            return
        outcomes[number] = _outcome(items[number], future)
        if on_done is not None:
            on_done(outcomes[number])

    for number, future in _finished(executor, function, dict(enumerate(items))):
        keep(number, future, last=False)
    for again in sorted(died):
        for number, future in _finished(executor, function, {again: items[again]}):
            keep(number, future, last=True)
    return [outcomes[number] for number in range(len(items))]


def is_engine(text: str) -> bool:
    """Whether `text` names an engine; one that cannot be reached is one, too."""
    return text == "processes" or text.startswith(DASK)


@contextlib.contextmanager
def executor(
    engine: str | Executor | None = None,
    jobs: int | None = None,
    *,
    tasks: int | None = None,
    bytes_per_task: int | None = None,
) -> Iterator[Executor]:
    """Where tasks run: None or "processes", "dask://host:port", or any Executor, which stays the caller's to end.

    jobs: how many processes; by default as many as there are tasks, cores, and memory for `bytes_per_task` each.
    A single local task runs in this process. A cluster has its own number of workers.
    """
    if jobs is not None and jobs < 1:
        raise UsageError(f"{jobs} jobs cannot do anything; give 1 or more")
    if isinstance(engine, Executor):
        yield engine
    elif engine is not None and not is_engine(engine):
        raise UsageError(f"{engine!r} is no engine; use one of {ENGINES}")
    elif engine is not None and engine.startswith(DASK):
        with _dask(engine) as cluster:
            yield cluster
    else:
        count = min(jobs or workers(bytes_per_task), tasks or sys.maxsize)
        with _local(count) as local:
            yield local


@contextlib.contextmanager
def _local(count: int) -> Iterator[Executor]:
    """This process for one task at a time, else processes; they end after their tasks, or at once on any error."""
    if count == 1:
        yield Here()
        return
    processes = Processes(count)
    try:
        yield processes
    except BaseException:
        processes.shutdown(cancel_futures=True)
        raise
    processes.shutdown()


def workers(bytes_per_task: int | None = None) -> int:
    """How many tasks this machine can run at once: by cores, the quota of its cgroup, and the memory that is free."""
    cgroup = _text("/proc/self/cgroup")
    cores = len(cpu_info.affinity())
    quota = cpu_info.cpu_quota(cgroup)
    count = min(cores, math.ceil(quota)) if quota else cores
    free = [cpu_info.parse_meminfo(_text("/proc/meminfo")).get("MemAvailable"), cpu_info.memory_limit_bytes(cgroup)]
    known = [size for size in free if size is not None]
    if bytes_per_task and known:
        count = min(count, int(min(known) * _MEMORY_SHARE) // bytes_per_task)
    return max(count, 1)


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:  # not Linux
        return ""


def _finished(
    executor: Executor, function: Callable[[Item], Result], items: dict[int, Item]
) -> Iterator[tuple[int, Future[Result]]]:
    """The numbers and futures of the items as they finish; abandoned, it cancels the rest."""
    waiting: dict[Future[Result], int] = {}
    try:
        for number, item in items.items():
            future = executor.submit(function, item)
            if future.done():  # it ran here
                yield number, future
            else:
                waiting[future] = number
        for future in as_completed(list(waiting)):
            yield waiting.pop(future), future
    finally:
        for future in waiting:
            future.cancel()


def _outcome(item: Item, future: Future[Result]) -> Outcome[Item, Result]:
    if future.cancelled():
        return Outcome(item, None, "the connection to its worker was lost; run again")
    error = future.exception()
    return Outcome(item, future.result()) if error is None else Outcome(item, None, _told(error))


def _told(error: BaseException) -> str:
    """One line for a user. What probe did not expect is a defect, and says where."""
    if isinstance(error, ProbeError):
        return str(error)
    if isinstance(error, MemoryError):
        return "not enough memory; run fewer jobs at once, or record fewer steps"
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "probe":
        return "the workers lack probe; pip install torch-probe there, the same version as here"
    if type(error).__name__ == "KilledWorker":  # dask's, after several attempts
        return "the dask workers that read it died, as when memory runs out; give them more"
    where = getattr(error, "where", None) or raised_at(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())} in {where} (a defect of probe's own)"


class Here(Executor):
    """Runs each task at once, in this thread; an interruption passes through."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """A future that is done."""
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextlib.contextmanager
def _dask(engine: str) -> Iterator[Executor]:
    """The workers of a dask cluster; its tasks are cancelled when the block ends."""
    address = engine.removeprefix(DASK)
    if not _ADDRESS.fullmatch(address):
        raise UsageError(f"{engine}: not the address of a dask scheduler; write dask://HOST:PORT")
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError:
        raise UnavailableError(f"{engine}: dask is not installed: pip install 'torch-probe[dask]'") from None
    with _quiet("distributed"), _quiet("distributed.client"):  # which has a level of its own
        try:
            client = distributed.Client("tcp://" + address, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            remedy = "start one with `dask scheduler`"
            raise UnavailableError(f"{engine}: no dask scheduler answers: {reason}; {remedy}") from None
        try:
            yield client.get_executor(pure=False)  # a file may have changed since it was last read
        finally:
            client.close()


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a library from logging tracebacks of what is told to the user in one line."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
