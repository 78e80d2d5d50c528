"""What the tests of the CUDA code share: cubins that one of them compiled."""

from pathlib import Path

import pytest
from made_once import shared_folder

from probe.kernels.cuda import nvrtc


@pytest.fixture(scope="session")
def cubins(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where they lie: in pytest's cache, for the next run too, or with what else all processes of this run share."""
    cache: pytest.Cache | None = getattr(pytestconfig, "cache", None)
    return cache.mkdir("cubins") if cache else shared_folder(tmp_path_factory)


@pytest.fixture(autouse=True)
def compiled_once(request: pytest.FixtureRequest, cubins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test compiles what another has, but where compiling and the user's cache of it are what is tested."""
    if request.path.stem != "test_cuda_nvrtc":
        monkeypatch.setattr(nvrtc, "cache_directory", lambda: cubins)
