"""The page of mproxy web in a real browser: headless Chromium in the client's network.

    MPROXY_PICTURES=docs pytest tests/system/test_web_page.py -k pictures    makes the pictures of docs/web.md
"""

import os
import re
import sys
from pathlib import Path

import pytest
from browser import PATIENCE_MS, open_detail, rows
from lab import outage, until
from playwright.sync_api import expect
from proxies import SPROXY_PORT
from traffic import ends_by_reset, read_exactly
from web_client import WebClient, fake_session, fake_stream, outages

SESSIONS = 1000
# From the first to the last row, in a hundred steps: how many rows were there, and whether they filled the window. How
# long it takes is measured by benchmarks/seeing.py.
SCROLL = """async () => {
    const scroll = document.querySelector(".scroll.tall");
    const steps = [];
    scroll.scrollTop = 0;
    const step = (scroll.scrollHeight - scroll.clientHeight) / 100;
    for (let at = 1; at <= 100; at += 1) {
        scroll.scrollTop = at * step;
        await new Promise(requestAnimationFrame);
        await new Promise(requestAnimationFrame);  // what the first one had asked for
        const rows = [...scroll.querySelectorAll("tbody tr:not(.spacer)")].map((row) => row.getBoundingClientRect());
        const {top, bottom} = scroll.getBoundingClientRect();
        steps.push([rows.length, rows[0].top <= top && rows[rows.length - 1].bottom >= bottom - 30]);
    }
    return steps;
}"""


def test_it_loads_and_the_token_leaves_the_address(visit, served, server):
    page = visit()
    assert "token" not in page.url and page.title() == "mproxy"
    expect(rows(page)).to_have_count(1)
    row = rows(page).first
    expect(row).to_contain_text("connected")
    expect(row).to_contain_text(f":{SPROXY_PORT}")
    expect(page.locator("#programs")).to_contain_text("laptop")
    assert page.evaluate("document.cookie") == ""
    page.reload()  # the cookie is enough
    expect(rows(page)).to_have_count(1)


def test_the_first_paint_waits_for_no_data(chromium, server, crowd):
    """Goal: the page is drawn before anything is known of any program; what comes then is put into it."""
    crowd([fake_session(number) for number in range(SESSIONS)])
    page = chromium.new_context().new_page()
    held = []
    page.route("**/events", lambda route: held.append(route))
    page.goto(server.url)
    until(lambda: page.evaluate("performance.getEntriesByName('first-contentful-paint').length") and held, 30,
          "it is drawn, and asks for data")
    expect(page.locator("#summary")).to_have_text("Nothing is known yet.")
    assert rows(page).count() == 0
    held.pop().continue_()
    expect(page.locator("#sessions")).to_have_attribute("aria-rowcount", str(SESSIONS + 1))


@pytest.mark.parametrize("file", ["page.js", "words.js", "page.css"])
def test_a_file_that_did_not_come(chromium, server, served, file):
    """Goal: the network changes while the page is loaded, which ends what the browser has under way; the page that
    then lacks a part of itself is not what somebody looks at for ever."""
    page = chromium.new_context().new_page()
    page.set_default_timeout(PATIENCE_MS)
    lost = []

    def lose(route):
        if lost:
            route.continue_()
        else:
            lost.append(route)
            route.abort("internetdisconnected")
    page.route(f"**/{file}", lose)
    page.goto(server.url)
    expect(page.locator("#link")).to_have_text("live")
    expect(rows(page)).to_have_count(1)
    expect(page.locator("#announcement")).to_have_css("position", "absolute")  # as page.css says
    assert lost


def test_a_wrong_token_and_a_foreign_name_see_nothing(chromium, server):
    page = chromium.new_context().new_page()
    for url in (server.url[:-3] + "xyz", f"http://127.0.0.1:{server.port}/",
                server.url.replace("127.0.0.1", "evil.example")):
        assert page.goto(url).status == 403
        assert page.locator("table").count() == 0


def test_another_page_can_do_nothing(visit, lab, served, pair, server):
    """Goal: a page of another server in the same browser can neither read nor end a session, nor frame the page."""
    page = visit()
    expect(rows(page)).to_have_count(1)
    key = rows(page).first.get_attribute("data-key")
    place = page.url
    directory = lab.client.home / "foreign"
    directory.mkdir()
    (directory / "index.html").write_text("<!doctype html><title>foreign</title><iframe></iframe>")
    other = lab.client.start(sys.executable, "-u", "-m", "http.server", "-b", "127.0.0.1", "-d", directory, "0")
    port = other.expect(r"port (\d+)")[1]
    foreign = page.context.new_page()
    for host in ("127.0.0.1", "evil.example"):
        foreign.goto(f"http://{host}:{port}/")
        got = foreign.evaluate("""async ([place, key]) => {
            const tries = [["kill", {method: "POST", body: JSON.stringify({key})}], ["events", {}], ["", {}]];
            const found = [];
            for (const [name, how] of tries) {
                for (const mode of ["cors", "no-cors"]) {
                    try {
                        const answer = await fetch(place + name, {...how, mode, credentials: "include"});
                        found.push(answer.type === "opaque" ? "opaque" : await answer.text());
                    } catch { found.push("refused"); }
                }
            }
            return found;
        }""", [place, key])
        assert set(got) <= {"refused", "opaque"}
    served.sendall(b"still")
    assert read_exactly(served, 5) == b"still"


def test_an_outage_is_seen_and_its_gap_stays(visit, pair, served):
    """Goal: while the path is gone the page works and shows the session as away, with the reason; then it shows the
    gap."""
    page = visit()
    expect(rows(page).first).to_contain_text("connected")
    open_detail(page)
    state = page.locator("#detail-state")
    expect(state).to_have_text(re.compile(r"^connected for ([2-9]|\d\d+)s"))  # long enough to be seen in the chart
    pair.lab.wifi.cut()
    expect(rows(page).first).to_contain_text("away")
    expect(page).to_have_title("(1 away) mproxy")
    expect(state).to_have_text(re.compile(r"^away for \d+s: .+"))
    expect(page.locator("#outages tbody tr")).to_contain_text("so far")
    outage(2)
    pair.lab.wifi.mend()
    expect(rows(page).first).to_contain_text("connected")
    expect(state).to_have_text(re.compile("^connected for"))
    cells = page.locator("#outages tbody tr td").all_inner_texts()
    assert len(cells) == 3 and cells[2]
    assert 2 <= float(re.fullmatch(r"(\d+\.\d) s", cells[1])[1]) < 30
    expect(page.locator("#timeline-chart rect.down")).to_have_count(1)
    expect(page.locator("#timeline-chart rect.up")).to_have_count(2)
    assert page.locator("#timeline-chart rect.down title").text_content() == cells[2]


def test_a_session_is_ended_after_a_question(visit, pair, served):
    """Goal: nothing happens before it is confirmed; then both logs have the reason, and the row says that it ended."""
    page = visit()
    session = pair.cproxy.event("connected")["session"]
    rows(page).first.get_by_role("button", name=f"End session {session}…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(f"End session {session}?")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_be_hidden()
    served.sendall(b"alive")
    assert read_exactly(served, 5) == b"alive"
    rows(page).first.get_by_role("button", name="End session").click()
    dialog.get_by_label("Reason").fill("moving house")
    dialog.get_by_role("button", name="End it").click()
    expect(dialog).to_be_hidden()
    assert ends_by_reset(served)
    for program in (pair.cproxy, pair.sproxy):
        assert "mproxy kill: moving house" in program.event("ended")["why"]
    expect(rows(page).first).to_contain_text("ended")


def test_a_stream_is_ended_and_the_others_go_on(visit, pair, served):
    """Goal: of two applications the chosen one is reset at both ends, with the reason in both logs."""
    other = pair.app()
    other.sendall(b"other")
    assert read_exactly(other, 5) == b"other"
    page = visit()
    open_detail(page)
    streams = page.get_by_role("table", name="Streams of this session").locator("tbody tr:not(.spacer)")
    expect(streams).to_have_count(2)
    streams.last.get_by_role("button", name="End stream").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("it hangs")
    dialog.get_by_role("button", name="End it").click()
    expect(dialog).to_be_hidden()
    assert ends_by_reset(other)
    for program in (pair.cproxy, pair.sproxy):
        assert "it hangs" in program.event("stream-killed")["why"]
    expect(streams).to_have_count(1)
    served.sendall(b"still")
    assert read_exactly(served, 5) == b"still"


def test_of_a_thousand_sessions_what_is_seen_is_drawn(visit, crowd):
    """Goal: only few rows exist, the true number is shown, and wherever one scrolls to, rows are drawn at once."""
    crowd([fake_session(number) for number in range(SESSIONS)])
    page = visit()
    table = page.locator("#sessions")
    expect(table).to_have_attribute("aria-rowcount", str(SESSIONS + 1))
    assert rows(page).count() < 60
    page.get_by_role("button", name="Session", exact=True).click()
    expect(rows(page).first).to_contain_text("00000000")
    for drawn, filled in page.evaluate(SCROLL):
        assert drawn < 60 and filled
    expect(rows(page).last).to_contain_text(f"{SESSIONS - 1:08x}")
    assert rows(page).last.get_attribute("aria-rowindex") == str(SESSIONS + 1)
    assert rows(page).count() < 60
    page.locator("#filter").fill("user77 connected")
    expect(table).to_have_attribute("aria-rowcount", "12")  # user77, and user770 to user779
    expect(page.locator("#shown")).to_have_text(f"11 of {SESSIONS}")


def test_figures_of_a_session_go_on(visit, crowd):
    """Goal: rows that were never visible have their rates and time lines when they are scrolled to."""
    fake = crowd([fake_session(number) for number in range(200)])
    fake.growth[150] = 102_400
    page = visit()
    page.get_by_role("button", name="Rate").click()
    expect(rows(page).first).to_contain_text(f"{150:08x}")  # the fastest goes first
    expect(rows(page).first).to_contain_text("100.0K/s")
    path = rows(page).first.locator("svg.spark path").first
    page.wait_for_function("(path) => path.getAttribute('d').length > 20", arg=path.element_handle())


def test_streams_of_the_session_that_is_looked_at(visit, crowd):
    """Goal: they are listed, sorted and filtered, with what each waits for; one is ended and the session stays."""
    fake = crowd([fake_session(number, streams=500) for number in range(3)])
    fake.streams = [fake_stream(number, slow="peer" if number == 77 else None) for number in range(1, 501)]
    page = visit()
    expect(page.locator("#streams-part")).to_be_hidden()
    open_detail(page)
    table = page.get_by_role("table", name="Streams of this session")
    expect(table).to_have_attribute("aria-rowcount", "501")
    streams = table.locator("tbody tr:not(.spacer)")
    assert streams.count() < 40
    table.get_by_role("button", name="Sent").click()
    expect(streams.first).to_contain_text("10.0.0.9:500")
    expect(streams.first).to_contain_text("ssh (500)")
    page.locator("#stream-filter").fill("other end")
    expect(streams).to_have_count(1)
    expect(streams.first).to_contain_text("10.0.0.9:77")
    streams.first.get_by_role("button", name="End stream 77…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("/77?")
    dialog.get_by_label("Reason").fill("stuck")
    dialog.get_by_label("Reason").press("Enter")
    expect(dialog).to_be_hidden()
    (asked,) = fake.kills
    assert (asked["stream"], asked["reason"]) == (77, "stuck") and len(asked["session"]) == 8
    page.get_by_role("button", name="Close").click()
    expect(page.locator("#streams-part")).to_be_hidden()


def test_texts_of_others_stay_texts(visit, crowd):
    hostile = "<img src=x onerror=\"window.pwned=1\"></td></table><script>window.pwned=1</script>"
    crowd([fake_session(7, peer=hostile, comment=hostile, state="away", why=hostile, session="<b>7</b>",
                        outages=outages((1.0, 1.0, hostile)))])
    page = visit()
    expect(rows(page).first).to_contain_text("<img src=x")
    open_detail(page)
    expect(page.locator("#detail-state")).to_contain_text("<script>")
    expect(page.locator("#outages tbody")).to_contain_text("<script>")
    page.locator("#detail-kill").click()
    expect(page.get_by_role("dialog")).to_contain_text("<b>7</b>")
    assert page.evaluate("window.pwned") is None
    assert page.locator("#sessions img, #sessions b, #detail script, dialog b").count() == 0


def test_a_screen_reader_has_tables(visit, crowd):
    crowd([fake_session(number) for number in range(3)])
    page = visit()
    table = page.get_by_role("table", name="Sessions of all programs")
    expect(table.get_by_role("rowheader")).to_have_count(3)
    header = table.get_by_role("columnheader", name="Peer")
    assert header.get_attribute("aria-sort") == "none"
    header.get_by_role("button").press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    header.get_by_role("button").press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    expect(rows(page).first).to_contain_text("10.0.0.2")
    open_detail(page)
    expect(page.locator("#detail-title")).to_be_focused()
    expect(page.get_by_role("table", name="Outages")).to_be_visible()
    page.get_by_role("button", name="Close").click()
    expect(page.locator("#sessions tbody button.plain").first).to_be_focused()
    assert page.get_by_role("status").text_content().startswith("1 program, 3 sessions: 3 connected")


def test_on_a_phone_and_in_the_dark(visit, crowd):
    crowd([fake_session(number, comment="a-long-name-" * 5) for number in range(30)])
    page = visit(viewport={"width": 360, "height": 700}, color_scheme="dark")
    expect(rows(page).first).to_contain_text("connected")
    open_detail(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark


def test_the_page_says_when_its_program_has_ended(chromium, lab):
    server = WebClient(lab.client)
    page = chromium.new_context().new_page()
    page.goto(server.url)
    expect(page.locator("#link")).to_have_text("live")
    server.program.stop()
    expect(page.locator("#link")).to_contain_text("mproxy web")
    expect(page.locator("#link")).to_have_class("link lost")
    expect(page.get_by_role("status")).to_contain_text("mproxy web")


PEERS = [("192.0.2.17", "anna@laptop"), ("198.51.100.4", "ben@phone"), ("203.0.113.80", "build-7"),
         ("192.0.2.41", "carla@train"), ("198.51.100.23", "dan@home")]


def test_pictures(visit, crowd, tmp_path):
    """Goal: the pictures in docs/ take at most 100 KB each."""
    fake = crowd([
        fake_session(0x4f2a91c0 + number * 7919, peer=peer, comment=comment, streams=number % 4 + 1, age_s=9e3 * number,
                     since_s=9000.0 * number, sent_bytes=number * 70_000_000, received_bytes=number * 900_000,
                     carrier={"kind": "tcp+tls", "local": ["10.0.0.2", 6200], "peer": [peer, 40_000 + number]})
        for number, (peer, comment) in enumerate(PEERS, 1)])
    train, why = fake.sessions[3], "nothing heard for 3.0s"
    fake.streams = [fake_stream(5, target="127.0.0.1:22", age_s=8000.0)]
    page = visit(viewport={"width": 1240, "height": 800})
    expect(rows(page)).to_have_count(len(PEERS))
    for turn in range(20):  # a second of the picture's own time each
        for number, session in enumerate(fake.sessions):
            fake.growth[number] = 0 if session["state"] == "away" else (turn * 104_729 * (number + 2)) % 900_000
            session["round_trip_ms"] = 18 + 9 * number + (turn * 37 * (number + 1)) % 14
        if 6 <= turn < 12:
            lasts_s = turn - 5.5
            train |= {"state": "away", "since_s": lasts_s, "why": why, "outages": outages((lasts_s, lasts_s, why))}
        elif turn >= 12:
            past = outages((turn - 5.5, 6.0, why))
            train |= {"state": "connected", "since_s": turn - 11.5, "why": "", "outages": past}
        page.wait_for_timeout(1000)
    rows(page).filter(has_text="carla").locator("button.plain").click()
    page.evaluate("window.scrollTo(0, 0)")
    directory = Path(os.environ.get("MPROXY_PICTURES", tmp_path))
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        file = directory / f"web-{scheme}.jpg"
        page.screenshot(path=file, full_page=True, type="jpeg", quality=30)
        assert file.stat().st_size < 100_000
