"""Does every way to add a x to y do just that, and are widths and compiled code there where they can be?"""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from places import ROOT

from probe.errors import UnavailableError
from probe.kernels.cpu import machine_code
from probe.kernels.cpu.loops import SAXPY, SAXPY_SCALAR, Loops, Stream
from probe.machine import environment
from probe.machine.device import Device
from probe.microbench import compiled_code, memory
from probe.microbench.cpu import saxpy
from probe.microbench.cpu.team import Team
from probe.microbench.suite import Context

DEVICE = Device("cpu", "x", cores=2, isa=("sse4_2", "avx2", "fma", "avx512f"))
PROBE = ROOT


@pytest.fixture
def team() -> Iterator[Team]:
    with Team((0, 0)) as team:
        yield team


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saxpy, "SIZES", (16 * memory.KIB, 4 * memory.KIB))
    monkeypatch.setattr(compiled_code, "_refusals", [])


def _ways(context: Context, team: Team, elements: int = 1000) -> dict[tuple[str, int], saxpy.Way]:
    x, y = np.ones(elements, np.float32), np.ones(elements, np.float32)
    return {(way.name, way.threads): way for way in saxpy.implementations(context, team, x, y, saxpy.composed)}


def test_every_way_adds_a_x_to_y(team: Team) -> None:
    rng = np.random.default_rng(0)
    x = rng.random(1000, np.float32) * 2**25
    y = np.zeros(1000, np.float32)
    ways = list(saxpy.implementations(Context(environment.cpu_device(), 1.0), team, x, y, saxpy.composed))
    for way in ways:
        y[:] = 0
        way.window_of(3)
        np.testing.assert_allclose(y, 3 * saxpy.SCALAR * x, rtol=1e-6, err_msg=way.name)

    proofs = {way.name: way.proof for way in ways}
    assert {"machine code", "machine code scalar", "numpy", "torch eager", "torch.compile"} <= set(proofs)
    scalar = proofs["machine code scalar"]
    assert scalar is not None
    known = (None, "mulss xmm + addss xmm", "vfmadd213ss xmm", "fmadd s")
    assert scalar["instruction"] in known


def test_each_narrower_width_is_there_once_and_single_elements(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_code, "load", _loops)
    ways = _ways(Context(DEVICE, 1.0), team)
    widths = {name: way.proof["instruction_set"] for (name, _), way in ways.items() if way.proof}

    assert widths == {
        "machine code": "avx512",
        "machine code avx2": "avx2",
        "machine code sse2": "sse2",
        "machine code scalar": "scalar",
    }
    assert ("machine code", 1) in ways
    assert ("machine code", 2) in ways
    assert ("machine code sse2", 1) in ways
    assert ("machine code scalar", 1) in ways


def test_narrower_widths_are_left_out_where_there_are_none(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_code, "load", lambda isa: _loops((), "neon"))
    assert {name for name, _ in _ways(Context(DEVICE, 1.0), team)} == {
        "machine code", "machine code scalar", "numpy", "torch eager", "torch.compile"
    }  # fmt: skip

    monkeypatch.setattr(machine_code, "load", _loops)
    assert ("machine code sse2", 1) not in _ways(Context(DEVICE, 1.0, quick=True), team)


def test_the_scalar_way_runs_the_scalar_loop(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Stream] = []
    streams = {kind: lambda *arguments, kind=kind: ran.append(kind) for kind in (SAXPY, SAXPY_SCALAR)}
    bodies = {SAXPY_SCALAR: ("movss xmm, [m]", "mulss xmm, xmm", "addss xmm, xmm", "movss [m], xmm")}
    loops = dataclasses.replace(_loops((), "neon"), stream=streams, bodies=bodies)
    monkeypatch.setattr(machine_code, "load", lambda isa: loops)
    ways = _ways(Context(DEVICE, 1.0), team)
    scalar, vectors = ways["machine code scalar", 1], ways["machine code", 1]
    scalar.window_of(1)

    assert ran == [SAXPY_SCALAR]
    assert scalar.proof is not None
    assert scalar.proof["instruction"] == "mulss xmm + addss xmm"
    assert scalar.proof["body"] == list(bodies[SAXPY_SCALAR])
    assert vectors.proof is not None
    assert vectors.proof["instruction"] is None
    assert "not read back" in vectors.proof["reason"]


def _loops(isa: tuple[str, ...], name: str | None = None) -> Loops:
    widest = "avx512" if "avx512f" in isa else "avx2" if "avx2" in isa else "sse2"

    def nothing(*arguments: object) -> int:
        return 0

    return Loops("machine code", name or widest, nothing, nothing, {SAXPY: nothing, SAXPY_SCALAR: nothing})


def test_compiled_code_is_measured_where_there_is_some(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def compiled(function: Callable[..., object], x: torch.Tensor, y: torch.Tensor) -> Callable[..., object]:
        asked.append(len(x))
        return function

    monkeypatch.setattr(saxpy, "compiled", compiled)
    context = Context(environment.cpu_device(), 0.1)
    assert saxpy.compiled_for(context, saxpy.SIZES) == {}

    monkeypatch.setattr(compiled_code, "WORTH_S", 0.0)
    found = [m for m in saxpy.run(context) if m.params["implementation"] == "torch.compile"]
    assert [m.params["size_bytes"] for m in found] == list(saxpy.SIZES)
    assert asked == [size // 8 for size in saxpy.SIZES]
    assert {m.params["threads"] for m in found} == {torch.get_num_threads()}


def test_where_it_cannot_compile_there_is_a_warning_and_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(function: object, *arguments: object) -> None:
        raise UnavailableError("no compiler")

    monkeypatch.setattr(saxpy, "compiled", refuse)
    monkeypatch.setattr(compiled_code, "WORTH_S", 0.0)
    context = Context(environment.cpu_device(), 0.05)

    assert {"numpy", "torch eager"} <= {m.params["implementation"] for m in saxpy.run(context)}
    assert context.warnings == ["saxpy: not compiled: no compiler"]


def test_a_size_that_memory_has_no_room_for_is_left_out_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    ones = np.ones

    def limited(n: int, dtype: type) -> np.ndarray:
        if 8 * n == 16 * memory.KIB:
            raise MemoryError
        return ones(n, dtype)

    monkeypatch.setattr(saxpy.np, "ones", limited)
    monkeypatch.setattr(memory, "free_bytes", lambda: 17 * memory.KIB * 4)
    monkeypatch.setattr(saxpy, "SIZES", (32 * memory.KIB, 16 * memory.KIB, 4 * memory.KIB))
    context = Context(environment.cpu_device(), 0.05, quick=True)

    assert {m.params["size_bytes"] for m in saxpy.run(context)} == {4 * memory.KIB}
    assert context.warnings == [
        "saxpy: 32 KiB is left out, too little memory is free",
        "saxpy: 16 KiB is left out, too little memory is free",
    ]


# ---- compiling


def test_a_failure_is_remembered_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def fail(*arguments: object) -> None:
        calls.append(arguments)
        raise RuntimeError("\n  No working C++ compiler found.\nmore")

    monkeypatch.setattr(compiled_code, "_compiled", fail)
    for _ in range(2):
        with pytest.raises(UnavailableError, match=r"failed: No working C\+\+ compiler found; it needs"):
            compiled_code.compiled(lambda: None)
    assert len(calls) == 1


def test_too_long_is_a_reason_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def forever(*arguments: object) -> None:
        with compiled_code.deadline(0.01):
            threading.Event().wait(60)

    monkeypatch.setattr(compiled_code, "_compiled", forever)
    with pytest.raises(UnavailableError, match=r"longer than 0\.01 s"):
        compiled_code.compiled(lambda: None, longest_s=0.01)


def test_a_timer_and_its_handler_survive_a_deadline() -> None:
    def handler(number: int, frame: object) -> None:
        raise AssertionError("not within this test")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1000)
        with compiled_code.deadline(100):
            pass
        assert signal.getsignal(signal.SIGALRM) is handler
        assert 900 < signal.getitimer(signal.ITIMER_REAL)[0] <= 1000
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_outside_the_main_thread_nothing_is_compiled() -> None:
    reasons: list[str] = []

    def inside() -> None:
        try:
            with compiled_code.deadline(1):
                pass
        except UnavailableError as reason:
            reasons.append(str(reason))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert "main thread" in reasons[0]


@pytest.mark.parametrize("before", [None, "/somewhere/else"])
def test_the_users_cache_directory_is_restored(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = compiled_code.CACHE_VARIABLE
    monkeypatch.delenv(variable, raising=False)
    if before:
        monkeypatch.setenv(variable, before)
    with compiled_code.cache_directory("/ours"):
        assert os.environ[variable] == "/ours"
    assert os.environ.get(variable) == before


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiled_code_is_right_and_leaves_nothing_behind(tmp_path: Path) -> None:
    code = (
        "import torch\n"
        "from probe.microbench import compiled_code\n"
        "from probe.microbench.cpu import saxpy\n"
        "x, y = torch.arange(64.0) * 2**30, torch.ones(64)\n"
        "call = compiled_code.compiled(saxpy.composed, x, y, longest_s=300)\n"
        "call(x, y)\n"
        "assert torch.equal(y, 1 + 2 * torch.arange(64.0)), y\n"
        "import os\n"
        "print(*os.listdir(os.environ['TMPDIR']))\n"
    )
    variables = {k: v for k, v in os.environ.items() if k != compiled_code.CACHE_VARIABLE} | {"TMPDIR": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", code], env=variables, cwd=PROBE, capture_output=True, text=True)

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("probe-compiled-")
    assert len(ran.stdout.split()) == 1
    assert list(tmp_path.iterdir()) == []
