"""What several test files need."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_cuda import FakeCuda
from hypothesis import HealthCheck, settings
from prepared_torch import Prepared

from probe.kernels.cuda.gpu import Gpu

# OpenMP's threads spin while they wait: where others share the cores, that takes fifty times as long as the work. It is
# read when torch is imported, here or in a child.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Another process may hold the core while an example runs: how long it took says nothing.
settings.register_profile("probe", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("probe")


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


@pytest.fixture
def fake_gpu() -> Iterator[Gpu]:
    """An idle H100 whose kernels all take a microsecond (fixtures/fake_cuda.py); make a FakeCuda for other devices."""
    fake = FakeCuda()
    with fake.gpu() as gpu:
        yield gpu
    if fake.error is not None:
        raise fake.error


@pytest.fixture(scope="session")
def prepared() -> Iterator[Prepared]:
    """Pythons that have imported torch, for programs that need a process of their own."""
    pytest.importorskip("torch")
    made = Prepared()
    yield made
    made.close()
