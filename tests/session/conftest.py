"""What several tests of sessions need."""

from collections.abc import Iterator

import pytest
from prepared_torch import Prepared


@pytest.fixture(scope="session")
def prepared() -> Iterator[Prepared]:
    """Pythons that have imported torch, for programs that need a process of their own."""
    pytest.importorskip("torch")
    made = Prepared()
    yield made
    made.close()
