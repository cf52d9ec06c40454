"""Looks at the running programs once a second, and tells whoever waits for news.

Each is asked in a task of its own: one that hangs costs a task, and delays no other.
"""

from __future__ import annotations

import asyncio
import json
import os
import time

from mproxy.ground.errors import MproxyError
from mproxy.service import control
from mproxy.service.answers import STRANGE, is_status
from mproxy.web.board import Board

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# Seconds from one look to the next, and how much of it a look waits for answers.
LOOK_S = 1.0
ANSWER_S = 0.6

# Seconds without an answer after which a program is called silent, and after which it is asked again.
SILENT_S = 2.0
PATIENCE_S = 15.0

# Bytes of an answer: 10,000 sessions are some 9 MiB.
LONGEST_ANSWER = 64 << 20


async def ask(path: str, command: str, **more: object) -> dict[str, Any]:
    """What `service.control.ask` does, without keeping anybody else waiting."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            with control.short_path(path) as short:
                reader, writer = await asyncio.open_unix_connection(short)
            try:
                writer.write(json.dumps({"command": command, **more}).encode() + b"\n")
                writer.write_eof()
                parts, size = [], 0
                while size < LONGEST_ANSWER and (part := await reader.read(1 << 20)):
                    parts.append(part)
                    size += len(part)
            finally:
                writer.close()
        answer = control.parse(b"".join(parts))
        if not isinstance(answer, dict):
            raise ValueError
        return answer
    except ConnectionRefusedError:
        raise control.NobodyListens(f"nobody listens on {path}: its program was killed") from None
    except TimeoutError:
        raise MproxyError(f"no answer within {PATIENCE_S:.0f} s") from None
    except (OSError, ValueError, RecursionError) as error:
        raise MproxyError(error.strerror or "no answer" if isinstance(error, OSError) else "no answer") from None


class Lookout:
    """Keeps a Board up to date."""

    def __init__(self, board: Board, find: Callable[[], list[tuple[str, int, str]]] = control.find_running) -> None:
        self.board = board
        self.ended = False
        self._find = find
        self._asked: dict[int, tuple[asyncio.Task[dict[str, Any]], float]] = {}  # by process: since when
        self._turn = asyncio.Event()

    async def run(self, stopping: Callable[[], bool]) -> None:
        """Look, until `stopping`."""
        while not stopping():
            began = time.monotonic()
            await self.look()
            self._tell()
            await asyncio.sleep(max(0.0, began + LOOK_S - time.monotonic()))
        self.ended = True
        self._tell()
        for task, _ in self._asked.values():
            task.cancel()

    async def news(self) -> None:
        """Wait for the next look to be over."""
        await self._turn.wait()

    def _tell(self) -> None:
        turn, self._turn = self._turn, asyncio.Event()
        turn.set()

    async def look(self) -> None:
        """One look at all of them."""
        running = {pid: (program, path) for program, pid, path in self._find()}
        for pid, (_, path) in running.items():
            if pid not in self._asked:
                self._asked[pid] = asyncio.create_task(ask(path, "status")), time.time()
        if self._asked:
            await asyncio.wait([task for task, _ in self._asked.values()], timeout=ANSWER_S)
        board = self.board
        board.begin(time.time())
        for pid, (task, since) in list(self._asked.items()):
            program, path = running.get(pid, ("", ""))
            if not program:
                task.cancel()
                del self._asked[pid]
            elif task.done():
                del self._asked[pid]
                self._take(pid, program, path, task)
            elif board.now - since > SILENT_S:
                board.silent(pid, program, since, f"no answer for {board.now - since:.0f} s")
        for key in list(board.tables["programs"]):
            if int(key) not in running:
                board.lose(key)

    def _take(self, pid: int, program: str, path: str, task: asyncio.Task[dict[str, Any]]) -> None:
        try:
            answer = task.result()
            if is_status(answer, program):
                self.board.take(pid, path, answer)
            else:
                self.board.silent(pid, program, self.board.now, STRANGE)
        except control.NobodyListens:
            self.board.lose(str(pid))
        except MproxyError as error:
            if os.path.exists(path):
                self.board.silent(pid, program, self.board.now, str(error))
