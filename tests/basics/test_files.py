"""Do files appear whole or not at all, and is a directory claimed by one only?"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from probe.files import atomic_path, claim_directory, write_atomically


def test_written_whole_and_replaced(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.json", b"one")
    write_atomically(tmp_path / "a.json", b"two")
    assert (tmp_path / "a.json").read_bytes() == b"two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), SystemExit(3)])
def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "a.json"
    target.write_bytes(b"old")
    with pytest.raises(type(error)), atomic_path(target) as part:
        part.write_bytes(b"ne")
        assert target.read_bytes() == b"old"
        assert part.name.startswith(".") and part.name.endswith(".part")
        raise error
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_first_error_is_the_one_told_when_the_directory_is_gone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone"):
        write_atomically(tmp_path / "gone" / "a.json", b"")


def test_directories_in_a_row(tmp_path: Path) -> None:
    names = [claim_directory(tmp_path / "deep" / "exp1") for _ in range(3)]
    assert [(path.name, first) for path, first in names] == [("exp1", True), ("exp1-2", False), ("exp1-3", False)]


def test_a_race_has_one_winner_for_each_directory(tmp_path: Path) -> None:
    claimed: list[Path] = []
    start = threading.Barrier(8)

    def claim() -> None:
        start.wait()
        claimed.append(claim_directory(tmp_path / "exp")[0])

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(claimed)) == 8


def test_accept_decides(tmp_path: Path) -> None:
    path, first = claim_directory(tmp_path / "a", lambda candidate: candidate.name == "a-5")
    assert (path.name, first) == ("a-5", False)
    with pytest.raises(FileExistsError, match="taken"):
        claim_directory(tmp_path / "a", lambda candidate: False)
