"""What several test files need."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def foreign_traces() -> Path:
    """The folder of real traces recorded by others; the test is skipped where it is not at hand."""
    folder = os.environ.get("PROBE_TEST_TRACES")
    if not folder:
        pytest.skip("PROBE_TEST_TRACES does not name the folder of traces recorded by others")
    return Path(folder)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test has an empty cache directory: nothing is read from or left in the user's."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PROBE_CACHE_DIR", str(folder))
    return folder
