"""Work spread over processes, its results in order. A worker that dies ends the work at once, with a word."""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from mtllm_ds.child_processes import die_with
from mtllm_ds.errors import UserError

_ITEMS_AHEAD = 4
"""Items under way per process: bounds memory."""

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


def num_usable_cores() -> int:
    """Cores that this process may run on, which a scheduler may have narrowed down."""
    return len(os.sched_getaffinity(0))


def map_in_order(
    work: Callable[[Item], Outcome], items: Iterable[Item], num_workers: int
) -> Iterator[tuple[Item, Outcome]]:
    """(item, work(item)) of each item, in order.

    Args:
        work: the processes are forked, and inherit what it holds
        num_workers: processes; 1 works in this one

    Raises:
        UserError: a process died, for want of memory or by a signal; or what `work` raised.
    """
    if num_workers == 1:
        for item in items:
            yield item, work(item)
        return
    global _work
    _work = work
    waiting: deque[tuple[Item, Future]] = deque()
    pool = ProcessPoolExecutor(num_workers, get_context("fork"), _start_worker, (os.getpid(),))
    try:
        for item in items:
            waiting.append((item, pool.submit(_work_on, item)))
            if len(waiting) == _ITEMS_AHEAD * num_workers:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "mtllm-ds prepare: a worker process died, killed by a signal or for want of memory; what is finished is kept, run it "
            "again, with fewer --num-workers if memory was short"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_work: Callable[[Any], Any] | None = None
"""Set just before the processes are forked, which inherit it with all it holds."""


def _work_on(item: Any) -> Any:
    assert _work is not None
    return _work(item)


def _start_worker(parent: int) -> None:
    """A worker computes on one core, and dies with its parent however that ends."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with(parent)
