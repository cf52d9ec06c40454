"""docs/metrics.md and the dashboard for Grafana have exactly the metrics of the code."""

import json
import re

from mproxy.service.measures import COUNTER, GROUP, METRICS, PROGRAM_STATES, SESSION_STATES
from tests.meta.sources import ROOT

PAGE = (ROOT / "docs" / "metrics.md").read_text()
DASHBOARD = json.loads((ROOT / "contrib" / "grafana" / "mproxy.json").read_text())
NAME = re.compile(r"\bmproxy_\w+")
SELECTOR = re.compile(r"(mproxy_\w+)(?:\{([^}]*)\})?(\[[^]]*\])?")


def strings(value, key=""):
    """(key, text) of every text in a JSON value."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from strings(each, name)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each, key)
    elif isinstance(value, str):
        yield key, value


def expressions():
    return [text for key, text in strings(DASHBOARD) if key in ("expr", "definition", "query") and "mproxy_" in text]


def test_the_page_has_every_metric_with_type_labels_and_meaning():
    rows = re.findall(r"^\| `(mproxy_\w+)` \| (\w+) \|(.*?)\| (.*) \|$", PAGE, re.MULTILINE)
    shown = {name: (kind, tuple(re.findall(r"`(\w+)`", labels)), text) for name, kind, labels, text in rows}
    assert len(rows) == len(shown)
    assert shown == {metric.name: (metric.kind, metric.labels, metric.text) for metric in METRICS.values()}


def test_the_page_speaks_of_no_others():
    """In its examples, too."""
    assert set(NAME.findall(PAGE)) <= METRICS.keys()


def test_labels_are_bounded():
    """Goal: no label has a value for each session, stream, peer or process."""
    for metric in METRICS.values():
        assert set(metric.labels) <= {"state", "version", "direction", "of", "kind", "protocol"}, metric.name
        assert not set(metric.labels) & set(GROUP)


def test_the_dashboard_uses_what_there_is():
    found = expressions()
    assert len(found) > 20
    for text in found:
        for name, selector, span in SELECTOR.findall(text):
            assert name in METRICS, text
            labels = re.findall(r"(\w+)\s*=~?", selector)
            assert set(labels) <= {*GROUP, *METRICS[name].labels}, text
            assert not span or METRICS[name].kind == COUNTER or text.startswith("changes("), text
            states = SESSION_STATES if name == "mproxy_sessions" else PROGRAM_STATES
            for chosen in re.findall(r'\bstate=~?"([^"]*)"', selector):
                assert set(chosen.split("|")) <= set(states), text
            assert METRICS[name].kind != COUNTER or span, f"a counter is shown as a rate: {text}"


def test_legends_name_labels_that_there_are():
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            (name, *_) = NAME.findall(target["expr"])
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert labels <= {*GROUP, *METRICS[name].labels}, target


def test_the_dashboard_can_be_imported():
    """Goal: each panel has its own place and number, a query, and a data source that is chosen at import."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        squares = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not squares & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= squares
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}" and panel["targets"], panel["title"]
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = {name for text in expressions() for name in re.findall(r"\$(\w+)", text)} - {"__rate_interval"}
    assert used | {"datasource"} == variables
