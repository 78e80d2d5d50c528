"""What is held of the runs that are looked at? Each is read once, whoever asks, and the last few are kept."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from probe.dashboard.kept_memory import give_back
from probe.errors import ProbeError

T = TypeVar("T")


@dataclass
class Reading(Generic[T]):
    """One value on its way: how far it is, then what came of it."""

    done: threading.Event = field(default_factory=threading.Event)
    progress: str = "starting"
    began_s: float = field(default_factory=time.monotonic)
    value: T | None = None
    error: str | None = None  # in one line, for people

    @property
    def waited_s(self) -> float:
        """How long ago the reading began."""
        return time.monotonic() - self.began_s

    def result(self) -> T:
        """The value, once it is there; ProbeError where there will be none."""
        self.done.wait()
        if self.value is None:
            raise ProbeError(self.error or "nothing was read")
        return self.value


class Shelf(Generic[T]):
    """The values last asked for, by key; each made once in a thread of its own."""

    def __init__(self, make: Callable[[str, Callable[[str], None]], T], most: int) -> None:
        self._make, self._most = make, most
        self._held: OrderedDict[str, Reading[T]] = OrderedDict()
        self._lock = threading.Lock()

    def ask(self, key: str, wait_s: float = 0.0) -> Reading[T]:
        """The value of `key` on its way; started where it is not. Waits a little for it to come."""
        with self._lock:
            reading = self._held.get(key)
            if reading is None:
                reading = self._held[key] = Reading()
                threading.Thread(target=self._fill, args=(key, reading), daemon=True).start()
            self._held.move_to_end(key)
            while len(self._held) > self._most:
                self._held.popitem(last=False)
        reading.done.wait(wait_s)
        return reading

    def forget(self, key: str) -> None:
        """Read it anew when it is next asked for."""
        with self._lock:
            self._held.pop(key, None)

    def _fill(self, key: str, reading: Reading[T]) -> None:
        def told(text: str) -> None:
            reading.progress = text

        try:
            reading.value = self._make(key, told)
        except ProbeError as error:
            reading.error = str(error)
        except Exception as error:  # a page must show it: nobody waits for this thread
            reading.error = f"a defect of probe's own ({type(error).__name__}: {error}); please report it"
            self.forget(key)
            raise
        finally:
            reading.done.set()
            give_back()
