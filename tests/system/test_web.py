"""mproxy web over plain HTTP: who is let in, what it shows, and that a program that hangs does not delay it."""

import signal
import sys
import time

import pytest
from lab import outage, until
from proxies import ROOT
from relays import MPROXY
from traffic import ends_by_reset
from web_client import FakeProgram, WebClient, fake_session

from mproxy.web.lookout import SILENT_S
from mproxy.web.routes import LONGEST_REQUEST, MOST_PAGES, PAGE


@pytest.fixture
def web(lab):
    """The page's server on the client's host, and a client that was let in."""
    client = WebClient(lab.client).enter()
    yield client
    assert "Traceback" not in client.program.log.text, str(client.program)
    assert client.program.running, str(client.program)


def test_the_page_and_its_files(web):
    page = web.get()
    assert page.status == 200 and page.headers["Content-Type"].startswith("text/html")
    assert b"<title>mproxy</title>" in page.read()
    for file in PAGE.iterdir():
        assert web.get(file.name).read() == file.read_bytes()
    for name in ("board.py", "..%2fboard.py", "%2e%2e/board.py", "page.js%00", "nothing"):
        assert web.get(name).status in (403, 404)


def test_who_is_let_in(web):
    """Goal: no token, a wrong one, a foreign host name or a foreign page get 403, on every path."""
    web_headers, web.headers = web.headers, {}
    for target in ("/", "/?token=wrong", web.place, f"{web.place}events", "/page.js", "/favicon.ico"):
        assert web.request("GET", target).status == 403
    web.headers = web_headers
    assert web.get("events", Host=f"evil.example:{web.port}").status == 403
    assert web.get("events", Origin="http://evil.example").status == 403
    assert web.kill("1/2", Origin="http://evil.example")[0] == 403
    assert web.request("POST", f"{web.place}kill", b"{}").status == 403
    assert web.get("").status == 200


def test_a_session_is_told_with_its_outage(pair, served, web):
    """Goal: the session is shown as away, with the reason, while the path is gone, and afterwards with a gap as
    long."""
    events = web.events()
    key, row = events.session(lambda row: row["state"] == "connected")
    assert (row["name"], row["streams"], row["outages"]) == ("laptop", 1, 0)
    began = time.time()
    pair.lab.wifi.cut()
    _, row = events.session(lambda row: row["state"] == "away")
    assert row["why"] and row["gaps"][0][1] is None and row["next_try"] is not None
    outage(2)
    pair.lab.wifi.mend()
    _, row = events.session(lambda row: row["state"] == "connected")
    (gap,) = row["gaps"]
    assert row["outages"] == 1 and gap[2]
    assert began - 1.5 <= gap[0] <= gap[1] <= time.time() + 0.1 and gap[1] - gap[0] >= 2
    history = web.get(f"history?key={key}&key=none").read()
    assert b"null" in history and key.encode() in history


def test_a_session_is_ended_with_a_reason(pair, served, web):
    events = web.events()
    key, _ = events.session()
    assert web.kill(key, "moving house")[0] == 200
    assert ends_by_reset(served)
    for program in (pair.cproxy, pair.sproxy):
        assert "mproxy kill: moving house" in program.event("ended")["why"]
    events.session(lambda row: row["state"] == "ended")
    status, answer = web.kill(key)
    assert status == 409 and answer["why"]


def test_requests_that_are_none(web):
    for body in (b"", b"{", b"[]", b"5", b'{"key": 5}', b"x" * (LONGEST_REQUEST + 1), b"[" * 4000):
        answer = web.request("POST", f"{web.place}kill", body, Origin=f"http://{web.name}")
        assert answer.status in (400, 409), body[:20]
    assert web.request("PUT", web.place).status in (403, 405)


def test_a_program_that_hangs_delays_nothing(pair, served, web):
    """Goal: with cproxy stopped the page comes at once and names it; other programs are updated every second."""
    fake = FakeProgram(pair.lab.client, [fake_session(1)])
    events = web.events()
    events.until(lambda tables: len(tables["sessions"]) == 2)
    pair.cproxy.signal(signal.SIGSTOP)
    try:
        row = events.until(lambda tables: [row for row in tables["programs"].values() if row["state"] == "silent"],
                           SILENT_S + 10)[0]
        assert row["name"] == "laptop"
        assert web.get().status == 200
        fake.sessions[0]["peer"] = "10.9.9.9"
        events.until(lambda tables: any(row["peer"] == "10.9.9.9" for row in tables["sessions"].values()), 5)
        assert {row["state"] for row in events.tables["sessions"].values()} == {"unknown", "connected"}
    finally:
        pair.cproxy.signal(signal.SIGCONT)
    events.until(lambda tables: {row["state"] for row in tables["programs"].values()} == {"running"})
    fake.close()


def test_a_program_that_talks_nonsense(web):
    fake = FakeProgram(web.host, [{"session": 5}])
    events = web.events()
    row = events.until(lambda tables: [row for row in tables["programs"].values() if row["state"] == "silent"])[0]
    assert "answer" in row["why"]
    fake.close()


def test_pages_are_bounded(web):
    """Goal: beyond the limit a page is refused, and accepted when another one has gone."""
    pages = [web.events() for _ in range(MOST_PAGES)]
    for page in pages:
        page.take()
    assert web.get("events").status == 503
    pages.pop().answer.close()
    until(lambda: web.get("events").status == 200, 10, "there is room again")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once_with_pages_open(lab, number):
    client = WebClient(lab.client).enter()
    events = client.events()
    events.take()
    assert client.program.stop(number, within=5) == 0
    assert client.program.log.text == ""


def test_a_port_in_use(web):
    program = web.host.start(MPROXY, "web", "--listen", web.name)
    assert program.wait() == 1  # as of every program
    assert program.log.text.count("\n") == 1 and "in use" in program.log.text and "--listen" in program.log.text


def test_listening_for_others_is_warned_about(lab):
    client = WebClient(lab.client, "--listen", "0.0.0.0:0")
    client.program.expect("warning: other hosts", output=client.program.log)
    assert client.request("GET", client.target, Host=f"10.1.0.2:{client.port}").status == 303
    assert client.request("GET", client.target, Host=f"evil.example:{client.port}").status == 403


def test_the_browser_gets_a_link_for_one_visit(lab):
    """Goal: the link that other users can see on its command line does not work a second time."""
    file = lab.client.home / "visited"
    browser = lab.client.home / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {file}.new; mv {file}.new {file}\n')
    browser.chmod(0o755)
    client = WebClient(lab.client, "--listen", "127.0.0.1:0", "--open", env={"BROWSER": f"{browser} %s"})
    until(file.exists, 15, "the browser was started")
    target = f"/?{file.read_text().strip().partition('?')[2]}"
    assert target != client.target
    assert client.request("GET", target).status == 303
    assert client.request("GET", target).status == 403
    assert client.request("GET", client.target).status == 303


def test_without_its_packages_it_says_how_to_install_them(lab):
    code = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.modules['uvicorn'] = None;"
            " from mproxy.programs.main import main; sys.exit(main(['web']))")
    program = lab.client.start(sys.executable, "-IS", "-c", code)
    assert program.wait() == 1
    assert program.log.text.count("\n") == 1
    assert "-m pip install 'starlette" in program.log.text and "'uvicorn'" in program.log.text
