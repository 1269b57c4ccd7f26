"""The one thread primitive: an iterator run ahead of its consumer behind a bounded queue."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterable, Iterator
from contextvars import copy_context
from types import TracebackType
from typing import Generic, Self, TypeVar

from vidbg.profile import gauge, stage, waiting

logger = logging.getLogger(__name__)

T = TypeVar("T")

_POLL_S = 0.1
_JOIN_S = 10.0


class Closed(Exception):  # noqa: N818 - not an error: the consumer has gone
    """Raised in a consumer whose source was closed under it while a job is being abandoned."""


class _End:
    """Marks the end of the items, with the error that ended them, if one did."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Prefetch(Generic[T]):
    """Iterate ``items`` in a thread, at most ``depth`` items ahead.

    An exception raised by ``items`` is re-raised in the consumer, after the items that came
    before it, with its own traceback. ``close()`` may be called at any time, from the
    consumer's thread: it stops the thread and closes ``items`` (calling ``items.cancel()``
    first where there is such a method, to end a wait inside it) and is safe to call twice.

    Args:
        items: What to iterate. Only the new thread touches it from here on.
        depth: How many finished items may wait, at least 1.
        name: The thread's name, for debuggers, and the stage that it does.
    """

    def __init__(self, items: Iterable[T], depth: int, name: str = "prefetch") -> None:
        self._items = items
        self._queue: queue.Queue[T | _End] = queue.Queue(maxsize=max(1, depth))
        self._stop = threading.Event()
        self._ended: _End | None = None
        self._gauge = gauge(name, max(1, depth))
        self._name = name
        self._thread = threading.Thread(
            target=copy_context().run,
            args=(stage(name)(self._run),),
            name=f"vidbg-{name}",
            daemon=True,
        )
        self._thread.start()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            for item in self._items:
                if not self._put(item):
                    break
                del item  # or the frame stays alive while the next one is being made
        except BaseException as caught:
            error = caught
        finally:
            close = getattr(self._items, "close", None)
            if close is not None:
                try:
                    close()
                except BaseException as caught:
                    error = error or caught
            self._put(_End(error))

    def _put(self, item: T | _End) -> bool:
        with waiting("room", self._name):
            while not self._stop.is_set():
                try:
                    self._queue.put(item, timeout=_POLL_S)
                except queue.Full:
                    continue
                if self._gauge is not None:
                    self._gauge.moved(1)
                return True
        return False

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        while self._ended is None:
            item = self._taken()
            if not isinstance(item, _End):
                return item
            self._ended = item
            if item.error is not None:
                raise item.error
        raise StopIteration

    def _taken(self) -> T | _End:
        with waiting("items", self._name):
            while not self._stop.is_set():
                try:
                    item = self._queue.get(timeout=_POLL_S)
                except queue.Empty:
                    continue
                if self._gauge is not None:
                    self._gauge.moved(-1)
                return item
        raise Closed

    def close(self) -> None:
        """Stop the thread, close the source, and wait for both (ten seconds at most)."""
        self._stop.set()
        cancel = getattr(self._items, "cancel", None)
        if cancel is not None:
            cancel()
        self._thread.join(_JOIN_S)
        if self._thread.is_alive():
            logger.warning("%s did not stop within %g seconds", self._thread.name, _JOIN_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
