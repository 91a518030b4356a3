"""Work in threads beside the main one: batches read ahead of their use, programs compiled."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
POLL_S = 0.05
BUSY_POLL_S = 0.001  # while a step is under way: some take a few milliseconds


def noop(_seconds: float) -> None:
    """Polls nothing."""


def run_in_thread(function: Callable[[], T], poll: Callable[[float], None] = noop) -> T:
    """function() in a thread, while this one calls poll(seconds since the start) often.

    What poll raises goes up at once; the thread is left to itself.
    """
    done: queue.Queue[tuple[bool, Any]] = queue.Queue()

    def work() -> None:
        try:
            done.put((True, function()))
        except BaseException as error:
            done.put((False, error))

    threading.Thread(target=work, daemon=True).start()
    start = time.monotonic()
    while True:
        try:
            fine, result = done.get(timeout=POLL_S)
        except queue.Empty:
            poll(time.monotonic() - start)
            continue
        if fine:
            return result
        raise result


class Prefetcher(Generic[T]):
    """Reads an iterator ahead of its use, in a thread, and puts what it gives on the devices.

    Args:
        items: an iterator, read by the thread alone.
        put: item -> what comes out here, such as arrays on the devices.
        poll: called with the seconds waited so far, often, while the next item is not there.
        busy: whether the devices have work meanwhile.
        size: how many are ready at most.
    """

    def __init__(
        self,
        items: Iterable[Any],
        put: Callable[[Any], T],
        *,
        poll: Callable[[float], None] = noop,
        busy: Callable[[], bool] = lambda: False,
        size: int = 2,
    ):
        self.starved = 0.0  # of the last item: seconds in which it was not there and no device busy
        self._poll, self._busy = poll, busy
        self._ready: queue.Queue[tuple[str, Any]] = queue.Queue(size)
        self._closed = threading.Event()
        threading.Thread(target=self._read, args=(items, put), daemon=True).start()

    def _read(self, items: Iterable[Any], put: Callable[[Any], T]) -> None:
        try:
            for item in items:
                self._offer(("item", put(item)))
                if self._closed.is_set():
                    return
            self._offer(("end", None))
        except BaseException as error:
            self._offer(("error", error))

    def _offer(self, thing: tuple[str, Any]) -> None:
        while not self._closed.is_set():
            try:
                return self._ready.put(thing, timeout=POLL_S)
            except queue.Full:
                continue

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        self.starved = 0.0
        start = last = time.monotonic()
        was_busy = self._busy()
        while True:
            try:
                kind, item = self._ready.get(timeout=BUSY_POLL_S if was_busy else POLL_S)
            except queue.Empty:
                kind, item = "none", None
            now, busy = time.monotonic(), self._busy()
            if not busy:  # it ended between two polls: half of the time counts
                self.starved += (now - last) / (2 if was_busy else 1)
            last, was_busy = now, busy
            if kind == "item":
                return item
            if kind == "error":
                raise item
            if kind == "end":
                raise StopIteration
            self._poll(now - start)

    def __enter__(self) -> "Prefetcher[T]":
        return self

    def __exit__(self, *_: Any) -> None:
        self._closed.set()  # the thread ends
