"""Do the instruction bytes compute what they say, and what happens where they are refused?"""

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from disassembly import X86, listing

from probe.errors import UnavailableError
from probe.kernels.cpu import aarch64, aarch64_loads, compiled, machine_code, saxpy_bodies, x86_64, x86_64_loads
from probe.kernels.cpu.loops import (
    ALL_STREAMS,
    BANDWIDTHS,
    NON_TEMPORAL,
    READ,
    SAXPY,
    SAXPY_SCALAR,
    TRIAD,
    TRIAD_NT,
    LoadRun,
    Loops,
    Stream,
)
from probe.machine import environment

ISA = environment.cpu_device().isa
LENGTHS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 1001)


def _assembled(isa: tuple[str, ...]) -> Loops:
    try:
        return machine_code.assemble(isa)
    except (OSError, UnavailableError) as reason:
        pytest.skip(f"no machine code here: {reason}")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the compiled loops lie, built once."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("kernels")
    compiled.build(folder)
    return folder


def _check_streams(loops: Loops, kind: Stream, first: int = 0) -> None:
    """Arrays that start `first` elements into theirs, so that no address need be a multiple of a vector."""
    dtype = np.float64 if kind.double else np.float32
    for n in LENGTHS:
        whole = np.full(n + 24, -1, dtype)
        destination = whole[first:]
        x, y = np.arange(n + 8).astype(dtype), (3 * np.arange(n + 8) + 1).astype(dtype)
        loops.stream[kind](destination.ctypes.data, x.ctypes.data, y.ctypes.data, n, 2, None, 2.0)
        expected = {"write": 2 + 0 * x, "copy": x, "scale": 2 * x, "add": x + y, "triad": x + 2 * y}[kind.name]

        np.testing.assert_array_equal(destination[:n], expected[:n], err_msg=f"{kind.name}, {n} elements")
        assert (destination[n:] == -1).all(), f"{kind.name} wrote beyond {n} elements"
        assert (whole[:first] == -1).all(), f"{kind.name} wrote before the array"


def _check_read(loops: Loops) -> None:
    """Read three times, the exclusive or is that of the words read once, and nothing beyond is in it."""
    for n in LENGTHS:
        x = np.random.default_rng(n).integers(0, 1 << 63, n + 8, np.uint64)
        destination = np.zeros(16, np.uint64)
        loops.stream[READ](destination.ctypes.data, x.ctypes.data, None, n, 3, None, 2.0)

        assert np.bitwise_xor.reduce(destination) == np.bitwise_xor.reduce(x[:n]), f"{n} elements"
        assert not destination[8:].any(), "read stores at most 64 bytes"


WRITING = [kind for kind in ALL_STREAMS if kind.writes]


@pytest.mark.parametrize("kind", WRITING, ids=lambda kind: kind.symbol)
@pytest.mark.parametrize("isa", [(), ISA], ids=["baseline", "widest"])
def test_streams_equal_numpy(kind: Stream, isa: tuple[str, ...]) -> None:
    _check_streams(_assembled(isa), kind)


@pytest.mark.parametrize("kind", WRITING, ids=lambda kind: kind.symbol)
def test_compiled_streams_equal_numpy(kind: Stream, built: Path) -> None:
    _check_streams(compiled.load(built), kind)


@pytest.mark.parametrize("kind", NON_TEMPORAL, ids=lambda kind: kind.symbol)
@pytest.mark.parametrize("isa", [(), ISA], ids=["baseline", "widest"])
def test_stores_past_the_caches_need_no_aligned_destination(kind: Stream, isa: tuple[str, ...], built: Path) -> None:
    for first in range(9):
        _check_streams(_assembled(isa), kind, first)
        _check_streams(compiled.load(built), kind, first)


@pytest.mark.parametrize("isa", [(), ISA], ids=["baseline", "widest"])
def test_read_reads_every_word_and_no_other(isa: tuple[str, ...]) -> None:
    _check_read(_assembled(isa))


def test_compiled_read_reads_every_word_and_no_other(built: Path) -> None:
    _check_read(compiled.load(built))


def test_loads_end_with_the_array(tmp_path: Path, built: Path) -> None:
    """The array ends where the page after it may not be read: a load beyond would end the process."""
    program = f"""if True:
        import ctypes, mmap
        from pathlib import Path
        from probe.kernels.cpu import compiled, machine_code
        memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + mmap.PAGESIZE), mmap.PAGESIZE, 0) == 0
        scratch = ctypes.create_string_buffer(64)
        for loops in (machine_code.load({ISA}), compiled.load(Path({str(tmp_path)!r}))):
            assert loops.loads
            for loop in (*(loads.call for loads in loops.loads), loops.stream[machine_code.READ]):
                for n in {LENGTHS[:-1]}:
                    loop(scratch, start + mmap.PAGESIZE - 8 * n, None, n, 2, None, 0.0)
        print("ended")"""
    compiled.load(built)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr


def _widths_and_decoded() -> Iterator[tuple[int, LoadRun]]:
    for width in x86_64_loads.WIDTHS:
        yield width, x86_64_loads.decode(x86_64_loads.load(width))
    for width in aarch64_loads.widths(()):
        yield width, aarch64_loads.decode(aarch64_loads.load(width))


def test_load_loops_decode_to_one_instruction_over_adjacent_addresses() -> None:
    found = list(_widths_and_decoded())

    assert [(width, run.instruction) for width, run in found] == [
        (8, "mov r64"),
        (16, "movups xmm"),
        (32, "vmovups ymm"),
        (64, "vmovups zmm"),
        (8, "ldr x"),
        (16, "ldr q"),
    ]
    for width, run in found:
        assert run.offsets == tuple(i * width for i in range(16))


def test_decoding_sees_a_wrong_load() -> None:
    """One instruction with another offset, and one of another width, are not what `decode` lets pass unseen."""
    code = x86_64_loads.load(32)
    second = code.index(bytes.fromhex("c4e17c104820"))  # vmovups ymm1, [rax + 32]
    narrower = code[: second + 2] + b"\x78" + code[second + 3 :]  # VEX.L of it cleared: xmm
    moved = code[: second + 5] + b"\x21" + code[second + 6 :]

    assert x86_64_loads.decode(moved).offsets[1] == 33
    with pytest.raises(ValueError, match="no run of 16 loads"):
        x86_64_loads.decode(narrower)


def test_loads_of_this_cpu_carry_their_proof() -> None:
    loops = _assembled(ISA)

    assert loops.loads
    assert all(loads.instruction and loads.encoding for loads in loops.loads)
    assert [loads.width_bytes for loads in loops.loads] == sorted({loads.width_bytes for loads in loops.loads})


def test_wide_loads_only_where_the_cpu_has_them() -> None:
    assert x86_64_loads.widths(()) == (8, 16)
    assert x86_64_loads.widths(("avx2", "fma")) == (8, 16, 32)
    assert x86_64_loads.widths(("avx512f", "avx2", "fma")) == (8, 16, 32, 64)


@pytest.mark.parametrize("kind", [SAXPY, SAXPY_SCALAR], ids=lambda kind: kind.symbol)
@pytest.mark.parametrize("isa", [(), ISA], ids=["baseline", "widest"])
def test_saxpy_in_place(kind: Stream, isa: tuple[str, ...], built: Path) -> None:
    for loops in (_assembled(isa), compiled.load(built)):
        x, y = np.arange(103, dtype=np.float32), np.ones(103, np.float32)
        loops.stream[kind](y.ctypes.data, y.ctypes.data, x.ctypes.data, 103, 3, None, 2.0)

        np.testing.assert_array_equal(y, 1 + 6 * x)


def test_chase_follows_and_adds_counts(built: Path) -> None:
    for loops in (_assembled(ISA), compiled.load(built)):
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
        loops.stream[TRIAD](a, b, c, 64, 5, gate.ctypes.data, 3.0)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert gate[0] == 2
    assert (arrays[:, 0] == 4.0).all()


def test_refused_memory_falls_back_to_the_compiler(monkeypatch: pytest.MonkeyPatch, built: Path) -> None:
    stand_in = compiled.load(built)
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


def test_a_built_library_is_kept(tmp_path: Path, built: Path) -> None:
    compiled.load(built)
    path = compiled.build(tmp_path)
    before = path.stat().st_mtime_ns

    assert compiled.build(tmp_path) == path
    assert path.stat().st_mtime_ns == before


def test_an_unknown_machine_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match="no measuring loops for riscv64"):
        machine_code.assemble((), "riscv64")


def test_avx512_and_avx2_encodings() -> None:
    """As objdump shows them: vfmadd213pd zmm1, zmm0, [rsi + rax × 8], and the same with ymm registers."""
    assert bytes.fromhex("62f2fd48a84cc600") in x86_64.stream(TRIAD, ("avx512f",))
    assert bytes.fromhex("c4e2fda84cc600") in x86_64.stream(TRIAD, ("avx2", "fma"))
    assert x86_64.widest(("avx2",)).name == "sse2"


X86_ISAS = {"sse2": (), "avx2": ("avx2", "fma"), "avx512": ("avx2", "fma", "avx512f")}


@pytest.mark.parametrize("isa", X86_ISAS.values(), ids=list(X86_ISAS))
@pytest.mark.parametrize("kind", BANDWIDTHS, ids=lambda kind: kind.symbol)
def test_a_disassembler_knows_every_instruction(kind: Stream, isa: tuple[str, ...], tmp_path: Path) -> None:
    code = x86_64_loads.read(isa) if kind == READ else x86_64.stream(kind, isa)
    lines = listing(code, X86, tmp_path)

    assert not any("bad" in line for line in lines)
    assert lines[-1] == "ret"
    assert ("sfence" in lines) == kind.non_temporal
    assert any("movntp" in line for line in lines) == kind.non_temporal


@pytest.mark.parametrize(
    ("width", "register", "mnemonic"), [(16, "xmm", "movups"), (32, "ymm", "vmovups"), (64, "zmm", "vmovups")]
)
def test_a_disassembler_sees_the_loads_that_decode_names(
    width: int, register: str, mnemonic: str, tmp_path: Path
) -> None:
    lines = listing(x86_64_loads.load(width), X86, tmp_path)
    pointers = {16: "XMMWORD", 32: "YMMWORD", 64: "ZMMWORD"}
    offsets = ["" if i == 0 else f"+{hex(i * width)}" for i in range(16)]
    wanted = [f"{mnemonic} {register}{i % 8},{pointers[width]} PTR [rax{at}]" for i, at in enumerate(offsets)]

    assert [line for line in lines if register in line] == wanted
    assert f"add rax,{hex(16 * width)}" in lines


def test_non_temporal_stores_as_a_disassembler_shows_them(tmp_path: Path) -> None:
    stores = [
        next(line for line in listing(x86_64.stream(TRIAD_NT, isa), X86, tmp_path) if "movnt" in line)
        for isa in X86_ISAS.values()
    ]

    assert stores == [
        "movntpd XMMWORD PTR [rdi+rax*8+0x0],xmm1",
        "vmovntpd YMMWORD PTR [rdi+rax*8+0x0],ymm1",
        "vmovntpd ZMMWORD PTR [rdi+rax*8+0x0],zmm1",
    ]


LANES = {"sse2": "xmm", "avx2": "ymm", "avx512": "zmm"}
NUMBERS, ADDRESSES = re.compile(r"(?<=mm)\d+"), re.compile(r"\w+ PTR \[[^]]*\]")


@pytest.mark.parametrize("name", list(X86_ISAS))
def test_saxpy_bodies_are_what_a_disassembler_shows(name: str, tmp_path: Path) -> None:
    """Between the loop's first load and the step of its index; the scalar loop has no register but xmm."""
    for kind, step in ((SAXPY, "add rax,"), (SAXPY_SCALAR, "inc rax")):
        code = x86_64.stream(kind, X86_ISAS[name])
        lines = listing(code, X86, tmp_path)
        first = next(i for i, line in enumerate(lines) if "mov" in line and "PTR [rdx+rax*4" in line)
        last = next(i for i, line in enumerate(lines) if i > first and line.startswith(step))
        shown = [NUMBERS.sub("", ADDRESSES.sub("[m]", line)).replace(",", ", ") for line in lines[first:last]]

        assert shown == list(saxpy_bodies.decode_x86_64(code))
        assert not kind.scalar or not any("ymm" in line or "zmm" in line or "ps " in line for line in lines)
        assert kind.scalar or f" {LANES[name]}" in saxpy_bodies.arithmetic(shown)


def test_decoding_a_saxpy_sees_another_instruction() -> None:
    """A scalar loop of packed instructions, or one with an instruction that is not known, is not passed off as one."""
    scalar = x86_64.stream(SAXPY_SCALAR, ("avx2", "fma"))
    packed = scalar.replace(bytes.fromhex("c4e279a9"), bytes.fromhex("c4e27da8"))
    unknown = scalar.replace(bytes.fromhex("c4e279a9"), bytes.fromhex("c4e279ad"))

    assert saxpy_bodies.arithmetic(saxpy_bodies.decode_x86_64(scalar)) == "vfmadd213ss xmm"
    assert saxpy_bodies.arithmetic(saxpy_bodies.decode_x86_64(packed)) == "vfmadd213ps ymm"
    with pytest.raises(ValueError, match="no loop of known instructions"):
        saxpy_bodies.decode_x86_64(unknown)
    assert saxpy_bodies.arithmetic(saxpy_bodies.decode_aarch64(aarch64.stream(SAXPY, ()))) == "fmla v.4s"
    assert saxpy_bodies.decode_aarch64(aarch64.stream(SAXPY_SCALAR, ())) == ("ldr s", "ldr s", "fmadd s", "str s")
    with pytest.raises(ValueError, match="no loop of known instructions"):
        saxpy_bodies.decode_aarch64(aarch64.stream(TRIAD, ()))


def _refuse(code: bytes, signature: object) -> None:
    raise OSError(13, "this system refuses executable memory")
