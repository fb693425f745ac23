"""Doing the same to many files at once: in threads, because decoders let go of Python's lock, with a progress bar."""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    title: str,
    *,
    progress: bool = False,
    threads: int | None = None,
) -> Iterator[Result]:
    """Call a function for each item, several at a time.

    Args:
        function: Called with one item; what it raises ends the iteration.
        items: What it is called with.
        title: What the progress bar says.
        progress: Whether there is a bar, on a terminal; it is gone when all is done.
        threads: How many; None for a few more than cores.

    Yields:
        What the function returns, in the order of the items.
    """
    from rich.progress import track

    pool = ThreadPoolExecutor(threads)
    try:
        results = pool.map(function, items)
        shown = progress and sys.stdout.isatty()  # elsewhere a bar is an empty line
        yield from track(results, title, total=len(items), transient=True, disable=not shown)
    finally:
        pool.shutdown(cancel_futures=True)
