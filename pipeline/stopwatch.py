"""Add up the time that something takes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

_T = TypeVar("_T")


class Stopwatch:
    """Adds up the time that `with` blocks take.

    Example:
        >>> watch = Stopwatch()
        >>> with watch:
        ...     _ = sum(range(1000))
        >>> watch.seconds > 0
        True
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        """How long it has run in all."""
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds += time.perf_counter() - self._started

    def over(self, items: Iterable[_T]) -> Iterator[_T]:
        """Yield items. The watch runs while an item is made, not while the caller uses it."""
        waiting = iter(items)
        while True:
            with self:
                try:
                    item = next(waiting)
                except StopIteration:
                    return
            yield item
