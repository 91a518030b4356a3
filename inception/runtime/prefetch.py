"""Work in threads beside the main one: batches read ahead of their use, programs compiled."""

import collections
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
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
    with Prefetcher([function], lambda called: called(), poll=poll, size=1) as result:
        return next(result)


class Prefetcher(Generic[T]):
    """Reads an iterator ahead of its use, in a thread, and puts what it gives on the devices.

    Args:
        items: an iterable, read by the thread alone.
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
        self._thread = futures.ThreadPoolExecutor(1)
        iterator = iter(items)
        self._read = lambda: put(next(iterator))
        self._ready = collections.deque(self._thread.submit(self._read) for _ in range(size))

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        self.starved, start = 0.0, time.monotonic()
        item = self._ready.popleft()
        while True:
            busy, before = self._busy(), time.monotonic()
            there = futures.wait([item], BUSY_POLL_S if busy else POLL_S).done
            now = time.monotonic()
            self.starved += 0.0 if busy else now - before
            if there:
                self._ready.append(self._thread.submit(self._read))
                return item.result()
            self._poll(now - start)

    def __enter__(self) -> "Prefetcher[T]":
        return self

    def __exit__(self, *_: Any) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
