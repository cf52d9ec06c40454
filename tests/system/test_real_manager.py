"""`systemctl restart` of the units as they are shipped, by a real systemd."""

import re

import pytest
from conversations import PATIENCE_S, Meeting, MixedLoad, still_joined
from lab import outage, until
from proxies import CPROXY, CPROXY_PORT, DAEMON_PORT, SPROXY, SPROXY_PORT
from real_manager import NEEDS_SYSTEMD, RealManager
from traffic import ends_by_reset

pytestmark = NEEDS_SYSTEMD


class Service:
    """sproxy, with two workers, or cproxy under systemd, the other one as ever."""

    def __init__(self, name, manager, pair, lab, listener):
        self.unit, self.manager = f"{name}@test", manager
        if name == "sproxy":
            self.log = manager.install("sproxy", f"--workers 2 {SPROXY_PORT} 127.0.0.1:{DAEMON_PORT}", SPROXY)
            self.has("listening")
            pair.start_cproxy()
        else:
            pair.start_sproxy()
            self.log = manager.install("cproxy", f"{CPROXY_PORT} {lab.server_address} {SPROXY_PORT}", CPROXY)
            self.has("listening")
        self.meeting = Meeting(lambda: lab.client.connect(CPROXY_PORT, timeout=PATIENCE_S), listener)

    def has(self, event, count=1):
        until(lambda: self.log.read_text().count(f" {event} ") >= count, 30, f"{event}: {self.log.read_text()}")

    def restart(self):
        before = self.manager.show(self.unit, "MainPID")
        count = self.log.read_text().count(" recovered ")
        self.manager.ask("restart", self.unit)
        assert self.manager.show(self.unit, "MainPID") != before
        self.has("recovered", count + 1)
        until(lambda: self.manager.show(self.unit, "NFileDescriptorStore") == "0", 10, "the store is empty")


@pytest.fixture(params=["sproxy", "cproxy"])
def service(request, pair, lab, tmp_path):
    host = lab.server if request.param == "sproxy" else lab.client
    try:
        manager = RealManager(host, tmp_path)
    except OSError as error:
        pytest.skip(f"systemd cannot run here: {error}")
    with lab.server.listen(DAEMON_PORT) as listener:
        try:
            yield Service(request.param, manager, pair, lab, listener)
        finally:
            manager.close()


def test_systemctl_restart_keeps_every_connection(service, seed):
    """Goal: two in a row, under every kind of load, and with many streams; `systemctl stop` ends them all."""
    joined = [service.meeting.joined() for _ in range(200)]
    load = MixedLoad(service.meeting, seed)
    for _ in range(2):
        outage(0.3)
        service.restart()
    load.stop()
    assert all(still_joined(app, daemon) for app, daemon in joined)
    service.manager.ask("reload", service.unit)
    service.has("upgraded")
    service.restart()
    assert all(still_joined(app, daemon) for app, daemon in joined)
    log = service.log.read_text()
    trouble = re.search(" (lost=|missing=|(info|warning) ended|no-store|restart-failed|not-stored|worker-died) ?", log)
    assert not trouble, log
    service.manager.ask("stop", service.unit)
    assert all(ends_by_reset(app) and ends_by_reset(daemon) for app, daemon in joined)
