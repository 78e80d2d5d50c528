"""Bytes of a file, zipped or not, local or remote, whole or damaged."""

from __future__ import annotations

import builtins
import errno
import gzip
import importlib
import io
import random
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.errors import InputError, TraceError, UsageError
from probe.readers import opening
from probe.readers.opening import Stream, open_stream, shown

TEXT = b"".join(b'{"ph": "X", "ts": %d.%03d},\n' % (i * 7919, i % 1000) for i in range(40_000))


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    """Every test leaves as many reading threads as it found: none."""
    yield
    assert not [t for t in threading.enumerate() if t.name == "probe-read"]


@pytest.fixture(params=["installed", "zlib"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once with what is installed (isal, where it is), once with zlib."""
    if request.param == "zlib":
        monkeypatch.setattr(opening, "_inflate", zlib)


def written(folder: Path, data: bytes, name: str = "rank0.json.gz") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def all_of(path: Path | str) -> tuple[bytes, bool]:
    with open_stream(path) as stream:
        return stream.read(), stream.truncated


@pytest.mark.usefixtures("library")
class TestZipped:
    def test_content_decides_not_the_name(self, tmp_path: Path) -> None:
        assert all_of(written(tmp_path, gzip.compress(TEXT), "zipped.json")) == (TEXT, False)
        assert all_of(written(tmp_path, TEXT, "plain.json.gz")) == (TEXT, False)

    def test_members_and_padding(self, tmp_path: Path) -> None:
        members = gzip.compress(TEXT) + gzip.compress(b"") + b"\0" * 700 + gzip.compress(b"end") + b"\0" * 300
        assert all_of(written(tmp_path, members)) == (TEXT + b"end", False)

    def test_broken_off_anywhere_gives_what_zlib_gives(self, tmp_path: Path) -> None:
        """The oracle is one call of zlib on the same bytes; isal stops at most one match of 258 bytes before it."""
        whole = gzip.compress(TEXT)
        for size in (11, 20, 100, 5_000, len(whole) // 2, len(whole) - 9, len(whole) - 8, len(whole) - 1):
            text, truncated = _or_nothing(written(tmp_path, whole[:size]))
            assert truncated
            oracle = zlib.decompressobj(wbits=31).decompress(whole[:size])
            assert oracle.startswith(text) and len(text) >= len(oracle) - 258

    def test_broken_off_in_the_second_member(self, tmp_path: Path) -> None:
        second = gzip.compress(TEXT)
        text, truncated = all_of(written(tmp_path, gzip.compress(b"[") + second[: len(second) // 2]))
        assert truncated
        assert 1 < len(text) < len(TEXT)
        assert (b"[" + TEXT).startswith(text)

    def test_damage_keeps_what_lies_before(self, tmp_path: Path) -> None:
        noise = random.Random(3).randbytes(300_000).hex().encode()
        data = bytearray(gzip.compress(noise))
        data[200_000:200_064] = bytes(64)
        text, truncated = all_of(written(tmp_path, bytes(data)))
        assert truncated
        assert noise[:200_000].startswith(text[:200_000])
        assert len(text) > 150_000

    def test_a_wrong_checksum_counts_as_damage(self, tmp_path: Path) -> None:
        data = bytearray(gzip.compress(TEXT))
        data[-6] ^= 1
        text, truncated = all_of(written(tmp_path, bytes(data)))
        assert truncated and text and TEXT.startswith(text)

    def test_nothing_in_it(self, tmp_path: Path) -> None:
        for data in (b"\x1f\x8b", b"\x1f\x8b" + b"rubbish" * 9):
            with pytest.raises(TraceError, match=r"rank0.json.gz: damaged gzip stream, nothing in it can be read"):
                all_of(written(tmp_path, data))

    @settings(max_examples=40)
    @given(parts=st.lists(st.binary(max_size=300), min_size=1, max_size=5), sizes=st.lists(st.integers(1, 9)))
    def test_any_members_in_any_reads(
        self, tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], sizes: list[int]
    ) -> None:
        path = written(tmp_path_factory.mktemp("z"), b"".join(gzip.compress(p) for p in parts))
        with open_stream(path) as stream:
            read = [stream.read(size) for size in sizes]
            assert all(len(r) <= s for r, s in zip(read, sizes, strict=True))
            assert b"".join(read) + stream.read() == b"".join(parts)
            assert not stream.truncated

    def test_small_pieces(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Headers, trailers and padding fall across the borders of reads, pieces and chunks."""
        members = gzip.compress(TEXT[:5000]) + b"\0" * 5 + gzip.compress(TEXT[5000:9000])
        for name in ("_READ", "_PIECE", "_FIRST_PIECE", "CHUNK"):
            for size in (2, 3, 7):
                with monkeypatch.context() as patch:
                    patch.setattr(opening, name, size)
                    assert all_of(written(tmp_path, members)) == (TEXT[:9000], False)


def _or_nothing(path: Path) -> tuple[bytes, bool]:
    try:
        return all_of(path)
    except TraceError:
        return b"", True


class TestReading:
    def test_progress_ends_at_the_size(self, tmp_path: Path) -> None:
        path = written(tmp_path, gzip.compress(TEXT))
        with open_stream(path) as stream:
            assert stream.size == path.stat().st_size
            seen = [stream.raw_bytes]
            while stream.read(100_000):
                seen.append(stream.raw_bytes)
        assert seen == sorted(seen)
        assert stream.raw_bytes == stream.size

    def test_empty_file(self, tmp_path: Path) -> None:
        assert all_of(written(tmp_path, b"")) == (b"", False)

    def test_a_chunk_is_handed_over_without_a_copy(self, tmp_path: Path) -> None:
        with open_stream(written(tmp_path, b"x" * 1000)) as stream:
            stream._next()
            assert stream.read(5000) is not None
            assert stream.read(5000) == b""

    def test_closing_early_ends_the_thread(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(opening, "CHUNK", 1000)
        with open_stream(written(tmp_path, gzip.compress(TEXT))) as stream:
            assert stream.read(10) == TEXT[:10]
        assert stream.read(10) == b""

    def test_no_more_than_a_few_chunks_are_read_ahead(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(opening, "CHUNK", 1000)
        monkeypatch.setattr(opening, "_READ", 1000)
        with open_stream(written(tmp_path, TEXT)) as stream:
            stream.read(1)
            _wait_for(lambda: stream._ready.qsize() == opening._AHEAD)
            assert stream._raw.count <= 1000 * (opening._AHEAD + 3)

    def test_an_error_while_reading_is_raised_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Cable(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                if self.tell() >= 3000:
                    raise OSError(errno.ECONNRESET, "Connection reset by peer")
                return super().read(1000)

        monkeypatch.setattr(opening, "_local", lambda path: (Cable(TEXT), None))
        with open_stream(tmp_path / "far") as stream:
            assert stream.size is None
            assert b"".join(stream.read(1000) for _ in range(3)) == TEXT[:3000]
            with pytest.raises(TraceError, match="far: cannot be read: Connection reset by peer"):
                stream.read(1000)
            assert stream.read(1000) == b""


def _wait_for(condition: Any) -> None:
    while not condition():
        threading.Event().wait(0.001)


class TestLimits:
    def bomb(self, folder: Path) -> Path:
        return written(folder, gzip.compress(b"[" + b" " * 3_000_000))

    def test_a_bomb_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(opening, "RATIO_FREE_BYTES", 1_000_000)
        with pytest.raises(TraceError, match=r"more than 200 times its size.*PROBE_MAX_TRACE_BYTES"):
            all_of(self.bomb(tmp_path))

    def test_the_user_may_lift_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(opening, "RATIO_FREE_BYTES", 1_000_000)
        monkeypatch.setenv("PROBE_MAX_TRACE_BYTES", "4MB")
        assert len(all_of(self.bomb(tmp_path))[0]) == 3_000_001

    def test_and_lower_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PROBE_MAX_TRACE_BYTES", "64KiB")
        with pytest.raises(TraceError, match="more than 64 KiB of text; set PROBE_MAX_TRACE_BYTES"):
            all_of(written(tmp_path, TEXT))

    def test_a_traces_ratio_is_fine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(opening, "RATIO_FREE_BYTES", 1000)
        assert all_of(written(tmp_path, gzip.compress(TEXT))) == (TEXT, False)

    def test_a_limit_that_is_no_size(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PROBE_MAX_TRACE_BYTES", "lots")
        with pytest.raises(UsageError, match="PROBE_MAX_TRACE_BYTES: 'lots' is not a size"):
            open_stream(written(tmp_path, TEXT))


class TestErrors:
    def test_local(self, tmp_path: Path) -> None:
        for path, says in ((tmp_path / "none", "no such file"), (tmp_path, "is a directory"), ("a\0b", "null byte")):
            with pytest.raises(TraceError, match=says) as raised:
                open_stream(path)
            assert "\n" not in str(raised.value)

    def test_permission(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any, **__: Any) -> Any:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)
        with pytest.raises(TraceError, match="permission denied; check who may read it"):
            open_stream(tmp_path / "mine")

    @pytest.mark.parametrize(("url", "package"), [("s3://b/r.json", "s3"), ("gs://b/r.json", "gcs")])
    def test_a_missing_package_is_named(self, url: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
        real = builtins.__import__

        def hide(name: str, *args: Any, **kwargs: Any) -> Any:
            if name.partition(".")[0] in ("s3fs", "gcsfs"):
                raise ImportError(name)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", hide)
        monkeypatch.setattr(importlib, "import_module", lambda name, package=None: hide(name))
        with pytest.raises(InputError, match=rf"pip install 'torch-probe\[{package}\]'"):
            open_stream(url)

    def test_an_unknown_scheme(self) -> None:
        with pytest.raises(InputError, match=r"nope://x: cannot be read: .*nope"):
            open_stream("nope://x")

    def test_passwords_are_not_shown(self) -> None:
        assert shown("ftp://me:secret@host/a.json") == "ftp://host/a.json"
        assert shown("https://host/a.json?signature=secret") == "https://host/a.json"
        assert shown("s3://bucket/rank?.json") == "s3://bucket/rank?.json"
        assert shown("a?b@c") == "a?b@c"


class TestRemote:
    def test_memory(self) -> None:
        fsspec.filesystem("memory").pipe_file("/opening/rank0.json.gz", gzip.compress(TEXT))
        with open_stream("memory://opening/rank0.json.gz") as stream:
            assert stream.read() == TEXT
        with pytest.raises(TraceError, match=r"memory://opening/rank1\.json: no such file"):
            open_stream("memory://opening/rank1.json")

    def test_file(self, tmp_path: Path) -> None:
        path = written(tmp_path, gzip.compress(TEXT))
        with open_stream(path.as_uri()) as stream:
            assert stream.size == path.stat().st_size
            assert stream.read() == TEXT


def test_real_traces_read_as_gzip_reads_them(foreign_traces: Path) -> None:
    for path in sorted(foreign_traces.rglob("*.json.gz")):
        assert all_of(path) == (gzip.decompress(path.read_bytes()), False), path


def test_importing_needs_no_fsspec() -> None:
    code = "import probe.readers.opening, sys; sys.exit('fsspec' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_stream_is_what_readers_take(tmp_path: Path) -> None:
    stream = open_stream(written(tmp_path, b"[]"))
    stream.close()
    assert isinstance(stream, Stream)
