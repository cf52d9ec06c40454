"""mproxy metrics: values in a known scenario, its format as promtool and Prometheus see it, and who may ask."""

import json
import re
import signal
import sys
import textwrap
import time
import urllib.parse

import pytest
from lab import SLOWNESS_S, outage, until
from proxies import CPROXY_PORT, ROOT
from relays import MPROXY, is_served, start_echo
from traffic import pattern, read_exactly

from mproxy.service.measures import look_at_process

PORT, PROMETHEUS_PORT = 9470, 9090
SAMPLE = re.compile(r'^(\w+)\{([^}]*)\} (\S+)$', re.MULTILINE)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def samples(text, program):
    """{metric/values of labels beside user, program and name: value} of one program, as Prometheus would read it."""
    found = {}
    for name, labels, value in SAMPLE.findall(text):
        labels = dict(LABEL.findall(labels))
        if labels.pop("program") == program:
            del labels["user"], labels["name"]
            found["/".join((name.removeprefix("mproxy_"), *labels.values()))] = float(value)
    return found


def printed(host, *words):
    """What `mproxy metrics` prints on `host`."""
    program = host.start(MPROXY, "metrics", *words)
    assert program.wait() == 0, str(program)
    assert program.log.text == ""
    return program.out.text


def served(host, *words):
    """`mproxy metrics --listen` on `host`, ready to be asked."""
    program = host.start(MPROXY, "metrics", "--listen", *words)
    program.expect("serving http://", output=program.log)
    return program


def fetched(host, url, *words):
    """(HTTP status, text)"""
    *text, status = host.run("curl", "-s", "-m", "20", "-w", "\n%{http_code}", *words, url,
                              check=False).split("\n")
    return int(status), "\n".join(text)


@pytest.fixture
def app(pair):
    """Both proxies, and one application that has had its echo."""
    pair.echo()
    pair.start(cproxy=["--name", "laptop"])
    app = pair.app()
    app.sendall(pattern(0, 5000))
    assert read_exactly(app, 5000) == pattern(0, 5000)
    return app


def test_values_of_a_known_scenario(pair, app):
    """Goal: bytes that were sent, and an outage, are in the numbers of both ends."""
    client, server = pair.lab.client, pair.lab.server
    for host, program in ((client, "cproxy"), (server, "sproxy")):
        found = samples(printed(host), program)
        assert (found["up"], found["processes/running"]) == (1, 1)
        assert (found["sessions/connected"], found["sessions/away"], found["sessions_begun_total"]) == (1, 0, 1)
        assert found["session_bytes_total/sent"] == found["session_bytes_total/received"] == 5000
        assert (found["streams"], found["streams_opened_total"], found["session_outages_total"]) == (1, 1, 0)
        assert found["session_away_seconds"] == 0 and found["session_memory_bytes"] > 0
        assert 0 < found["session_round_trip_seconds/median"] < 1
        kept = pair.cproxy if program == "cproxy" else pair.sproxy
        processes = [look_at_process(pid) for pid in {kept.pid, kept.worker_pid}]
        assert found["resident_memory_bytes"] > 0.8 * sum(seen["memory"] for seen in processes), "the worker's, too"
        assert 0 < found["cpu_seconds_total"] <= sum(seen["cpu"] for seen in processes)
        assert time.time() - 600 < found["start_time_seconds"] <= time.time() + 1

    pair.lab.wifi.cut()
    outage(2)
    pair.cproxy.event("lost")
    found = samples(printed(client), "cproxy")
    assert (found["sessions/away"], found["sessions/connected"], found["session_outages_total"]) == (1, 0, 1)
    assert found["session_away_seconds"] >= 2 and found["session_outage_seconds_total"] >= 2
    pair.lab.wifi.mend()
    pair.cproxy.event("resumed")
    found = samples(printed(client), "cproxy")
    assert (found["sessions/connected"], found["session_away_seconds"], found["session_outages_total"]) == (1, 0, 1)

    app.close()
    name = pair.cproxy.event("connected")["session"]
    assert client.start(MPROXY, "kill", name).wait() == 0
    for host, program in ((client, "cproxy"), (server, "sproxy")):
        found = until(lambda host=host, program=program: is_over(samples(printed(host), program)), 10, "ended")
        assert found["session_bytes_total/sent"] == found["session_bytes_total/received"] == 5000
        assert (found["sessions_begun_total"], found["streams_opened_total"]) == (1, 1)
        assert found["session_outages_total"] == 1


def is_over(found):
    """What is known of a program without sessions; None while it has one."""
    return found if found["sessions/connected"] == found["sessions/away"] == 0 else None


def test_a_relay_and_a_receiver(lab, relay):
    start_echo(lab.server)
    relay.start(f"7005 -> {lab.server_address}:8005")
    assert is_served(lab.client, 7005)
    recv = lab.router.start(MPROXY, "recv", "--open", "--name", "inbox", "7000", "-o", f"{lab.router.home}/files/",
                            env=relay.environment)
    recv.event("listening")

    def text():
        program = lab.router.start(MPROXY, "metrics", env=relay.environment)
        assert program.wait() == 0, str(program)
        return program.out.text
    until(lambda: samples(text(), "relay")["relay_bytes_total/in/tcp"] == 5, 20, "the workers' report")
    found = samples(text(), "relay")
    assert (found["relay_rules/tcp"], found["relay_opened_total/tcp"], found["relay_bytes_total/out/tcp"]) == (1, 1, 5)
    assert found["relay_workers"] >= 1 and found["relay_worker_deaths_total"] == 0
    assert samples(text(), "recv")["transfers"] == 0
    promtool_likes(lab.router, text())


def test_promtool_reads_what_the_dashboard_asks(lab, tmp_path):
    """Goal: each query of it, and each alert of the page, can be evaluated."""
    panels = json.loads((ROOT / "contrib" / "grafana" / "mproxy.json").read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    rules = [{"record": f"asked:{number}", "expr": re.sub(r"\$__rate_interval", "5m", query)}
             for number, query in enumerate(queries)]
    page = (ROOT / "docs" / "metrics.md").read_text()
    alerts = textwrap.dedent(page[page.index("    groups:"):page.index("\nHow long")])
    for number, text in enumerate([json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}), alerts]):
        file = tmp_path / f"{number}.yml"
        file.write_text(text)
        assert "SUCCESS" in lab.router.run("promtool", "check", "rules", file)


def promtool_likes(host, text):
    """Checks names, units and types with Prometheus' own tool, which prints nothing if all is well."""
    assert host.run("promtool", "check", "metrics", input=text) == ""


def test_promtool_likes_it(pair, app):
    text = printed(pair.lab.client)
    promtool_likes(pair.lab.client, text)
    with pytest.raises(AssertionError):  # it is not merely silent
        promtool_likes(pair.lab.client, text.replace("mproxy_cpu_seconds_total", "mproxy_cpu_minutes"))


def test_one_that_hangs_costs_its_time_and_no_other(pair, app):
    """Goal: mproxy_up is 0 for it, and the answer has all the others."""
    other = pair.lab.client.start(MPROXY, "recv", "--open", "7000", "-o", f"{pair.lab.client.home}/files/")
    other.event("listening")
    pair.cproxy.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        text = printed(pair.lab.client, "--patience", "500ms")
        assert 0.5 <= time.monotonic() - began < 2 + SLOWNESS_S
        found = samples(text, "cproxy")
        assert (found["up"], found["processes/silent"]) == (0, 1) and "sessions/connected" not in found
        assert samples(text, "recv")["up"] == 1
    finally:
        pair.cproxy.signal(signal.SIGCONT)
    until(lambda: samples(printed(pair.lab.client), "cproxy")["up"] == 1, 10, "it answers again")


def test_nobody_runs(host):
    assert printed(host) == ""


def test_what_a_killed_program_left_is_passed_over(pair, app):
    pair.cproxy.signal(signal.SIGKILL)
    pair.cproxy.wait()
    assert printed(pair.lab.client) == ""


def test_over_http(pair, app):
    """Goal: /metrics, compressed or not, in both formats; on loopback only requests that name an address are served."""
    client = pair.lab.client
    exporter = served(client, str(PORT))
    here = f"http://127.0.0.1:{PORT}"
    status, text = fetched(client, f"{here}/metrics")
    assert status == 200 and samples(text, "cproxy")["up"] == 1
    assert fetched(client, f"{here}/metrics", "--compressed")[1].startswith("# HELP mproxy_up")
    openmetrics = "Accept: application/openmetrics-text; version=1.0.0"
    assert fetched(client, f"{here}/metrics", "-H", openmetrics)[1].rstrip().endswith("# EOF")
    assert fetched(client, f"http://localhost:{PORT}/metrics", "-4")[0] == 200
    assert fetched(client, f"{here}/metrics", "-H", "Host: evil.example")[0] == 403
    assert fetched(client, here)[0] == 200
    assert fetched(client, f"{here}/etc/passwd")[0] == 404
    assert fetched(client, f"{here}/metrics", "-X", "POST")[0] == 405
    assert "warning" not in exporter.log.text
    assert exporter.stop() == 0


def test_a_wide_address_is_warned_of(lab):
    exporter = served(lab.server, f"0.0.0.0:{PORT}")
    assert "warning" in exporter.log.text
    assert fetched(lab.client, f"http://{lab.server_address}:{PORT}/metrics")[0] == 200
    assert exporter.stop(signal.SIGINT) == 0


def test_silent_clients_keep_nobody_out(host):
    """Goal: silent clients have five seconds; those beyond the number of threads are closed."""
    served(host, str(PORT))
    connections = [host.connect(PORT) for _ in range(100)]
    until(lambda: fetched(host, f"http://127.0.0.1:{PORT}/")[0] == 200, 20, "an answer")
    for connection in connections:
        connection.close()


def test_a_real_prometheus_scrapes_it(pair, app, tmp_path):
    """Goal: it accepts every sample, and computes a rate of bytes from them."""
    client = pair.lab.client
    served(client, str(PORT))
    config = tmp_path / "prometheus.yml"
    config.write_text(json.dumps({"scrape_configs": [{
        "job_name": "mproxy", "scrape_interval": "1s", "scrape_timeout": "1s",
        "static_configs": [{"targets": [f"127.0.0.1:{PORT}"]}]}]}))
    client.start("prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/data",
                 f"--web.listen-address=127.0.0.1:{PROMETHEUS_PORT}", "--log.level=warn")

    def query(expression):
        """{label name of the group: value}"""
        url = f"http://127.0.0.1:{PROMETHEUS_PORT}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        answer = client.run("curl", "-s", "-m", "5", url, check=False)
        if not answer.startswith("{"):
            return {}
        return {each["metric"].get("name"): float(each["value"][1]) for each in json.loads(answer)["data"]["result"]}

    until(lambda: query("mproxy_up") == {"laptop": 1}, 60, "a scrape")
    assert query("mproxy_session_bytes_total{direction='sent'}") == {"laptop": 5000}
    app.sendall(pattern(5000, 95_000))
    assert read_exactly(app, 95_000) == pattern(5000, 95_000)
    until(lambda: query("increase(mproxy_session_bytes_total{direction='sent'}[1m])").get("laptop", 0) > 50_000, 60,
          "an increase")
    assert query("scrape_samples_scraped") != {} and query("up") == {None: 1}


def test_usage(host):
    for words in (["--listen", "here"], ["--listen", "127.0.0.1:99999"], ["--patience", "2h"], ["now"]):
        program = host.start(MPROXY, "metrics", *words)
        assert program.wait() == 2, str(program)
        assert len(program.log.text.strip().splitlines()) == 1, str(program)


def test_a_port_that_is_in_use(pair, app):
    program = pair.lab.client.start(MPROXY, "metrics", "--listen", str(CPROXY_PORT))
    assert program.wait() == 1 and "the port is in use" in program.log.text


def test_without_the_package_it_says_how_to_get_it(host):
    """Goal: one line, with the Python that needs it."""
    program = host.start(sys.executable, "-c", "import sys; sys.modules['prometheus_client'] = None\n"
                         "from mproxy.programs.metrics import main; sys.exit(main([]))")
    assert program.wait() == 1
    (line,) = program.log.text.strip().splitlines()
    assert f"{sys.executable} -m pip install 'prometheus-client" in line
