"""An iterator run ahead in a thread: order, bounds, errors, ends."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import traceback
import weakref
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidbg.prefetch import Closed, Prefetch


class Blocked:
    """An iterable that gives one item and then waits until it is cancelled."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.closed = False

    def __iter__(self) -> Iterator[int]:
        yield 0
        assert self.cancelled.wait(20)

    def cancel(self) -> None:
        self.cancelled.set()

    def close(self) -> None:
        self.closed = True


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("vidbg-")]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(), max_size=50), st.integers(1, 8))
def test_all_items_come_in_order(items: list[int], depth: int) -> None:
    with Prefetch(items, depth) as ahead:
        assert list(ahead) == items
        assert list(ahead) == []  # and go on being over


def test_the_thread_has_its_name_and_ends_with_the_items() -> None:
    with Prefetch(Blocked(), 1, "decode"):
        assert threads() == ["vidbg-decode"]
    assert threads() == []


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_no_more_are_made_than_fit(depth: int) -> None:
    made = 0

    def count() -> Iterator[int]:
        nonlocal made
        while True:
            made += 1
            yield made

    with Prefetch(count(), depth) as ahead:
        deadline = time.monotonic() + 5
        while made < depth + 1 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.1)  # time to make more, if it did
        assert made == depth + 1  # those that wait, and the one in hand
        assert next(ahead) == 1


def test_items_are_let_go_once_given_away() -> None:
    """With a frame of 4K in each item, one kept for nothing is 25 MB."""

    class Item:
        pass

    kept: list[bool] = []
    given_up = threading.Event()

    def items() -> Iterator[Item]:
        item = Item()
        earlier = weakref.ref(item)
        yield item
        del item
        assert given_up.wait(20)
        gc.collect()
        kept.append(earlier() is not None)
        yield Item()

    with Prefetch(items(), 1) as ahead:
        item = next(ahead)
        del item
        given_up.set()
        next(ahead)
    assert kept == [False]


def test_an_error_comes_after_the_items_before_it_with_its_traceback() -> None:
    def failing() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("told so")

    with Prefetch(failing(), 5) as ahead:
        assert [next(ahead), next(ahead)] == [1, 2]
        with pytest.raises(KeyError, match="told so") as caught:
            next(ahead)
        functions = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
        assert "failing" in functions
        assert list(ahead) == []


def test_an_error_on_closing_the_source_is_told() -> None:
    class Source:
        def __iter__(self) -> Iterator[int]:
            return iter([1])

        def close(self) -> None:
            raise OSError("cannot close")

    with Prefetch(Source(), 1) as ahead:
        assert next(ahead) == 1
        with pytest.raises(OSError, match="cannot close"):
            next(ahead)


def test_the_first_error_is_the_one_told() -> None:
    class Source:
        def __iter__(self) -> Iterator[int]:
            raise KeyError("first")

        def close(self) -> None:
            raise OSError("second")

    with Prefetch(Source(), 1) as ahead, pytest.raises(KeyError, match="first"):
        next(ahead)


def test_closing_ends_a_source_that_waits() -> None:
    source = Blocked()
    ahead = Prefetch(source, 1)
    assert next(ahead) == 0
    begun = time.monotonic()
    ahead.close()
    assert time.monotonic() - begun < 5
    assert source.cancelled.is_set()
    assert source.closed
    ahead.close()  # again


def test_closing_ends_a_source_that_has_no_room() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.set()

    ahead = Prefetch(endless(), 1)
    assert next(ahead) == 0
    ahead.close()
    assert closed.is_set()
    with pytest.raises(Closed):
        next(ahead)


def test_closing_lets_a_waiting_consumer_go() -> None:
    source = Blocked()
    ahead = Prefetch(source, 1)
    assert next(ahead) == 0
    outcome: list[BaseException] = []

    def consume() -> None:
        try:
            next(ahead)
        except (Closed, StopIteration) as ended:
            outcome.append(ended)

    consumer = threading.Thread(target=consume)
    consumer.start()
    ahead.close()
    consumer.join(20)
    assert len(outcome) == 1


def test_a_source_that_does_not_stop_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vidbg.prefetch._JOIN_S", 0.1)
    release = threading.Event()

    def stubborn() -> Iterator[int]:
        yield int(release.wait(20))

    Prefetch(stubborn(), 1, "stubborn").close()
    release.set()
    assert caplog.messages == ["vidbg-stubborn did not stop within 0.1 seconds"]


def test_stages_behind_each_other_close_upstream_first() -> None:
    source = Blocked()
    first = Prefetch(source, 1, "first")
    second = Prefetch((item + 1 for item in first), 1, "second")
    assert next(second) == 1
    first.close()
    second.close()
    assert threads() == []


def test_leaving_the_block_by_an_exception_closes() -> None:
    source = Blocked()
    with pytest.raises(ZeroDivisionError), Prefetch(source, 1):
        raise ZeroDivisionError
    assert source.closed


def test_nothing_starts_late() -> None:
    """The work begins when the stage is made, not when the first item is asked for."""
    begun = threading.Event()

    def items() -> Iterator[int]:
        begun.set()
        yield 1

    with Prefetch(items(), 1):
        assert begun.wait(20)
