"""Do the instruction bytes compute what they say, and what happens where they are refused?"""

import hashlib
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from probe import environment
from probe.errors import UnavailableError
from probe.kernels import aarch64, compiled, machine_code, x86_64
from probe.kernels.loops import SAXPY, STREAMS, Loops, Stream

ISA = environment.cpu_device().isa
LENGTHS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 1001)

# Of the words that computed right under qemu-aarch64 for lengths 0 to 69; no aarch64 machine has run them yet.
EMULATED_AARCH64 = {
    "probe_copy_f64": "90641fdcef6ccfd0",
    "probe_scale_f64": "5b173ee1d121b8d7",
    "probe_add_f64": "2229146ded554cbd",
    "probe_triad_f64": "c4ae02f9dd0a43df",
    "probe_triad_f32": "9e2a7d7a27d1788e",
}


def _assembled(isa: tuple[str, ...]) -> Loops:
    try:
        return machine_code.assemble(isa)
    except (OSError, UnavailableError) as reason:
        pytest.skip(f"no machine code here: {reason}")


def _compiled(tmp_path: Path) -> Loops:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    return compiled.load(tmp_path)


def _check_streams(loops: Loops, kind: Stream) -> None:
    dtype = np.float64 if kind.double else np.float32
    for n in LENGTHS:
        destination = np.full(n + 8, -1, dtype)
        x, y = np.arange(n + 8).astype(dtype), (3 * np.arange(n + 8) + 1).astype(dtype)
        loops.stream[kind](destination.ctypes.data, x.ctypes.data, y.ctypes.data, n, 2, None, 2.0)
        expected = {"copy": x, "scale": 2 * x, "add": x + y, "triad": x + 2 * y}[kind.name]

        np.testing.assert_array_equal(destination[:n], expected[:n], err_msg=f"{kind.name}, {n} elements")
        assert (destination[n:] == -1).all(), f"{kind.name} wrote beyond {n} elements"


@pytest.mark.parametrize("kind", [*STREAMS, SAXPY], ids=lambda kind: kind.symbol)
@pytest.mark.parametrize("isa", [(), ISA], ids=["baseline", "widest"])
def test_streams_equal_numpy(kind: Stream, isa: tuple[str, ...]) -> None:
    _check_streams(_assembled(isa), kind)


@pytest.mark.parametrize("kind", [*STREAMS, SAXPY], ids=lambda kind: kind.symbol)
def test_compiled_streams_equal_numpy(kind: Stream, tmp_path: Path) -> None:
    _check_streams(_compiled(tmp_path), kind)


def test_saxpy_in_place() -> None:
    x, y = np.arange(103, dtype=np.float32), np.ones(103, np.float32)
    _assembled(ISA).stream[SAXPY](y.ctypes.data, y.ctypes.data, x.ctypes.data, 103, 3, None, 2.0)

    np.testing.assert_array_equal(y, 1 + 6 * x)


def test_chase_follows_and_adds_counts(tmp_path: Path) -> None:
    for loops in (_assembled(ISA), _compiled(tmp_path)):
        ring = np.zeros(5, np.uint64)
        ring[:] = ring.ctypes.data + 8 * ((np.arange(5) + 1) % 5)
        steps = 3 * loops.unroll

        assert loops.chase(ring.ctypes.data, 3) == ring.ctypes.data + 8 * (steps % 5)
        assert loops.adds(7, 10) == 7 + 10 * loops.unroll


def test_fma_loop_returns() -> None:
    loops = _assembled(ISA)
    if loops.fma is None:
        pytest.skip("no FMA here")
    loops.fma(0, 3)

    assert loops.fma_flops > 0


def test_threads_wait_for_one_another_at_the_gate() -> None:
    loops = _assembled(ISA)
    gate = np.array([0, 2], np.uint64)
    arrays = np.ones((2, 3, 64))

    def work(i: int) -> None:
        a, b, c = (row.ctypes.data for row in arrays[i])
        loops.stream[STREAMS[3]](a, b, c, 64, 5, gate.ctypes.data, 3.0)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert gate[0] == 2
    assert (arrays[:, 0] == 4.0).all()


def test_refused_memory_falls_back_to_the_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in = _compiled(tmp_path)
    monkeypatch.setattr(machine_code, "function", _refuse)
    monkeypatch.setattr(compiled, "load", lambda: stand_in)

    assert machine_code.load.__wrapped__(ISA).origin == "compiled"


def test_neither_memory_nor_compiler_says_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_code, "function", _refuse)
    monkeypatch.setattr(shutil, "which", lambda name: None)

    with pytest.raises(UnavailableError, match=r"refuses executable memory.*no C compiler"):
        machine_code.load.__wrapped__(ISA)


def test_a_compiler_that_fails_is_unavailable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/false")

    with pytest.raises(UnavailableError, match="could not build"):
        compiled.load(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_built_library_is_kept(tmp_path: Path) -> None:
    _compiled(tmp_path)
    path = compiled.build(tmp_path)
    before = path.stat().st_mtime_ns

    assert compiled.build(tmp_path) == path
    assert path.stat().st_mtime_ns == before


def test_an_unknown_machine_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match="no measuring loops for riscv64"):
        machine_code.assemble((), "riscv64")


def test_avx512_and_avx2_encodings() -> None:
    """As objdump shows them: vfmadd213pd zmm1, zmm0, [rsi + rax × 8], and the same with ymm registers."""
    triad = STREAMS[3]

    assert bytes.fromhex("62f2fd48a84cc600") in x86_64.stream(triad, ("avx512f",))
    assert bytes.fromhex("c4e2fda84cc600") in x86_64.stream(triad, ("avx2", "fma"))
    assert x86_64.widest(("avx2",)).name == "sse2"


@pytest.mark.parametrize("kind", [*STREAMS, SAXPY], ids=lambda kind: kind.symbol)
def test_aarch64_words_are_those_that_were_emulated(kind: Stream) -> None:
    assert hashlib.sha256(aarch64.stream(kind, ())).hexdigest()[:16] == EMULATED_AARCH64[kind.symbol]


def _refuse(code: bytes, signature: object) -> None:
    raise OSError(13, "this system refuses executable memory")
