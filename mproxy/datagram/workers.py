"""Threads for what blocks: reading, hashing and writing files. The GIL is released while they do."""

import queue
import threading
from collections import deque


class Workers:
    """`count` threads; results come back on the loop's thread. Nobody waits for them when the process ends."""

    def __init__(self, call_soon_threadsafe, count):
        self._call_soon = call_soon_threadsafe
        self._count = count
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        self._results: deque = deque()
        self._told = False  # the loop will call _deliver
        for _ in range(count):
            threading.Thread(target=self._run, daemon=True).start()

    def submit(self, function, done):
        """Run `function()` on a thread, then `done(result, error)` on the loop's; one of the two is None."""
        self._jobs.put((function, done))

    def spread(self, function, items):
        """[function(item), ...] in any order, computed on this thread and on all workers that are free; raises what one
        of them raised. May be called from a worker: it needs no other."""
        helpers = min(self._count - 1, len(items) - 1)
        if helpers <= 0:
            return [function(item) for item in items]
        share = _Share(function, items)
        for _ in range(helpers):
            self.submit(share.help, _ignore)
        return share.finish()

    def _run(self):
        while True:
            function, done = self._jobs.get()
            result = error = None
            try:
                result = function()
            except Exception as caught:  # whatever it is, somebody waits for it
                error = caught
            self._results.append((done, result, error))
            del function, done, result, error  # buffers must not live until the next job
            if not self._told:  # waking the loop for each of many short jobs costs more than the jobs
                self._told = True
                self._call_soon(self._deliver)

    def _deliver(self):
        """Give what has come so far to those who wait for it. On the loop's thread."""
        self._told = False  # first: whatever is added from now on is delivered by another call
        try:
            for _ in range(len(self._results)):
                done, result, error = self._results.popleft()
                done(result, error)
        finally:
            if self._results and not self._told:  # one of them has failed; that is not for the others to suffer
                self._told = True
                self._call_soon(self._deliver)


def _ignore(_result, _error):
    """Who has spread the work has the results."""


class _Share:
    """Work that several threads take from one heap: whoever comes late finds less of it, or none."""

    def __init__(self, function, items):
        self._function = function
        self._items = list(items)
        self._results = []
        self._error = None
        self._busy = 0
        self._changed = threading.Condition()

    def help(self):
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

    def finish(self):
        """Help, wait for those who began something, and give the results."""
        self.help()
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)
        if self._error is not None:
            raise self._error
        return self._results
