"""A headless Chromium in the client's network, and the page of mproxy web in it: fixtures, by way of conftest.py."""

import shutil
import tempfile

import pytest
from lab import until
from web_client import FakeProgram, WebClient

# What the browser would look for elsewhere; --no-sandbox: root may not run it otherwise, nor may a container.
SWITCHES = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--no-first-run",
            "--host-resolver-rules=MAP evil.example 127.0.0.1"]
# What the browser says of whatever was under way when it hears that an address or a link has changed. The kernel tells
# of a new host's links with a delay, so this may be long after they were made.
CHANGED = "net::ERR_NETWORK_CHANGED"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_MS = 30_000


@pytest.fixture
def chromium(lab, ends):
    """A browser on the client, without data of earlier visits."""
    from playwright.sync_api import expect, sync_playwright  # tests of other programs do without
    expect.set_options(timeout=PATIENCE_MS)
    with lab.client.inside():  # who is started here stays here
        playwright = sync_playwright().start()
        ends.callback(playwright.stop)
        # Its socket's path may have no more than 107 bytes: not in the test's own directory.
        environment = lab.client.environment({"TMPDIR": tempfile.gettempdir()})
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES, env=environment)
    ends.callback(browser.close)
    return browser


@pytest.fixture
def server(lab):
    """The page's server."""
    client = WebClient(lab.client)
    yield client
    assert client.program.log.text == "", str(client.program)


@pytest.fixture
def visit(chromium, server):
    """Opens the page in its own window; at the end it must not have reported any error, but for what it gets over."""
    from playwright.sync_api import expect
    wrong = []

    def open_page(**context):
        page = chromium.new_context(**context).new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        until(lambda: arrives(page, server.url), PATIENCE_MS / 1000, "the page is there")
        expect(page.locator("#link")).to_have_text("live")
        return page
    yield open_page
    wrong = [message for message in wrong if CHANGED not in message]
    assert not wrong, wrong


def arrives(page, url):
    """Whether the browser got there; who sits before it would have pressed the button once more."""
    from playwright.sync_api import Error
    try:
        return page.goto(url)
    except Error as error:
        if CHANGED not in str(error):
            raise
        return None


@pytest.fixture
def crowd(lab, ends):
    """Makes a program with these sessions."""
    def make(sessions):
        fake = FakeProgram(lab.client, sessions)
        ends.callback(fake.close)
        return fake
    return make


def rows(page):
    """The rows of the table of sessions that are drawn."""
    return page.locator("#sessions tbody tr:not(.spacer)")


def open_detail(page):
    """Looks at the first session."""
    from playwright.sync_api import expect
    page.locator("#sessions tbody tr:not(.spacer) button.plain").first.click()
    expect(page.locator("#detail")).to_be_visible()
