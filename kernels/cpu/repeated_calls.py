"""How are functions of a C library called over and over, with nothing but a few instructions between the calls?

A call from Python takes about as long as launching a kernel does, so a loop in Python would time itself. The loop here
is machine code: it walks over a table of calls (an address and eleven arguments each), a number of times, and ends at
the first call whose 32-bit result is not 0. Arguments are integers and pointers; each goes where the calling convention
wants the eleven (System V on x86-64: six registers, then the stack; AAPCS64: eight), and a function with fewer does not
look at the rest. Where no machine code can be run Python calls instead, and `origin` says so.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass

from probe.errors import UnavailableError
from probe.kernels.cpu import aarch64
from probe.kernels.cpu.machine_code import AARCH64, X86_64, function

MOST_ARGUMENTS = 11  # cuLaunchKernel's
WORDS = 1 + MOST_ARGUMENTS  # of 64 bits, for one call in the table
MACHINE_CODE, PYTHON = "machine code", "Python"
LOOP_TYPE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64)
Loop = Callable[[int, int, int], int]  # rounds, address of the table, its bytes


@dataclass(frozen=True)
class Call:
    """One call of the function at `address`; arguments as unsigned integers of up to 64 bits, pointers among them."""

    address: int
    arguments: tuple[int, ...] = ()


class RepeatedCalls:
    """A table of calls that can be gone through again and again."""

    def __init__(self, *calls: Call, keep: object = None) -> None:
        """`keep` is what the arguments point to, held for as long as this is."""
        self.calls = len(calls)
        self._keep = keep
        rows = [(call.address, *call.arguments, *[0] * (MOST_ARGUMENTS - len(call.arguments))) for call in calls]
        self._table = (ctypes.c_uint64 * (WORDS * len(rows)))(*(word for row in rows for word in row))
        self._loop, self.origin = _loop(calls)

    def run(self, rounds: int) -> int:
        """Go through the table `rounds` times, at least once; 0, or the first result that is not."""
        return self._loop(rounds, ctypes.addressof(self._table), ctypes.sizeof(self._table))


def _loop(calls: tuple[Call, ...]) -> tuple[Loop, str]:
    """The loop in machine code, or where that cannot be, in Python."""
    try:
        return function(code(), LOOP_TYPE), MACHINE_CODE
    except (OSError, UnavailableError):
        return _in_python(calls), PYTHON


def _in_python(calls: tuple[Call, ...]) -> Loop:
    """The same from Python, which takes a good part of a microsecond longer for each call."""
    made = [
        (ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_uint64] * len(call.arguments))(call.address), call.arguments)
        for call in calls
    ]

    def loop(rounds: int, table: int, size_bytes: int) -> int:
        for _ in range(rounds):
            for called, arguments in made:
                if result := called(*arguments):
                    return int(result)
        return 0

    return loop


def code(machine: str | None = None) -> bytes:
    """The loop's bytes for this or another machine; UnavailableError where there are none."""
    machine = (machine or platform.machine()).lower()
    if sys.platform != "win32" and machine in X86_64:
        return x86_64_code()
    if sys.platform == "linux" and machine in AARCH64:
        return aarch64_code()
    raise UnavailableError(f"there is no loop of calls for {machine} on {sys.platform}")


def x86_64_code() -> bytes:
    """int loop(rdi rounds, rsi table, rdx its bytes); the stack stays a multiple of 16 at each call."""
    keep = "53 55 4154 4155 4883ec28"  # push rbx, rbp, r12, r13; sub rsp, 40
    take = "4889fb 4989f4 4c8d2c16"  # mov rbx, rdi; mov r12, rsi; lea r13, [rsi + rdx]
    first = "4c89e5"  # mov rbp, r12
    stacked = "488b4538 48890424"  # mov rax, [rbp + 56]; mov [rsp], rax
    stacked += "488b4540 4889442408 488b4548 4889442410 488b4550 4889442418 488b4558 4889442420"
    registers = "488b7d08 488b7510 488b5518 488b4d20 4c8b4528 4c8b4d30"  # rdi, rsi, rdx, rcx, r8, r9
    call = "ff5500 85c0 750e"  # call [rbp]; test eax, eax; jne end
    following = "4883c560 4c39ed 72ac 48ffcb 75a4"  # add rbp, 96; cmp rbp, r13; jb; dec rbx; jne
    leave = "4883c428 415d 415c 5d 5b c3"  # add rsp, 40; pop r13, r12, rbp, rbx; ret
    return bytes.fromhex(keep + take + first + stacked + registers + call + following + leave)


def aarch64_code() -> bytes:
    """int loop(x0 rounds, x1 table, x2 its bytes); the frame record lies above the arguments on the stack."""
    keep = [0xD10143FF, 0xA9027BFD, 0x910083FD, 0xA90353F3, 0xA9045BF5]  # sub sp; stp x29, x30; add x29; stp x19 to x22
    take = [0xAA0003F3, 0xAA0103F4, 0x8B020035]  # mov x19, x0; mov x20, x1; add x21, x1, x2
    first = [0xAA1403F6]  # mov x22, x20
    # ldp x8, x0; x1, x2; … x10, x11, [x22 …]: the address, the eight in registers, the three for the stack
    registers = [0xA94002C8, 0xA9410AC1, 0xA94212C3, 0xA9431AC5, 0xA94426C7, 0xA9452ECA]
    stacked = [0xA9002BE9, 0xF9000BEB]  # stp x9, x10, [sp]; str x11, [sp, #16]
    call = [0xD63F0100, 0x350000C0]  # blr x8; cbnz w0, end
    following = [0x910182D6, 0xEB1502DF, 0x54FFFE83, 0xF1000673, 0x54FFFE21]  # add x22; cmp; b.lo; subs x19; b.ne
    leave = [0xA94353F3, 0xA9445BF5, 0xA9427BFD, 0x910143FF, 0xD65F03C0]  # ldp; ldp; ldp; add sp; ret
    return aarch64.words(keep + take + first + registers + stacked + call + following + leave)
