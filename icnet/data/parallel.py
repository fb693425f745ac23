"""Doing the same to many files at once: in threads, because decoders let go of Python's lock, with a progress bar."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], title: str, *, progress: bool = False
) -> Iterator[Result]:
    """Call a function for each item, several at a time.

    Args:
        function: Called with one item; what it raises ends the iteration.
        items: What it is called with.
        title: What the progress bar says.
        progress: Whether there is a bar; it is gone when all is done.

    Yields:
        What the function returns, in the order of the items.
    """
    from rich.progress import track

    pool = ThreadPoolExecutor()
    try:
        results = pool.map(function, items)
        yield from track(results, title, total=len(items), transient=True, disable=not progress)
    finally:
        pool.shutdown(cancel_futures=True)
