"""What a browser can ask for: the page's files, a stream of changes, histories, and an end to a session."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mproxy.ground.errors import MproxyError
from mproxy.service.answers import is_status, what_was_done
from mproxy.web.lookout import Lookout, ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from starlette.requests import Request

PAGE = Path(__file__).with_name("page")
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

# Pages that follow the changes at once.
MOST_PAGES = 32

# Sessions whose history is asked for at once, and bytes of a request.
MOST_HISTORIES = 200
LONGEST_REQUEST = 4096

# Streams of a session that are shown, the oldest.
MOST_STREAMS = 2000

# Characters of a reason: the logs of both sides show the first hundred.
LONGEST_REASON = 200


class Routes:
    """The functions behind the paths."""

    def __init__(self, lookout: Lookout) -> None:
        self._lookout = lookout
        self._pages = 0
        self._files = {file.name: file.read_bytes() for file in PAGE.iterdir() if file.suffix in TYPES}

    def app(self) -> Starlette:
        """All of them; the first part of each path is the gate's."""
        return Starlette(routes=[
            Route("/{place}/events", self.events),
            Route("/{place}/history", self.history),
            Route("/{place}/streams", self.streams),
            Route("/{place}/kill", self.kill, methods=["POST"]),
            Route("/{place}/", self.file),
            Route("/{place}/{name}", self.file)])

    async def file(self, request: Request) -> Response:
        """A file of the page."""
        name = request.path_params.get("name", "page.html")
        if name not in self._files:
            return Response(status_code=404)
        return Response(self._files[name], media_type=TYPES[Path(name).suffix])

    async def events(self, request: Request) -> Response:
        """Server-sent events: everything, then after each look what has changed."""
        if self._pages >= MOST_PAGES:
            return Response("too many pages are open\n", 503)
        return StreamingResponse(self._changes(), media_type="text/event-stream")

    async def _changes(self) -> AsyncIterator[str]:
        board, look, known = self._lookout.board, -1, dict[str, set[str]]()
        self._pages += 1
        try:
            while not self._lookout.ended:
                changes = board.changes(look, known)
                changes["whole"] = look < 0
                look, known = board.look, {name: set(rows) for name, rows in board.tables.items()}
                yield f"data: {json.dumps(changes)}\n\n"
                await self._lookout.news()
        finally:
            self._pages -= 1

    async def history(self, request: Request) -> Response:
        """Samples of the sessions that `key` names, once or more."""
        keys = request.query_params.getlist("key")[:MOST_HISTORIES]
        return JSONResponse(self._lookout.board.histories(keys))

    async def streams(self, request: Request) -> Response:
        """What the program of the session `key` says of its streams; null where it says nothing of them."""
        found = self._lookout.board.session(request.query_params.get("key", ""))
        if found is None:
            return JSONResponse({"streams": None})
        socket, name = found
        try:
            answer = await ask(socket, "status", session=name, streams=MOST_STREAMS)
        except MproxyError:
            answer = {}
        sessions = answer.get("sessions", ()) if is_status(answer) else ()
        streams = [session.get("stream_list") for session in sessions if session["session"] == name]
        return JSONResponse({"streams": streams[0] if streams else None})

    async def kill(self, request: Request) -> Response:
        """End a session, or one stream of it: {"key": ..., "stream": ..., "reason": ...}."""
        try:
            body = b""
            async for part in request.stream():
                body += part
                if len(body) > LONGEST_REQUEST:
                    raise ValueError
            asked = json.loads(body)
            key, reason = str(asked["key"]), str(asked.get("reason") or "")[:LONGEST_REASON]
            which = {} if asked.get("stream") is None else {"stream": int(asked["stream"])}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return JSONResponse({"why": "not a request"}, 400)
        found = self._lookout.board.session(key)
        if found is None:
            return JSONResponse({"why": "it has ended already"}, 409)
        socket, session = found
        try:
            done = what_was_done(await ask(socket, "kill", session=session, reason=reason or None, **which))
        except MproxyError as error:
            return JSONResponse({"why": str(error)}, 409)
        return JSONResponse({"done": done})
