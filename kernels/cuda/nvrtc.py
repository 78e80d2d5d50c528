"""How does CUDA C++ become machine code for one architecture? NVRTC through ctypes, and a cache on disk by content.

No host compiler, no nvcc and no headers are needed; sources must not #include anything. No GPU is needed either.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from probe.errors import UnavailableError
from probe.files import cache_directory, write_atomically
from probe.kernels.cuda import libraries

OPTIONS = ("-std=c++17", "-default-device")
_SUCCESS = 0  # nvrtcResult
_DIGEST = 32  # bytes of SHA-256 behind a cached cubin: a damaged file shows
_ARCHITECTURE = re.compile(r"sm_(\d+)([af]?)")
_OLDEST_OF_12 = 50  # NVRTC 12 compiles for Maxwell and later
# Architectures whose newest instructions (wgmma, tcgen05) exist only under the name with an "a".
_ACCELERATED = {90, 100, 101, 103, 110}


class CompileError(RuntimeError):
    """NVRTC refused one of probe's own sources: a defect of probe's; the message holds NVRTC's log."""


def architecture_of(major: int, minor: int) -> str:
    """The name to compile for: sm_90a for 9.0, sm_100a for 10.0, sm_75 for 7.5, sm_120 for 12.0."""
    number = 10 * major + minor
    return f"sm_{number}a" if number in _ACCELERATED else f"sm_{number}"


def number_of(architecture: str) -> int:
    """90 of "sm_90a"."""
    match = _ARCHITECTURE.fullmatch(architecture)
    if match is None:
        raise ValueError(f"{architecture!r} is not an architecture such as sm_90a")
    return int(match[1])


class Nvrtc:
    """One loaded NVRTC: its path, its version, and the architectures it knows (75, 80, 90, …)."""

    def __init__(self, path: str) -> None:
        """Loads it; OSError where that fails or the library is no NVRTC."""
        self.path = Path(path)
        self._builtins = _builtins_beside(self.path)
        self._library = ctypes.CDLL(path)
        try:
            self.version = self._version()
            self.architectures = self._architectures()
        except AttributeError as missing:  # before CUDA 11.2 there is no list of architectures
            raise OSError(f"{path}: {missing}") from None

    def __str__(self) -> str:
        return f"NVRTC {self.version[0]}.{self.version[1]}"

    def compile(self, source: str, architecture: str, options: Sequence[str] = ()) -> bytes:
        """The cubin of `source` for "sm_90a"; CompileError with NVRTC's log where it refuses."""
        program = ctypes.c_void_p()
        self._checked("nvrtcCreateProgram", ctypes.byref(program), source.encode(), b"probe.cu", 0, None, None)
        try:
            flags = [flag.encode() for flag in (f"--gpu-architecture={architecture}", *OPTIONS, *options)]
            array = (ctypes.c_char_p * len(flags))(*flags)
            code = self._library.nvrtcCompileProgram(program, len(flags), array)
            if code != _SUCCESS:
                raise CompileError(f"{self} for {architecture}: {self._says(code)}\n{self._log(program)}")
            return self._bytes("nvrtcGetCUBIN", program)
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _version(self) -> tuple[int, int]:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._checked("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value

    def _architectures(self) -> frozenset[int]:
        count = ctypes.c_int()
        self._checked("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        array = (ctypes.c_int * count.value)()
        self._checked("nvrtcGetSupportedArchs", array)
        return frozenset(array)

    def _log(self, program: ctypes.c_void_p) -> str:
        return self._bytes("nvrtcGetProgramLog", program).rstrip(b"\0").decode(errors="replace").strip()

    def _bytes(self, function: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._checked(f"{function}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._checked(function, program, buffer)
        return buffer.raw

    def _checked(self, function: str, *arguments: object) -> None:
        code = getattr(self._library, function)(*arguments)
        if code != _SUCCESS:
            raise CompileError(f"NVRTC at {self.path}: {function} failed: {self._says(code)}")

    def _says(self, code: int) -> str:
        words = self._library.nvrtcGetErrorString
        words.restype = ctypes.c_char_p
        return str(words(code).decode())


def _builtins_beside(library: Path) -> list[ctypes.CDLL]:
    """What NVRTC loads by its bare name when it compiles: loaded from beside it first, else some versions miss it."""
    found = []
    for path in sorted(library.parent.glob("libnvrtc-builtins.so.*")) if library.parent != Path() else []:
        with contextlib.suppress(OSError):  # if it matters, compiling says so
            found.append(ctypes.CDLL(str(path)))
    return found


@functools.cache
def available() -> tuple[Nvrtc, ...]:
    """Every NVRTC that loads here, the newest first."""
    loaded = []
    for candidate in libraries.nvrtc_candidates():
        try:
            loaded.append(Nvrtc(candidate))
        except (OSError, CompileError):  # another architecture's library, a name the loader does not know
            continue
    return tuple(sorted(loaded, key=lambda nvrtc: nvrtc.version, reverse=True))


def compiler_for(architecture: str, driver: tuple[int, int] | None = None) -> Nvrtc:
    """The newest NVRTC that knows `architecture`; one of the CUDA major version that `driver` has before a newer one.

    A driver loads cubins of its own major version and of older ones; a newer major version's it may refuse.
    Raises UnavailableError where none is found, or all are too old or too new for the architecture.
    """
    number = number_of(architecture)
    knowing = [nvrtc for nvrtc in available() if number in nvrtc.architectures]
    if not knowing:
        raise UnavailableError(_why_none(architecture, number))
    fitting = [nvrtc for nvrtc in knowing if driver is None or nvrtc.version[0] <= driver[0]]
    return (fitting or knowing)[0]


def _why_none(architecture: str, number: int) -> str:
    """One line: what is missing to compile for `architecture`, and the remedy."""
    if not available():
        return "NVRTC (libnvrtc.so) was not found: install it with `pip install nvidia-cuda-nvrtc`, or set CUDA_HOME"
    versions = ", ".join(f"{nvrtc.version[0]}.{nvrtc.version[1]}" for nvrtc in available())
    known = frozenset().union(*(nvrtc.architectures for nvrtc in available()))
    if number < min(known):
        remedy = "`pip install nvidia-cuda-nvrtc-cu12` beside it" if number >= _OLDEST_OF_12 else "measure newer GPUs"
        return f"NVRTC {versions} no longer compiles for {architecture} (its oldest is sm_{min(known)}): {remedy}"
    remedy = "upgrade it with `pip install --upgrade nvidia-cuda-nvrtc`"
    if number < max(known):
        return f"NVRTC {versions} does not know {architecture}: {remedy}"
    return f"NVRTC {versions} is too old for {architecture} (its newest is sm_{max(known)}): {remedy}"


def cubin(
    source: str,
    architecture: str,
    defines: Mapping[str, object] | None = None,
    *,
    driver: tuple[int, int] | None = None,
) -> bytes:
    """The cubin of `source` with each of `defines` as a macro; compiled once per content, then read from disk.

    The cache is in the user's cache directory; where it cannot be written, everything works without it. Raises
    UnavailableError without a fitting NVRTC, and CompileError for a defect in the source.
    """
    nvrtc = compiler_for(architecture, driver)
    options = tuple(f"-D{name}={value}" for name, value in (defines or {}).items())
    return _made(nvrtc, source, architecture, options)


@functools.lru_cache(maxsize=4096)  # one process compiles each content once, whether the cache can be written or not
def _made(nvrtc: Nvrtc, source: str, architecture: str, options: tuple[str, ...]) -> bytes:
    """From the cache on disk, or compiled and left there."""
    path = cache_directory() / "cubins" / f"{_key(nvrtc, source, architecture, options)}.cubin"
    code = _cached(path)
    if code is None:
        code = nvrtc.compile(source, architecture, options)
        _keep(path, code)
    return code


def _key(nvrtc: Nvrtc, source: str, architecture: str, options: Sequence[str]) -> str:
    recipe = "\0".join((str(nvrtc), architecture, *OPTIONS, *options, "", source))
    return hashlib.sha256(recipe.encode()).hexdigest()[:32]


def _cached(path: Path) -> bytes | None:
    """The cubin at `path`; None where there is none, or what is there is damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    code, digest = data[:-_DIGEST], data[-_DIGEST:]
    return code if code and hashlib.sha256(code).digest() == digest else None


def _keep(path: Path, code: bytes) -> None:
    """Leave the cubin for the next time; its digest follows it, where an ELF reader does not look."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, code + hashlib.sha256(code).digest())
    except OSError:  # a read-only or full cache directory costs time, nothing else
        return
