"""Work in background threads: reading batches ahead of their use, compiling programs."""

import collections
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any, Generic, TypeVar

T = TypeVar("T")
POLL_S = 0.05
BUSY_POLL_S = 0.001  # while a step runs: some take a few milliseconds


def noop(_seconds: float) -> None:
    """Does nothing."""


def run_in_thread(function: Callable[[], T], poll: Callable[[float], None] = noop) -> T:
    """Returns function(), run in a thread; meanwhile calls poll(seconds so far) repeatedly.

    An exception from `poll` is raised at once; the thread is then abandoned.
    """
    with Prefetcher([function], lambda called: called(), poll=poll, size=1) as result:
        return next(result)


class Prefetcher(Generic[T]):
    """Reads an iterator ahead of its use, in a thread, and puts its items on the devices.

    Args:
        items: an iterable, read by the thread alone.
        put: item -> what this iterator returns, such as arrays on the devices.
        poll: called repeatedly with the seconds waited so far, until the next item is ready.
        busy: returns whether the devices have work.
        size: the maximum number of items read ahead.
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
        self.starved = 0.0  # seconds of the last wait in which no device was busy
        self._poll, self._busy = poll, busy
        self._wanted: queue.SimpleQueue[futures.Future[T]] = queue.SimpleQueue()
        self._ready: collections.deque[futures.Future[T]] = collections.deque()
        self._closed = False
        for _ in range(size):
            self._ask()
        # NOTE: a daemon, unlike an executor's threads: if it hangs, the process can still exit.
        threading.Thread(target=self._read, args=(iter(items), put), daemon=True).start()

    def _ask(self) -> None:
        self._ready.append(futures.Future())
        self._wanted.put(self._ready[-1])

    def _read(self, items: Iterator[Any], put: Callable[[Any], T]) -> None:
        failure: BaseException | None = None  # or StopIteration; nothing is read after it
        while (future := self._wanted.get()) and not self._closed:
            try:
                if failure:
                    raise failure
                future.set_result(put(next(items)))
            except BaseException as error:
                failure = error
                future.set_exception(error)

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
                self._ask()
                return item.result()
            self._poll(now - start)

    def __enter__(self) -> "Prefetcher[T]":
        return self

    def __exit__(self, *_: Any) -> None:
        self._closed = True
        self._ask()  # wakes the thread, so that it ends
