"""Who is let in: who has the token that was printed, and from then on its cookie.

On loopback every program of every user can connect, and every page that is open in the browser can send requests here.
So each request must name a host that is this one (a name that was bound to 127.0.0.1 is some page's trick), must come
from this page or from none, and must have the secret. The token leaves the address bar at once; the cookie has a path
that nobody else knows, since browsers send cookies to every port of a host.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import time
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.responses import PlainTextResponse, RedirectResponse, Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "mproxy"

# A link for one visit is good for so many seconds.
VISIT_S = 60.0

# The one script that stands in the page itself: it must be there when no file comes.
SCRIPT = "sha256-R7k4rzuBNiqcc7/5o4IBprW20n8H7wXysUW/S1M39VE="

# Nothing comes from elsewhere, nothing is run that is not ours, no text becomes part of the page's structure.
HEADERS = [(name.encode(), value.encode()) for name, value in (
    ("content-security-policy",
     f"default-src 'none'; script-src 'self' '{SCRIPT}'; style-src 'self'; img-src 'self'; connect-src 'self';"
     " base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"))]


class Gate:
    """In front of `app`. Its paths begin with `place`; whoever has a token is sent there with a cookie."""

    def __init__(self, app: ASGIApp, names: frozenset[str], numeric: bool) -> None:
        self.token = secrets.token_urlsafe(32)
        self.place = f"/{secrets.token_urlsafe(12)}/"
        self._app = app
        self._names = names       # of this host, in lower case
        self._numeric = numeric   # any address is this host's: it listens on all of them
        self._cookie = secrets.token_urlsafe(32)
        self._visits: dict[str, float] = {}

    def link_for_one_visit(self) -> str:
        """A token that is good once: other users see the command line that starts a browser."""
        token = secrets.token_urlsafe(32)
        self._visits[token] = time.monotonic() + VISIT_S
        return token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        await self._choose(scope)(scope, receive, send_on)

    def _choose(self, scope: Scope) -> ASGIApp:
        """Who answers this request."""
        headers = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return _refusal("this host has another name: use the address that mproxy web printed")
        origins = [value for name, value in headers if name == b"origin"]
        if any(origin != f"http://{hosts[0]}" for origin in origins) or (scope["method"] == "POST" and not origins):
            return _refusal("requests from other pages are refused")
        if scope["path"] == "/" and scope["method"] == "GET":
            return self._welcome(parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[-1])
        if not scope["path"].startswith(self.place) or not self._knows(headers):
            return _refusal("open the address that mproxy web printed: it has a token")
        return self._app

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names this host. The port may be another one: a tunnel's."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name.rstrip(".") in self._names:
            return True
        if not self._numeric:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _welcome(self, token: str) -> Response:
        visit = self._visits.pop(token, 0.0) > time.monotonic()
        if not visit and not hmac.compare_digest(token.encode(), self.token.encode()):
            return _refusal("open the address that mproxy web printed: it has a token" if not token else
                            "that token is wrong or was used: open the address that mproxy web printed last")
        answer = RedirectResponse(self.place, 303)
        answer.set_cookie(COOKIE, self._cookie, path=self.place, httponly=True, samesite="strict")
        return answer

    def _knows(self, headers: list[tuple[bytes, str]]) -> bool:
        for name, value in headers:
            if name == b"cookie":
                try:
                    found = SimpleCookie(value).get(COOKIE)
                except CookieError:
                    continue
                if found is not None and hmac.compare_digest(found.value.encode(), self._cookie.encode()):
                    return True
        return False


def _refusal(why: str) -> Response:
    return PlainTextResponse(f"{why}\n", 403)
