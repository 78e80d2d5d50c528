"""Do ranks meet and measure, does one that dies end the others in one line, and does nothing outlive a failure?"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from probe.machine.device import Device
from probe.microbench.collectives import collectives
from probe.microbench.collectives.operations import OPERATIONS
from probe.microbench.collectives.rank_processes import Bounds, RankFailed, RankProcesses
from probe.microbench.collectives.sweep import At, Group, Message, Note, Plan, Point
from probe.microbench.cpu.pinning import working_cpus
from probe.microbench.suite import Context

needs_two_cpus = pytest.mark.skipif(len(working_cpus()) < 2, reason="two ranks need two CPUs")


def _context() -> Context:
    return Context(Device("cpu", "x", cores=2), 1.5, quick=True)


# ---- processes that fail; they import no torch

PLAYED = """
import os, pickle, signal, sys, time
sys.path[:] = pickle.load(sys.stdin.buffer)
from probe.microbench.collectives.ranks import buffers_of
from probe.microbench.collectives.sweep import At, Done, Failed, Group, Note
rank = pickle.load(sys.stdin.buffer)
def say(message):
    pickle.dump(message, sys.stdout.buffer)
    sys.stdout.flush()
say(Group(2, 1, "gloo"))
say(At(1 << 23, 0.5))
"""
WAIT = "\nsys.stdin.buffer.read()\n"


def _played(program: str, bounds: Bounds | None = None) -> tuple[list[Message], RankFailed | None]:
    """What two ranks of `program` say, and how they failed; none of them is left."""
    heard: list[Message] = []
    failure = None
    with RankProcesses({}, bounds, PLAYED + program) as ranks:
        ranks.start([0, 1])
        pids = ranks.pids
        try:
            heard += ranks.messages()
        except RankFailed as error:
            failure = error
    assert not any(_alive(pid) for pid in pids)
    return heard, failure


def _alive(pid: int) -> bool:
    """Whether a process runs still (one that has ended and is not yet waited for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_rank_0_speaks_for_all_and_all_end() -> None:
    heard, failure = _played("say(Note(str(rank)))\nsay(Done())" + WAIT)

    assert failure is None
    assert heard == [Group(2, 1, "gloo"), At(1 << 23, 0.5), Note("0")]


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("if rank: os.kill(os.getpid(), signal.SIGKILL)" + WAIT, r"rank 1 was ended by signal 9 .*memory"),
        ("if rank: os.kill(os.getpid(), signal.SIGSEGV)" + WAIT, r"rank 1 was ended by signal 11"),
        ("if rank: sys.exit('no such library')" + WAIT, r"rank 1 ended with exit code 1 .*: no such library; see"),
        (
            "if rank: time.sleep(0.2); os.kill(os.getpid(), signal.SIGKILL)\nsay(Failed('connection closed'))" + WAIT,
            r"rank 1 was ended by signal 9",
        ),
    ],
)
def test_a_rank_that_dies_ends_the_others_in_one_line(program: str, message: str) -> None:
    _, failure = _played(program)

    assert re.search(message, str(failure))
    assert "\n" not in str(failure)


def test_a_rank_that_gives_up_says_why() -> None:
    heard, failure = _played("if rank == 0: say(Failed('RuntimeError: Timed out waiting 60000ms'))" + WAIT)

    assert At(1 << 23, 0.5) in heard
    assert "rank 0 failed at 8 MiB: RuntimeError: Timed out waiting 60000ms" in str(failure)


def test_silence_has_a_bound() -> None:
    heard, failure = _played(WAIT, Bounds(start_s=30, silence_s=0.2))

    assert At(1 << 23, 0.5) in heard
    assert "silent for 0 s at 8 MiB and were ended" in str(failure)


def test_an_interrupt_leaves_no_rank() -> None:
    with pytest.raises(KeyboardInterrupt), RankProcesses({}, None, PLAYED + WAIT) as ranks:
        ranks.start([0, 1])
        pids = ranks.pids
        next(ranks.messages())
        raise KeyboardInterrupt

    assert not any(_alive(pid) for pid in pids)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ranks_do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", f"""
import sys
sys.path[:] = {sys.path!r}
from probe.microbench.collectives.rank_processes import RankProcesses
with RankProcesses({{}}, None, {PLAYED + WAIT!r}) as ranks:
    ranks.start([0, 1])
    heard = ranks.messages()
    next(heard), next(heard)
    print(*ranks.pids, flush=True)
    list(heard)
"""],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # what it leaves is the ranks' directory
    )  # fmt: skip
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(_alive(pid) for pid in pids)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)

    assert not any(_alive(pid) for pid in pids)


# ---- Gloo itself


@needs_two_cpus
def test_gloo_ranks_are_started_measured_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collectives, "QUICK_OPERATIONS", OPERATIONS)
    monkeypatch.setattr(collectives, "MOST_CPU_RANKS", 2)
    context = _context()
    found = [m for m in collectives.run(context) if m.metric == "busbw"]

    assert {m.name for m in found} == set(OPERATIONS)
    assert not any("wrong-result" in m.flags for m in found)
    for measurement in found:
        assert 0 < measurement.median <= measurement.value
        assert measurement.params["ranks"] == 2 and measurement.params["nodes"] == 1


@needs_two_cpus
def test_a_gloo_rank_that_is_killed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with RankProcesses(collectives.environment_of(_context(), os.environ)) as ranks:
        plan = Plan(OPERATIONS, False, 30.0)
        ranks.start([collectives.Assignment(rank, 2, ranks.meeting, plan) for rank in range(2)])
        pids = ranks.pids
        heard = ranks.messages()
        while not isinstance(next(heard), Point):
            pass
        os.kill(pids[1], signal.SIGKILL)
        with pytest.raises(RankFailed, match="rank 1 was ended by signal 9 at"):
            list(heard)

    assert not any(_alive(pid) for pid in pids)


JOINS = """
import sys
sys.path[:] = {path!r}
from probe.machine.device import Device
from probe.microbench.collectives import collectives
from probe.microbench.suite import Context
context = Context(Device("cpu", "x", cores=2), 0.1, quick=True)
print(sum(m.metric == "busbw" for m in collectives.run(context)), len(context.warnings))
"""


@needs_two_cpus
def test_launched_ranks_join_and_only_rank_0_reports() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", JOINS.format(path=sys.path)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=120)[0].split() for rank in ranks]

    assert [rank.returncode for rank in ranks] == [0, 0]
    assert int(said[0][0]) >= len(collectives.QUICK_OPERATIONS)
    assert said[1] == ["0", "0"]
