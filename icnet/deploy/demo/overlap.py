"""Stages that work at the same time, each on another item: reading, the network, drawing, writing."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any

AHEAD = 2
"""Items that may wait between two stages; what is read ahead stays this small."""
POLL_SECONDS = 0.05  # how soon a stage that waits for another one sees that the run has failed
_END = object()


class Overlap:
    """Runs items through stages in their order: each stage has its thread, the main one stays in the caller's.

    OpenCV, NumPy and torch let other threads run while they compute, so the slowest stage sets the pace. An exception
    in a stage ends all: what came out of the source or the main stage before it still goes through the stages behind;
    where one of those failed, nothing goes on.

    Args:
        source: Where items come from; a thread reads it, so that ``AHEAD`` items wait and one is in its hands.
        main: The stage in the caller's thread, which owns the threads of the network and hears of Ctrl-C.
        behind: The stages behind it; what the last one returns is dropped.
    """

    def __init__(
        self, source: Generator[Any, None, None], main: Callable[[Any], Any], *behind: Callable[[Any], object]
    ) -> None:
        self._source, self._main = source, main
        self._queues: list[Queue[Any]] = [Queue(AHEAD) for _ in range(len(behind) + 1)]
        self._enough, self._broken = Event(), Event()  # read no more; hand nothing on
        self._errors: list[BaseException] = []
        self._threads = [Thread(target=self._read, daemon=True)]
        for place, stage in enumerate(behind, 1):
            self._threads.append(Thread(target=self._work, args=(stage, place), daemon=True))

    def run(self) -> None:
        """Run until the source ends.

        Raises:
            BaseException: The first that a stage, the source or Ctrl-C raised, once no stage is at work any more.
        """
        for thread in self._threads:
            thread.start()
        try:
            for item in self._waiting(0):
                self._put(1, self._main(item), self._broken)
        except BaseException as error:
            self._errors.append(error)
        finally:
            self._enough.set()
            self._put(1, _END, self._broken)
            for thread in self._threads:
                thread.join()
        if self._errors:
            raise self._errors[0]

    def _read(self) -> None:
        try:
            with closing(self._source) as source:
                for item in source:
                    if not self._put(0, item, self._enough):
                        break
        except BaseException as error:  # it is raised by run
            self._errors.append(error)
        finally:
            self._put(0, _END, self._enough)

    def _work(self, stage: Callable[[Any], object], place: int) -> None:
        try:
            for item in self._waiting(place):
                self._put(place + 1, stage(item), self._broken)
            self._put(place + 1, _END, self._broken)
        except BaseException as error:  # it is raised by run
            self._errors.append(error)
            self._broken.set()
            self._enough.set()

    def _put(self, place: int, item: object, stop: Event) -> bool:
        """Wait for room in a queue; return whether the item got there before ``stop``."""
        while place < len(self._queues) and not stop.is_set():
            try:
                self._queues[place].put(item, timeout=POLL_SECONDS)
                return True
            except Full:
                continue
        return False

    def _waiting(self, place: int) -> Iterator[Any]:
        """Yield what comes into a queue until its end, or until a stage has failed."""
        while not self._broken.is_set():
            try:
                item = self._queues[place].get(timeout=POLL_SECONDS)
            except Empty:
                continue
            if item is _END:
                return
            yield item
