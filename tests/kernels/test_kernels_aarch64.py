"""Do the aarch64 words compute what they say? In an emulator where there is one; elsewhere they are those that did."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from disassembly import AARCH64, listing

from probe.kernels.cpu import aarch64, aarch64_loads, compiled
from probe.kernels.cpu.loops import ALL_STREAMS, READ, SAXPY_SCALAR, TRIAD_NT

LOOPS = {kind.symbol: aarch64.stream(kind, ()) for kind in ALL_STREAMS if kind != READ}
LOOPS[READ.symbol] = aarch64_loads.read(())
LOOPS |= {f"probe_load_{width}": aarch64_loads.load(width) for width in aarch64_loads.widths(())}

# Of the words that computed right under qemu-aarch64 (the test below); no aarch64 machine has run them yet.
EMULATED = {
    "probe_write_f64": "ac967d4b28f6caed",
    "probe_copy_f64": "90641fdcef6ccfd0",
    "probe_scale_f64": "5b173ee1d121b8d7",
    "probe_add_f64": "2229146ded554cbd",
    "probe_triad_f64": "c4ae02f9dd0a43df",
    "probe_write_nt_f64": "d6725e3e313330bd",
    "probe_copy_nt_f64": "1474df87745378f5",
    "probe_triad_nt_f64": "b5e852f32c3719de",
    "probe_triad_f32": "9e2a7d7a27d1788e",
    "probe_triad_scalar_f32": "a9556eb2f2a285f9",
    "probe_read_f64": "12a41a097198462a",
    "probe_load_8": "7b04f20f532449af",
    "probe_load_16": "241c399f8442ad9a",
}

TRIVIAL = "#include <stdio.h>\nint main(void) { return 0; }\n"

PROGRAM = r"""
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include "cpu_loops.c"

enum { ROOM = 400, LONGEST = 300, CODE_BYTES = 1 << 16 };
typedef void loop_double(void *, const void *, const void *, uint64_t, uint64_t, uint64_t *, double);
typedef void loop_float(void *, const void *, const void *, uint64_t, uint64_t, uint64_t *, float);
static double x[ROOM], y[ROOM], ours[ROOM], theirs[ROOM];

// `read` may leave the exclusive or in one word or spread over several.
static void fold(double *array) {
    uint64_t words[ROOM], all = 0;
    memcpy(words, array, sizeof words);
    for (int i = 0; i < ROOM; i++) all ^= words[i], words[i] = 0;
    words[0] = all;
    memcpy(array, words, sizeof words);
}

#define CHECK(name, type) {                                                                            \
    char *code = mmap(0, CODE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);      \
    memcpy(code, name##_words, sizeof name##_words);                                                   \
    mprotect(code, CODE_BYTES, PROT_READ | PROT_EXEC);                                                 \
    __builtin___clear_cache(code, code + sizeof name##_words);                                         \
    for (uint64_t n = 0; n < LONGEST; n++) {                                                           \
        uint64_t gate[2] = {0, 1};                                                                     \
        memset(ours, 0, sizeof ours), memset(theirs, 0, sizeof theirs);                                \
        ((loop_##type *)code)(ours + 1, x + 1, y + 2, n, 3, gate, (type)2);                            \
        ((loop_##type *)name)((void *)(theirs + 1), (void *)(x + 1), (void *)(y + 2), n, 3, 0, (type)2); \
        if (gate[0] != 1) return printf(#name " did not come to the gate\n"), 1;                       \
        if (!strcmp(#name, "probe_read_f64")) fold(ours), fold(theirs);                                \
        if (memcmp(ours, theirs, sizeof ours)) return printf(#name " differs for %d\n", (int)n), 1;    \
    }                                                                                                  \
    printf(#name "\n");                                                                                \
}

int main(void) {
    for (int i = 0; i < ROOM; i++) x[i] = i + 1, y[i] = 3 * i + 1;
    CHECKS
    return 0;
}
"""


def program() -> str:
    """C that runs each loop's words and its compiled twin on equal arrays, and prints the names of those that agree."""
    words = "".join(f"const unsigned char {name}_words[] = {{{','.join(map(str, c))}}};\n" for name, c in LOOPS.items())
    checks = "".join(f"CHECK({name}, {'float' if name.endswith('f32') else 'double'})\n" for name in LOOPS)
    return words + PROGRAM.replace("CHECKS", checks)


def build(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    """Build a static program for aarch64 from C; skips where there is no compiler."""
    compiler = shutil.which("aarch64-linux-gnu-gcc")
    if compiler is None:
        pytest.skip("there is no aarch64-linux-gnu-gcc")
    (folder / "program.c").write_text(source)
    flags = ["-O2", "-fno-tree-loop-distribute-patterns", "-static", "-I", str(compiled.SOURCE.parent)]
    command = [compiler, *flags, "-o", str(folder / "program"), str(folder / "program.c")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_words_compute_right_in_an_emulator(tmp_path: Path) -> None:
    """The words leave the memory that the same loops compiled leave, for every length, repeated three times."""
    emulator = shutil.which("qemu-aarch64")
    if emulator is None or build(tmp_path, TRIVIAL).returncode:
        pytest.skip("there is no qemu-aarch64, or no library to link for aarch64")
    built = build(tmp_path, program())
    assert built.returncode == 0, built.stderr
    done = subprocess.run([emulator, str(tmp_path / "program")], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == list(LOOPS)


@pytest.mark.parametrize("name", list(LOOPS))
def test_words_are_those_that_were_emulated(name: str) -> None:
    assert hashlib.sha256(LOOPS[name]).hexdigest()[:16] == EMULATED[name]


def test_stores_past_the_caches_as_a_disassembler_shows_them(tmp_path: Path) -> None:
    triad = listing(LOOPS[TRIAD_NT.symbol], AARCH64, tmp_path)

    assert [line for line in triad if line.startswith("stnp")] == ["stnp q1, q2, [x10]", "stnp q3, q4, [x10, #32]"]
    assert triad[-2:] == ["dmb ishst", "ret"]


def test_loads_as_a_disassembler_shows_them(tmp_path: Path) -> None:
    vectors = listing(LOOPS["probe_load_16"], AARCH64, tmp_path)
    words = listing(LOOPS["probe_load_8"], AARCH64, tmp_path)
    at = [f", #{16 * i}" if i else "" for i in range(16)]

    assert [line for line in vectors if " q" in line] == [f"ldr q{16 + i % 8}, [x11{at[i]}]" for i in range(16)]
    assert sum(line.startswith("ldr x9, [x11") for line in words) == 17


def test_one_element_at_a_time_as_a_disassembler_shows_it(tmp_path: Path) -> None:
    lines = listing(LOOPS[SAXPY_SCALAR.symbol], AARCH64, tmp_path)

    assert [line for line in lines if line.startswith(("ldr s", "str s", "fm"))] == [
        "ldr s1, [x11], #4", "ldr s16, [x12], #4", "fmadd s1, s16, s0, s1", "str s1, [x10], #4"
    ]  # fmt: skip
    assert not any(" q" in line or "fmla" in line for line in lines)


@pytest.mark.parametrize("name", list(LOOPS))
def test_a_disassembler_knows_every_word(name: str, tmp_path: Path) -> None:
    lines = listing(LOOPS[name], AARCH64, tmp_path)

    assert lines[-1] == "ret"
    assert not any("undefined" in line or ".inst" in line for line in lines)
