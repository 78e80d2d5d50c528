"""What the tests of programs in the documentation share."""

from collections.abc import Iterator

import pytest
from forked import Forked


@pytest.fixture(scope="session")
def forked() -> Iterator[Forked]:
    """Runs programs; where torch is not installed, its tests are skipped."""
    pytest.importorskip("torch")
    server = Forked()
    yield server
    server.close()
