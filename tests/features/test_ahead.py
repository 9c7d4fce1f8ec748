"""Working ahead in a thread: the same items, the same errors, and no thread left behind."""

import itertools
import threading

import pytest

from features.ahead import ahead


def test_it_gives_the_items_in_order():
    assert list(ahead(lambda: iter(range(100)))) == list(range(100))
    assert list(ahead(lambda: iter([None, None]))) == [None, None]
    assert list(ahead(lambda: iter([]))) == []


def test_the_next_item_is_made_while_one_is_used():
    made = threading.Semaphore(0)

    def items():
        for number in itertools.count():
            made.release()
            yield number

    stream = ahead(items)
    assert next(stream) == 0
    assert all(made.acquire(timeout=10) for _ in range(3))  # the one used, the one that waits, the one in the making
    stream.close()


def test_an_error_comes_after_the_items_before_it():
    def items():
        yield 1
        raise KeyError("gone")

    stream = ahead(items)
    assert next(stream) == 1
    with pytest.raises(KeyError, match="gone"):
        next(stream)


@pytest.mark.parametrize("num_used", [0, 1, 5])
def test_who_leaves_early_leaves_no_thread_behind(num_used: int):
    before = threading.active_count()
    stream = ahead(lambda: iter(range(1_000_000)))
    for _ in range(num_used):
        next(stream)
    stream.close()
    assert threading.active_count() == before
