"""Which NVRTC compiles for which architecture, what is said where none does, and the cache of what was compiled."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import fake_cuda
import pytest

from probe.errors import UnavailableError
from probe.kernels.cuda import cubin, libraries, nvrtc

SOURCE = 'extern "C" __global__ void k(float *p) { p[threadIdx.x] *= FACTOR; }'


class FakeNvrtc:
    """An NVRTC of some version that knows some architectures; what it makes says what it was asked."""

    def __init__(self, version: tuple[int, int], architectures: set[int]) -> None:
        self.version, self.architectures = version, frozenset(architectures)
        self.compiled: list[tuple[str, ...]] = []

    def __str__(self) -> str:
        return f"NVRTC {self.version[0]}.{self.version[1]}"

    def compile(self, source: str, architecture: str, options: tuple[str, ...] = ()) -> bytes:
        self.compiled.append((source, architecture, *options))
        return f"{self} {architecture} {' '.join(options)} {source}".encode()


THIRTEEN = FakeNvrtc((13, 0), {75, 80, 86, 89, 90, 100, 120})
TWELVE = FakeNvrtc((12, 9), {60, 70, 75, 80, 90, 100})
OLD = FakeNvrtc((11, 8), {60, 70, 75, 80, 86})


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """What this process has compiled is compiled again."""
    nvrtc._made.cache_clear()
    yield
    nvrtc._made.cache_clear()


def _only(monkeypatch: pytest.MonkeyPatch, *compilers: FakeNvrtc) -> None:
    monkeypatch.setattr(nvrtc, "available", lambda: compilers)


@pytest.mark.parametrize(
    ("major", "minor", "name"),
    [(7, 0, "sm_70"), (8, 6, "sm_86"), (9, 0, "sm_90a"), (10, 0, "sm_100a"), (10, 3, "sm_103a"), (12, 0, "sm_120")],
)
def test_architectures_have_their_accelerated_names(major: int, minor: int, name: str) -> None:
    assert nvrtc.architecture_of(major, minor) == name
    assert nvrtc.number_of(name) == 10 * major + minor


def test_a_name_that_is_no_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match="'gfx942' is not an architecture"):
        nvrtc.number_of("gfx942")


def test_the_newest_that_knows_the_architecture_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    _only(monkeypatch, THIRTEEN, TWELVE, OLD)
    assert nvrtc.compiler_for("sm_90a") is THIRTEEN
    assert nvrtc.compiler_for("sm_70") is TWELVE


def test_one_of_the_drivers_major_version_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    _only(monkeypatch, THIRTEEN, TWELVE, OLD)
    assert nvrtc.compiler_for("sm_80", driver=(12, 4)) is TWELVE
    assert nvrtc.compiler_for("sm_80", driver=(13, 0)) is THIRTEEN
    assert nvrtc.compiler_for("sm_120", driver=(12, 4)) is THIRTEEN  # the driver may refuse it: that is for it to say


def test_without_nvrtc_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _only(monkeypatch)
    with pytest.raises(UnavailableError, match=r"NVRTC \(libnvrtc.so\) was not found: .*nvidia-cuda-nvrtc"):
        nvrtc.compiler_for("sm_90a")


def test_thirteen_alone_does_not_know_volta(monkeypatch: pytest.MonkeyPatch) -> None:
    _only(monkeypatch, THIRTEEN)
    said = r"NVRTC 13.0 no longer compiles for sm_70 \(its oldest is sm_75\): `pip install nvidia-cuda-nvrtc-cu12`"
    with pytest.raises(UnavailableError, match=said):
        nvrtc.compiler_for("sm_70")


@pytest.mark.parametrize(("compiler", "architecture"), [(OLD, "sm_90a"), (THIRTEEN, "sm_150")])
def test_too_old_a_compiler_is_to_be_upgraded(
    monkeypatch: pytest.MonkeyPatch, compiler: FakeNvrtc, architecture: str
) -> None:
    _only(monkeypatch, compiler)
    with pytest.raises(
        UnavailableError, match=rf"too old for {architecture} .*pip install --upgrade nvidia-cuda-nvrtc"
    ):
        nvrtc.compiler_for(architecture)


def test_an_architecture_between_the_known_ones_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _only(monkeypatch, THIRTEEN)
    with pytest.raises(UnavailableError, match=r"NVRTC 13\.0 does not know sm_87"):
        nvrtc.compiler_for("sm_87")


def test_every_message_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for compilers in ((), (OLD,), (THIRTEEN,), (THIRTEEN, TWELVE)):
        _only(monkeypatch, *compilers)
        for architecture in ("sm_35", "sm_52", "sm_70", "sm_87", "sm_150"):
            try:
                nvrtc.compiler_for(architecture)
            except UnavailableError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize("architecture", ["sm_70", "sm_75", "sm_90a", "sm_100a", "sm_120"])
def test_source_becomes_machine_code(architecture: str) -> None:
    try:
        code = nvrtc.cubin(SOURCE, architecture, {"FACTOR": "2.0f"})
    except UnavailableError as missing:
        pytest.skip(str(missing))
    assert cubin.kernels(code) == ("k",)
    assert cubin.architecture(code) == nvrtc.number_of(architecture)


def test_a_defect_in_a_source_comes_with_the_compilers_log() -> None:
    if not nvrtc.available():
        pytest.skip("there is no NVRTC")
    with pytest.raises(nvrtc.CompileError, match=r"(?s)sm_90a: NVRTC_ERROR_COMPILATION.*probe.cu.*FACTOR"):
        nvrtc.cubin(SOURCE, "sm_90a")


def test_options_are_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """C++17, and functions without a qualifier are the device's."""
    compilers = nvrtc.available()
    if not compilers:
        pytest.skip("there is no NVRTC")
    source = "constexpr int two() { if constexpr (true) return 2; }\n" + SOURCE.replace("FACTOR", "two()")
    assert cubin.kernels(compilers[0].compile(source, "sm_90a")) == ("k",)


# ---- the cache ----


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> FakeNvrtc:
    only = FakeNvrtc((13, 0), {90})
    _only(monkeypatch, only)
    return only


def _again(source: str = "source", **defines: object) -> bytes:
    """As another process would ask."""
    nvrtc._made.cache_clear()
    return nvrtc.cubin(source, "sm_90a", defines)


def test_what_was_compiled_is_read_from_disk(compiler: FakeNvrtc) -> None:
    assert _again(A=1) == _again(A=1) == b"NVRTC 13.0 sm_90a -DA=1 source"
    assert len(compiler.compiled) == 1


def test_another_content_is_another_file(compiler: FakeNvrtc, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    _again(A=1), _again(A=2), _again("other", A=1)
    newer = FakeNvrtc((13, 1), {90})
    _only(monkeypatch, newer)
    _again(A=1)
    assert len(compiler.compiled) == 3
    assert len(newer.compiled) == 1
    assert len(list((own_cache / "cubins").iterdir())) == 4


def test_one_process_compiles_once_without_any_cache(compiler: FakeNvrtc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "_keep", lambda path, code: None)
    assert nvrtc.cubin("source", "sm_90a") == nvrtc.cubin("source", "sm_90a")
    assert len(compiler.compiled) == 1


@pytest.mark.parametrize("damage", [b"", b"x", b"\0" * 100])
def test_a_damaged_file_is_compiled_again(compiler: FakeNvrtc, own_cache: Path, damage: bytes) -> None:
    first = _again()
    (file,) = (own_cache / "cubins").iterdir()
    whole = file.read_bytes()
    for content in (damage, whole[:-1], whole[1:], whole + damage[:1] + b"y"):
        file.write_bytes(content)
        assert _again() == first
        assert file.read_bytes() == whole
    assert len(compiler.compiled) == 5


def test_a_cache_that_cannot_be_written_is_done_without(
    compiler: FakeNvrtc, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blocked = tmp_path / "a file, no folder"
    blocked.write_text("")
    monkeypatch.setenv("PROBE_CACHE_DIR", str(blocked))
    assert _again() == _again() == b"NVRTC 13.0 sm_90a  source"
    assert len(compiler.compiled) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to read-only folders")
def test_a_read_only_cache_is_done_without(compiler: FakeNvrtc, own_cache: Path) -> None:
    folder = own_cache / "cubins"
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    try:
        assert _again() == b"NVRTC 13.0 sm_90a  source"
    finally:
        folder.chmod(0o700)


def _compile_often(folder: str, start: object) -> list[bytes]:
    os.environ["PROBE_CACHE_DIR"] = folder
    nvrtc.available = lambda: (FakeNvrtc((13, 0), {90}),)  # type: ignore[assignment,return-value]
    found = []
    for number in range(50):
        nvrtc._made.cache_clear()
        found.append(nvrtc.cubin("s" * 100_000, "sm_90a", {"N": number}))
    return found


def test_two_processes_at_once_read_whole_files(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        one, other = pool.starmap(_compile_often, [(str(tmp_path), None)] * 2)
    assert one == other
    assert len(list((tmp_path / "cubins").iterdir())) == 50  # and no unfinished one is left


# ---- where the libraries are ----


def test_libraries_are_found_in_wheels_and_toolkits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheels, toolkit = tmp_path / "site-packages", tmp_path / "cuda"
    wanted = [
        wheels / "nvidia/cu13/lib/libnvrtc.so.13",
        wheels / "nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
        toolkit / "lib64/libnvrtc.so.12",
    ]
    others = [wanted[0].with_name("libnvrtc-builtins.so.13.0"), wanted[1].with_name("libnvrtc.alt.so.12")]
    for path in (*wanted, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (toolkit / "lib64/libnvrtc.so.12.4.99").symlink_to(wanted[2])
    monkeypatch.setattr(libraries.sys, "path", ["", str(wheels)])
    monkeypatch.setattr(libraries, "_SYSTEM", ())
    monkeypatch.setenv("CUDA_HOME", str(toolkit))
    monkeypatch.delenv("CUDA_PATH", raising=False)
    found = libraries.nvrtc_candidates()
    here = [path for path in found if str(tmp_path) in path]
    assert here == [str(path) for path in wanted]
    assert "libnvrtc.so.11.2" in found
    assert "libnvrtc.so.13" not in found


def test_what_does_not_load_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "libnvrtc.so.13"
    broken.write_bytes(b"no library")
    monkeypatch.setattr(libraries, "nvrtc_candidates", lambda: (str(broken), "libnvrtc.so.99", "libc.so.6"))
    assert nvrtc.available.__wrapped__() == ()


def test_the_builtins_beside_a_library_are_loaded(tmp_path: Path) -> None:
    """NVRTC 13.0 in a wheel asks the dynamic loader for them by name alone, and does not find them."""
    (tmp_path / "libnvrtc-builtins.so.13.0").symlink_to(fake_cuda.library())
    (tmp_path / "libnvrtc-builtins.so.13.1").write_bytes(b"no library")
    (one,) = nvrtc._builtins_beside(tmp_path / "libnvrtc.so.13")
    assert one._name == str(tmp_path / "libnvrtc-builtins.so.13.0")
    assert nvrtc._builtins_beside(Path("libnvrtc.so.13")) == []
