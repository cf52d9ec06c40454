"""The page of mproxy web for those who hear it, use no mouse, or see poorly: what Chromium tells assistive programs."""

import pytest
from browser import open_detail, rows
from lab import until
from playwright.sync_api import expect
from web_client import fake_session, fake_stream, outages

# What is operated or looked up has a name; so has what divides the page.
NAMED = {"button", "link", "textbox", "searchbox", "table", "dialog", "region", "group", "figure", "heading", "image",
         "columnheader", "rowheader"}
LIVE = "[aria-live], [role=status], [role=alert], [role=log]"

# WCAG 2: contrast of text, of large text, and how large that is.
LEAST_CONTRAST, LEAST_CONTRAST_LARGE = 4.5, 3.0
# [contrast, large, text] of every text that is seen.
CONTRASTS = """() => {
    const parse = (text) => {
        const srgb = text.match(/^color\\(srgb ([^)]*)\\)/);
        if (srgb) {
            const [r, g, b, a] = srgb[1].split(/[ /]+/).map(Number);
            return [r * 255, g * 255, b * 255, a ?? 1];
        }
        const [r, g, b, a] = text.match(/[\\d.]+/g).map(Number);
        return [r, g, b, a ?? 1];
    };
    const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
    const ground = (element) => {
        const layers = [];
        for (let at = element; at; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
        const paper = matchMedia("(prefers-color-scheme: dark)").matches ? [0, 0, 0, 1] : [255, 255, 255, 1];
        return layers.reverse().reduce((below, layer) => over(layer, below), paper);
    };
    const light = (color) => color.slice(0, 3).map((value) => value / 255)
        .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
        .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
    const found = [];
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const element = texts.currentNode.parentElement;
        const text = texts.currentNode.textContent.trim();
        if (!text || !element.checkVisibility() || element.closest(".unseen, .skip, noscript, svg")) continue;
        const style = getComputedStyle(element);
        const below = ground(element);
        const [one, other] = [light(over(parse(style.color), below)), light(below)];
        const size = parseFloat(style.fontSize);
        const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
        found.push([(Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05), large, text]);
    }
    return found;
}"""

# Where the focus is: what kind of element, its name or text, and its place in the page.
FOCUSED = """() => {
    const all = [...document.querySelectorAll("*")];
    const it = document.activeElement;
    const ring = getComputedStyle(it).outlineStyle;
    return [it.localName, it.id || it.getAttribute("aria-label") || it.textContent, all.indexOf(it), ring];
}"""


class Accessible:
    """The tree that assistive programs get of a page."""

    def __init__(self, page):
        nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
        self._nodes = {node["nodeId"]: node for node in nodes}
        self.nodes = [node for node in nodes if not node["ignored"]]

    def all(self, *roles):
        return [node for node in self.nodes if self.role(node) in roles]

    def one(self, role, name):
        (node,) = [node for node in self.all(role) if self.name(node).startswith(name)]
        return node

    def under(self, node, *roles):
        found = []
        for child in (self._nodes[each] for each in node.get("childIds", ()) if each in self._nodes):
            if not child["ignored"] and self.role(child) in roles:
                found.append(child)
            found += self.under(child, *roles)
        return found

    @staticmethod
    def role(node):
        return node.get("role", {}).get("value")

    @staticmethod
    def name(node):
        return node.get("name", {}).get("value", "")

    @staticmethod
    def has(node, name):
        return {each["name"]: each["value"].get("value") for each in node.get("properties", ())}.get(name)


@pytest.fixture
def page(visit, crowd):
    """With sessions in every state, one of them looked at, and its streams."""
    why = "nothing heard for 3.0s"
    fake = crowd([
        fake_session(1, outages=outages((30.0, 4.0, why), (9000.0, 2.0, why))), fake_session(3, comment=None),
        fake_session(2, state="away", why=why, since_s=4.0, next_try_s=2.0, outages=outages((4.0, 4.0, why))),
        fake_session(4, state="connecting", why="refused")])
    fake.streams = [fake_stream(number, slow="peer") for number in (1, 2)]
    page = visit(viewport={"width": 1700, "height": 1000})
    page.fake = fake
    expect(rows(page)).to_have_count(4)
    open_detail(page)
    expect(page.locator("#streams tbody tr:not(.spacer)")).to_have_count(2)
    expect(rows(page).first).to_contain_text("/s")  # rates are known at the second look
    return page


def test_everything_has_a_name(page):
    tree = Accessible(page)
    assert [tree.role(node) for node in tree.all(*NAMED) if not tree.name(node)] == []
    names = [tree.name(node) for node in tree.all("button") if "…" in tree.name(node)]
    assert "End session 00000001…" in names and "End stream 2…" in names
    assert tree.all("main") and tree.all("banner")


def test_tables_have_headings_and_rows(page):
    """Goal: each is a table with as many cells in a row as there are headings, the first of them the row's own."""
    tree = Accessible(page)
    counts = {"Sessions of all programs": 4, "Streams of this session": 2, "Programs that run": 1, "Outages": None}
    for name, count in counts.items():
        table = tree.one("table", name)
        head, *body = tree.under(table, "row")
        headings = tree.under(head, "columnheader")
        assert len(headings) >= 3 and all(map(tree.name, headings)), name
        for row in body:
            assert len(tree.under(row, "rowheader", "cell", "gridcell")) == len(headings), name
        assert count in (None, len(body)), name
        if count:
            assert all(len(tree.under(row, "rowheader")) == 1 for row in body), name
    facts = tree.under(tree.one("table", "Facts"), "row")
    assert len(facts) > 8 and all(tree.under(row, "rowheader") for row in facts)


def test_pictures_have_their_figures_as_text(page):
    """Goal: no picture is told of by itself; what it shows stands beside it in words."""
    tree = Accessible(page)
    assert not tree.all("image", "graphics-document", "graphics-symbol", "SvgRoot")
    names = [tree.name(node) for node in tree.all("figure")]
    for name, words in zip(names, ("Rate:", "Round trip:", "From"), strict=True):
        assert name.startswith(words)
    assert page.locator("svg:not([aria-hidden=true])").count() == 0
    for cell in page.locator("#sessions td:has(svg), #sessions th:has(svg)").all():
        if cell.is_visible():
            assert cell.text_content().strip()
    assert page.locator("#outages tbody tr").count() >= 1  # the time line as a table


def test_nothing_is_shouted(page):
    """Goal: what is read aloud by itself is told once when it changes, not at every look; errors at once."""
    assert [each.get_attribute("id") for each in page.locator(LIVE).all()] == ["announcement", "kill-wrong"]
    expect(page.get_by_role("status")).to_have_text("1 program, 4 sessions: 1 away, 1 connecting, 2 connected")
    page.evaluate(f"""() => {{
        window.told = [];
        for (const region of document.querySelectorAll("{LIVE}"))
            new MutationObserver(() => window.told.push(region.textContent)).observe(region,
                {{childList: true, characterData: true, subtree: true}});
        window.looks = 0;
        new MutationObserver(() => (window.looks += 1)).observe(document.getElementById("facts"),
            {{childList: true, characterData: true, subtree: true}});
    }}""")
    page.fake.growth = dict.fromkeys(range(4), 70_000)
    until(lambda: page.evaluate("window.looks") > 12, 60, "the page has changed often")
    assert page.evaluate("window.told") == []
    page.fake.sessions[2] |= {"state": "connected", "why": "", "next_try_s": None}
    until(lambda: page.evaluate("window.told.length"), 60, "it is told")
    assert page.evaluate("window.told") == ["1 program, 4 sessions: 1 connecting, 3 connected"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(page, scheme):
    page.emulate_media(color_scheme=scheme)
    page.locator("#detail-kill").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    seen = page.evaluate(CONTRASTS)
    assert len(seen) > 60
    poor = sorted({(round(contrast, 2), text) for contrast, large, text in seen
                   if contrast < (LEAST_CONTRAST_LARGE if large else LEAST_CONTRAST)})
    assert not poor


def tab_until(page, wanted):
    """Presses Tab until that element has the focus; all that had it: in the page's order, each with a ring to see."""
    stops = []
    while not stops or wanted != stops[-1][1]:
        page.keyboard.press("Tab")
        stops.append(page.evaluate(FOCUSED))
        assert len(stops) < 60, stops
    places = [place for _, _, place, _ in stops]
    assert places == sorted(places) and len(set(places)) == len(places), stops
    assert all(ring != "none" for *_, ring in stops), stops
    return [text for _, text, _, _ in stops]


def test_the_focus_goes_through_the_page_in_order(page):
    """Goal: from the link that skips the head, through all that can be operated, to the session that is looked at."""
    page.reload()
    expect(rows(page)).to_have_count(4)
    assert tab_until(page, "Skip to the sessions") == ["Skip to the sessions"]
    page.keyboard.press("Enter")
    stops = tab_until(page, "00000002")
    assert stops[0] == "filter" and "Peer" in stops and "Outages" in stops
    page.keyboard.press("Enter")
    expect(page.locator("#detail-title")).to_be_focused()
    expect(page.locator("#streams tbody tr:not(.spacer)")).to_have_count(2)
    stops = tab_until(page, "End stream 2…")
    assert stops[:3] == ["detail-kill", "detail-close", "stream-filter"] and "End stream 1…" in stops
    assert page.locator("[tabindex]:not([tabindex='0']):not([tabindex='-1'])").count() == 0


def test_a_session_is_ended_by_keys_after_a_question(page):
    """Goal: Enter asks, Escape goes back to where one was, and only the answer ends it; then the focus is not lost."""
    button = rows(page).filter(has_text="00000003").get_by_role("button", name="End session")
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="End session 00000003?")
    expect(dialog).to_be_visible()
    expect(page.locator("#kill-reason")).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.type("by keys")
    for _ in range(8):  # it goes round within the question
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    assert not page.fake.kills
    page.locator("#kill-confirm").focus()
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    (asked,) = page.fake.kills
    assert (asked["session"], asked["reason"]) == ("00000003", "by keys")
    expect(button).to_be_focused()
    page.fake.sessions.pop(1)
    expect(rows(page).filter(has_text="00000003")).to_contain_text("ended")
    expect(rows(page).filter(has_text="00000003").locator("button.plain")).to_be_focused()

