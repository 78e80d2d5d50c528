"""Do all eleven arguments arrive, in order and each time, and does the first refusal end the loop?"""

import ctypes
import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from disassembly import AARCH64, X86, listing

from probe.kernels.cpu import repeated_calls
from probe.kernels.cpu.repeated_calls import MACHINE_CODE, MOST_ARGUMENTS, PYTHON, Call, RepeatedCalls

# Of the words that ran under qemu-aarch64 (the test below); no aarch64 machine has run them yet.
EMULATED = "5aedfbb4958b1999"

PROGRAM = r"""
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

static const unsigned char words[] = {WORDS};
static int calls, wrong;

static int eleven(void *f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g, unsigned h,
                  void *s, void **p, void **x) {
    uint64_t got[] = {(uint64_t)f, a, b, c, d, e, g, h, (uint64_t)s, (uint64_t)p, (uint64_t)x};
    for (int i = 0; i < 11; i++) wrong += got[i] != 1 + (uint64_t)i;
    volatile char used[300];
    for (int i = 0; i < 300; i++) used[i] = 1;
    calls++;
    return 0;
}
static int two(uint64_t a, uint64_t b) { wrong += a != 21 || b != 22; calls += 1000; return 0; }
static int refuses(uint64_t limit) { calls += 1000000; return calls > (int)limit ? 7 : 0; }

int main(void) {
    char *code = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(code, words, sizeof words);
    mprotect(code, 4096, PROT_READ | PROT_EXEC);
    __builtin___clear_cache(code, code + sizeof words);
    int (*loop)(uint64_t, const void *, uint64_t) = (void *)code;
    uint64_t table[36] = {(uint64_t)eleven, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, (uint64_t)two, 21, 22};
    table[24] = (uint64_t)refuses, table[25] = 3000000;
    int first = loop(5, table, 2 * 96);
    int second = loop(100, table + 24, 96);
    printf("%d %d %d %d\n", first, second, calls, wrong);
    return 0;
}
"""


class Seen:
    """A C function that notes what it was called with and returns `results` in turn, then 0."""

    def __init__(self, arguments: int, results: tuple[int, ...] = ()) -> None:
        self.calls: list[tuple[int, ...]] = []
        self._results = list(results)
        self._function = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_uint64] * arguments)(self._answer)
        self.address = ctypes.cast(self._function, ctypes.c_void_p).value or 0

    def _answer(self, *arguments: int) -> int:
        self.calls.append(arguments)
        return self._results.pop(0) if self._results else 0


def _refuse(code: bytes, signature: object) -> Callable[..., int]:
    raise OSError("this system refuses executable memory")


@pytest.fixture(params=[MACHINE_CODE, PYTHON])
def origin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who repeats the calls in this test."""
    if request.param == PYTHON:
        monkeypatch.setattr(repeated_calls, "function", _refuse)
    return str(request.param)


def test_every_argument_arrives_each_time(origin: str) -> None:
    wide, narrow = Seen(MOST_ARGUMENTS), Seen(1)
    arguments = tuple((1 << 63) + i for i in range(MOST_ARGUMENTS))
    calls = RepeatedCalls(Call(wide.address, arguments), Call(narrow.address, (7,)))

    assert calls.origin == origin
    assert calls.run(3) == 0
    assert wide.calls == [arguments] * 3
    assert narrow.calls == [(7,)] * 3


def test_the_first_refusal_ends_the_loop(origin: str) -> None:
    first, second = Seen(1), Seen(1, results=(0, 600))
    calls = RepeatedCalls(Call(first.address, (1,)), Call(second.address, (2,)), Call(first.address, (3,)))

    assert calls.run(10) == 600
    assert first.calls == [(1,), (3,), (1,)]
    assert len(second.calls) == 2


def test_what_arguments_point_to_is_kept() -> None:
    text = ctypes.create_string_buffer(b"abc")
    memcmp = ctypes.cast(ctypes.CDLL(None).memcmp, ctypes.c_void_p).value or 0
    calls = RepeatedCalls(Call(memcmp, (ctypes.addressof(text), ctypes.addressof(text), 3)), keep=text)
    del text

    assert calls.run(1000) == 0


def test_x86_64_as_a_disassembler_shows_it(tmp_path: Path) -> None:
    lines = listing(repeated_calls.x86_64_code(), X86, tmp_path)

    assert lines[:5] == ["push rbx", "push rbp", "push r12", "push r13", "sub rsp,0x28"]
    assert lines[-6:] == ["add rsp,0x28", "pop r13", "pop r12", "pop rbp", "pop rbx", "ret"]
    assert [line for line in lines if line.startswith("call")] == ["call QWORD PTR [rbp+0x0]"]
    assert [line.split(",")[0] for line in lines if "mov r" in line and "[rbp" in line] == [
        *["mov rax"] * 5, *(f"mov {register}" for register in ("rdi", "rsi", "rdx", "rcx", "r8", "r9")),
    ]  # fmt: skip
    assert not any("bad" in line for line in lines)


def test_aarch64_words_are_those_that_were_emulated() -> None:
    assert hashlib.sha256(repeated_calls.aarch64_code()).hexdigest()[:16] == EMULATED


def test_aarch64_as_a_disassembler_shows_it(tmp_path: Path) -> None:
    lines = listing(repeated_calls.aarch64_code(), AARCH64, tmp_path)

    assert lines.count("blr x8") == 1
    assert lines[-1] == "ret"
    assert not any("undefined" in line or ".inst" in line for line in lines)


def test_aarch64_words_run_right_in_an_emulator(tmp_path: Path) -> None:
    compiler, emulator = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("there is no qemu-aarch64, or no compiler for aarch64")
    words = ",".join(map(str, repeated_calls.aarch64_code()))
    (tmp_path / "program.c").write_text(PROGRAM.replace("WORDS", words))
    command = [compiler, "-O2", "-static", "-o", str(tmp_path / "program"), str(tmp_path / "program.c")]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if "cannot find -lc" in built.stderr:
        pytest.skip("there is no library to link for aarch64")
    assert built.returncode == 0, built.stderr
    done = subprocess.run([emulator, str(tmp_path / "program")], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["0", "7", str(5 * 1001 + 3 * 1000000), "0"]
