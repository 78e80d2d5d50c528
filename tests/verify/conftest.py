"""What the tests of verification need."""

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """torch computes on one thread: with more, every operator waits for a core that another process is using.

    Verification then goes by CPU time, which the neighbours of a test do not spend.
    """
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
