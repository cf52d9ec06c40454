"""Threads for what blocks: reading, hashing and writing files. The GIL is released while they do."""

import queue
import threading


class Workers:
    """`count` threads; results come back on the loop's thread. Nobody waits for them when the process ends."""

    def __init__(self, call_soon_threadsafe, count):
        self._call_soon = call_soon_threadsafe
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        for _ in range(count):
            threading.Thread(target=self._run, daemon=True).start()

    def submit(self, function, done):
        """Run `function()` on a thread, then `done(result, error)` on the loop's; one of the two is None."""
        self._jobs.put((function, done))

    def _run(self):
        while True:
            function, done = self._jobs.get()
            result = error = None
            try:
                result = function()
            except Exception as caught:  # whatever it is, somebody waits for it
                error = caught
            self._call_soon(lambda done=done, result=result, error=error: done(result, error))
            del function, done, result, error  # buffers must not live until the next job
