"""Threads for what blocks: reading, hashing and writing files. The GIL is released while they do.

Some jobs are short: a small file is written in less time than it takes to wake a thread or to pass on the GIL. One
thread does these one after the other, and their results are handed over together. If they take long after all, because
the disk is slow, the other threads help.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar
    Item = TypeVar("Item")
    Found = TypeVar("Found")
    Tried = tuple[Found | None, Exception | None]  # what a function returned, or raised
    # What to do, whom to tell, and how many short jobs it consists of; 0: it is long.
    Job = tuple[Callable[[], object], Callable[[Any, Exception | None], object], int]

AT_ONCE = 32  # short jobs of one kind that are done in one go
TELL_S = 0.001  # longest that results wait because more of them are coming

# Short jobs that take SLOW_S on average are not short: the disk is slow. The average is over the last few, and a job
# counts for at most MOST_S: a single one may have waited for a processor, or for the GIL.
SLOW_S, MOST_S, OF_THE_LAST = 0.00025, 0.001, 8


class Workers:
    """`count` threads; results come back on the loop's thread. Nobody waits for them when the process ends."""

    def __init__(self, call_soon_threadsafe: Callable[[Callable[[], None]], object], count: int) -> None:
        self._call_soon = call_soon_threadsafe
        self._count = count
        self._lock = threading.Lock()  # guards the next three
        self._jobs: deque[Job] = deque()
        self._long_jobs = 0  # waiting or being done: a thread for each of them, and one for all short jobs
        self._awake = 0  # threads that are working or have been called
        self._calls: queue.SimpleQueue[None] = queue.SimpleQueue()  # an entry for each thread to wake up
        self._average_s = 0.0  # of short jobs
        self._results: deque[tuple[Callable[[Any, Exception | None], object], Any, Exception | None]] = deque()
        self._told = False  # the loop will call _deliver
        for _ in range(count):
            threading.Thread(target=self._run, daemon=True).start()

    def submit(self, function: Callable[[], Found], done: Callable[[Found, Exception | None], object], *,
               short: int = 0) -> None:
        """Run `function()` on a thread, then `done(result, error)` on the loop's; one of the two is None. `short`: it
        consists of so many short jobs, and is not worth a thread of its own."""
        with self._lock:
            self._jobs.append((function, done, short))
            self._long_jobs += not short
            self._call(self._long_jobs + 1)

    def _call(self, most: int) -> None:
        """Have one more thread, if fewer than `most` are awake. With the lock."""
        if self._awake < min(most, self._count):
            self._awake += 1
            self._calls.put(None)

    def spread(self, function: Callable[[Item], Found], items: Sequence[Item]) -> list[Found]:
        """[function(item), ...] in any order, computed on this thread and on all free workers; raises what one of them
        raised. May be called from a worker: it does not depend on another."""
        helpers = min(self._count - 1, len(items) - 1)
        if helpers <= 0:
            return [function(item) for item in items]
        share = _Share(function, items)
        for _ in range(helpers):
            self.submit(share.help, _ignore)
        return share.finish()

    def _run(self) -> None:
        while True:
            self._calls.get()
            self._work()

    def _work(self) -> None:
        """Do what there is to do."""
        told_at = time.monotonic()
        while (job := self._next()) is not None:
            function, done, short = job
            began_at = time.monotonic()
            if not short or began_at - told_at > TELL_S:
                self._tell()
                told_at = began_at
            self._do(function, done)
            if short:
                self._judge((time.monotonic() - began_at) / short)
            else:
                self._end_long()
            del function, done, job  # buffers must not live until the next job
        self._tell()

    def _next(self) -> Job | None:
        with self._lock:
            if self._jobs:
                return self._jobs.popleft()
            self._awake -= 1
            return None

    def _do(self, function: Callable[[], object], done: Callable[[Any, Exception | None], object]) -> None:
        result = error = None
        try:
            result = function()
        except Exception as caught:  # whatever it is, somebody waits for the result
            error = caught
        self._results.append((done, result, error))

    def _end_long(self) -> None:
        with self._lock:
            self._long_jobs -= 1

    def _judge(self, took_s: float) -> None:
        """Have another thread help with the remaining jobs if short jobs turn out not to be short."""
        self._average_s += (min(took_s, MOST_S) - self._average_s) / OF_THE_LAST
        if self._average_s > SLOW_S:
            with self._lock:
                if self._jobs:
                    self._call(self._count)

    def _tell(self) -> None:
        """Have the loop fetch the results."""
        if self._results and not self._told:
            self._told = True
            self._call_soon(self._deliver)

    def _deliver(self) -> None:
        """Hand over the results so far. On the loop's thread."""
        self._told = False  # first, so that what is added from now on gets another call
        try:
            for _ in range(len(self._results)):
                done, result, error = self._results.popleft()
                done(result, error)
        finally:
            if self._results and not self._told:  # one of them has raised; the others must not suffer for it
                self._told = True
                self._call_soon(self._deliver)


def _ignore(_result: object, _error: Exception | None) -> None:
    """The results are with whoever spread the work."""


def tried(function: Callable[..., Found], *arguments: object) -> Tried[Found]:
    """Call the function; returns what it returned, or raised."""
    try:
        return function(*arguments), None
    except Exception as error:  # whatever it is, it is for whoever wants the result
        return None, error


class Kind:
    """Short jobs that can be done together: `work([item, ...])`, on a worker's thread, returns what was `tried` for
    each; `done(item, result, error)` is called with it on the loop's."""

    def __init__(self, work: Callable[[list[Any]], Sequence[Tried[Any]]],
                 done: Callable[[Any, Any, Exception | None], object]) -> None:
        self.work, self.done = work, done


class Together:
    """Short jobs, collected for as long as a `with` block of it lasts, and then handed over to the workers many in one
    go. With small files each change of thread, and each passing on of the GIL, costs more than the work."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._blocks = 0  # that have been entered
        self._items: dict[Kind, list[Any]] = {}

    def __enter__(self) -> None:
        self._blocks += 1

    def __exit__(self, *_error: object) -> None:
        self._blocks -= 1
        if not self._blocks:
            self.hand_over()

    def add(self, kind: Kind, item: object) -> None:
        """Have this done as well."""
        self._items.setdefault(kind, []).append(item)
        if not self._blocks:
            self.hand_over()

    def hand_over(self) -> None:
        """Have the workers do what has been collected."""
        collected, self._items = self._items, {}
        for kind, items in collected.items():
            for first in range(0, len(items), AT_ONCE):
                some = items[first:first + AT_ONCE]
                self._workers.submit(partial(kind.work, some), partial(self._were_done, kind, some), short=len(some))

    def _were_done(self, kind: Kind, items: list[Any], results: Sequence[Tried[Any]] | None,
                   error: Exception | None) -> None:
        with self:
            for item, (result, own_error) in zip(items, results or [(None, error)] * len(items), strict=True):
                kind.done(item, result, own_error)


class _Share:
    """Work that several threads take from one list: whoever comes late finds little of it, or none."""

    def __init__(self, function: Callable[[Any], Any], items: Iterable[Any]) -> None:
        self._function = function
        self._items = list(items)
        self._results: list[Any] = []
        self._error: Exception | None = None
        self._busy = 0
        self._changed = threading.Condition()

    def help(self) -> None:
        """Work until there is none left."""
        while True:
            with self._changed:
                if not self._items:
                    return
                item = self._items.pop()
                self._busy += 1
            result = error = None
            try:
                result = self._function(item)
            except Exception as caught:
                error = caught
            with self._changed:
                self._busy -= 1
                self._results.append(result)
                if error is not None:
                    self._error, self._items = error, []
                self._changed.notify_all()

    def finish(self) -> list[Any]:
        """Help, wait for those who began something, and give the results."""
        self.help()
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)
        if self._error is not None:
            raise self._error
        return self._results
