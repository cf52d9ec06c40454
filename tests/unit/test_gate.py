"""Who may see the page: first by the token, then by the cookie; foreign host names and foreign pages are refused."""

import asyncio
import re
from base64 import b64encode
from hashlib import sha256

import pytest

from mproxy.web.gate import COOKIE, SCRIPT, Gate
from mproxy.web.routes import PAGE

HOST = "127.0.0.1:8470"


async def page(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"the page"})


def make_gate(numeric=False):
    return Gate(page, frozenset({"localhost", "127.0.0.1", "::1", "laptop"}), numeric)


def ask(gate, target, method="GET", **headers):
    """(status, {header: value}) of a request; header names with _ for -. None: not sent."""
    path, _, query = target.partition("?")
    headers = {"host": HOST} | {name.replace("_", "-"): value for name, value in headers.items()}
    sent = []

    async def send(message):
        sent.append(message)
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(),
             "headers": [(name.encode(), value.encode()) for name, value in headers.items() if value is not None]}
    asyncio.run(gate(scope, None, send))
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


def cookie_of(gate):
    status, headers = ask(gate, f"/?token={gate.token}")
    assert status == 303 and headers["location"] == gate.place
    return headers["set-cookie"].split(";")[0]


def test_the_token_becomes_a_cookie():
    gate = make_gate()
    _, headers = ask(gate, f"/?token={gate.token}")
    cookie = headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and f"path={gate.place}".lower() in cookie
    assert gate.token not in headers["set-cookie"] and gate.token not in headers["location"]
    assert ask(gate, gate.place, cookie=cookie_of(gate))[0] == 200
    assert ask(gate, f"{gate.place}events", cookie=f"other=1; {cookie_of(gate)}; x=y")[0] == 200


@pytest.mark.parametrize("target", ["/", "/?token=", "/?token=wrong", "/?token=%00", "/?token=%ff%fe", "/?nothing"])
def test_without_the_token_nobody_comes_in(target):
    status, headers = ask(make_gate(), target)
    assert status == 403 and "set-cookie" not in headers


def test_the_cookie_is_needed_everywhere():
    gate = make_gate()
    for cookie in (None, "", f"{COOKIE}=wrong", f"{COOKIE}={gate.token}", "\xe9=;=,", f"{COOKIE}="):
        assert ask(gate, gate.place, cookie=cookie)[0] == 403
        assert ask(gate, f"{gate.place}events", cookie=cookie)[0] == 403
    # Nor does the cookie help at a place that is not this start's.
    assert ask(gate, "/another/events", cookie=cookie_of(gate))[0] == 403
    assert ask(gate, "/page.js", cookie=cookie_of(gate))[0] == 403


def test_two_starts_know_nothing_of_each_other():
    first, second = make_gate(), make_gate()
    assert ask(second, f"/?token={first.token}")[0] == 403
    assert ask(second, second.place, cookie=cookie_of(first))[0] == 403


@pytest.mark.parametrize("host", ["127.0.0.1:8470", "localhost", "LOCALHOST:9", "[::1]:8470", "laptop:1", "localhost."])
def test_names_of_this_host(host):
    gate = make_gate()
    assert ask(gate, gate.place, cookie=cookie_of(gate), host=host)[0] == 200


@pytest.mark.parametrize("host", [
    None, "", "evil.example", "evil.example:8470", "127.0.0.1.evil.example", "10.0.0.1:8470", "localhost@evil.example",
    "[", "evil.example#127.0.0.1", "127.0.0.1, evil.example", "user@localhost.evil"])
def test_a_foreign_name_is_refused(host):
    """DNS rebinding: the browser believes that it talks to evil.example, and sends the cookies of that."""
    gate = make_gate()
    assert ask(gate, gate.place, cookie=cookie_of(gate), host=host)[0] == 403
    assert ask(gate, f"/?token={gate.token}", host=host)[0] == 403


def test_listening_everywhere_any_address_is_ours_and_no_other_name():
    gate = make_gate(numeric=True)
    cookie = cookie_of(gate)
    assert ask(gate, gate.place, cookie=cookie, host="192.0.2.7:8470")[0] == 200
    assert ask(gate, gate.place, cookie=cookie, host="[2001:db8::7]:8470")[0] == 200
    assert ask(gate, gate.place, cookie=cookie, host="evil.example:8470")[0] == 403


def test_requests_of_other_pages_are_refused():
    gate = make_gate()
    cookie = cookie_of(gate)
    own = f"http://{HOST}"
    assert ask(gate, f"{gate.place}kill", "POST", cookie=cookie, origin=own)[0] == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:3000", "https://127.0.0.1:8470", f"{own}.evil", ""):
        assert ask(gate, f"{gate.place}kill", "POST", cookie=cookie, origin=origin)[0] == 403
        assert ask(gate, f"{gate.place}events", cookie=cookie, origin=origin)[0] == 403
    assert ask(gate, f"{gate.place}kill", "POST", cookie=cookie)[0] == 403


def test_a_link_for_one_visit():
    gate = make_gate()
    link = f"/?token={gate.link_for_one_visit()}"
    assert ask(gate, link)[0] == 303
    assert ask(gate, link)[0] == 403


def test_a_link_for_one_visit_grows_old(monkeypatch):
    gate = make_gate()
    link = f"/?token={gate.link_for_one_visit()}"
    monkeypatch.setattr("mproxy.web.gate.VISIT_S", 0)
    gate._visits = {token: at - 61 for token, at in gate._visits.items()}
    assert ask(gate, link)[0] == 403


def test_every_answer_forbids_what_is_not_the_pages_own():
    gate = make_gate()
    for target, headers in (("/", {}), (f"/?token={gate.token}", {}), (gate.place, {"cookie": cookie_of(gate)})):
        got = ask(gate, target, **headers)[1]
        policy = got["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert re.search(rf"script-src 'self' '{re.escape(SCRIPT)}'(;|$)", policy)
        assert (got["referrer-policy"], got["x-content-type-options"], got["cache-control"]) == (
            "no-referrer", "nosniff", "no-store")


def test_the_script_in_the_page_is_the_one_that_is_allowed():
    (script,) = re.findall(r"<script>(.*?)</script>", (PAGE / "page.html").read_text(), re.DOTALL)
    assert f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}" == SCRIPT
