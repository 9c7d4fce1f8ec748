"""An iterator that works ahead in a thread of its own, so that what reads it does not wait."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")
_END = object()


def ahead(make: Callable[[], Iterator[T]], num_waiting: int = 1) -> Iterator[T]:
    """The items of an iterator, in order, each made before it is asked for.

    Whoever leaves early ends the thread, and waits until it has ended.

    Args:
        make: called in the thread; what it or the iterator raises is raised here.
        num_waiting: most items that wait; one more is being made, another one used.
    """
    waiting: queue.Queue = queue.Queue(num_waiting)
    is_left = threading.Event()

    def put(item: object) -> bool:
        while not is_left.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in make():
                if not put((item, None)):
                    return
            put((_END, None))
        except BaseException as error:  # it is the reader's
            put((_END, error))

    thread = threading.Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        is_left.set()
        thread.join()
