"""mproxy status, kill, wait, top, metrics, web and relay status among programs that give unexpected answers: those of
another release, or of a user who wants to hide something from root."""

import contextlib
import copy
import json
import random

import jsonschema
import pytest

from mproxy.programs import relay, status_commands
from mproxy.programs.relay_status import say_status
from mproxy.programs.status_text import say_programs
from mproxy.programs.top_screen import TopScreen
from mproxy.programs.top_table import COLUMNS, TopTable
from mproxy.service import control
from mproxy.service.answers import is_status
from mproxy.service.measures import Ledger
from mproxy.service.survey import Surveyed
from mproxy.web.board import Board
from tests.meta.sources import ROOT
from tests.unit.answering import HERE, SESSION, SOUND, STREAM, AnsweringPrograms, sound

SCHEMA = jsonschema.Draft202012Validator(json.loads((ROOT / "docs" / "status.schema.json").read_text()))

# What no field of a number can be, nor most others.
NASTY = ("\x1b[2J\x9b31m\u202e\r\n", "\ud800", "", "7", None, True, -1, 1.5, 10 ** 30, 1e300, float("nan"),
         float("inf"), [], {}, [None], {"x": {}}, ["1", 2], [[]] * 3, {"tcp": 5})

STRANGE = {
    "no name": {}, "a number as name": sound("cproxy", name=5), "a name alone": {"program": "cproxy", "name": "odd"},
    "an older session": sound("cproxy", sessions=[{"session": "4f2a91c0", "state": "connected", "peer": "server"}]),
    "no list": sound("cproxy", sessions=3), "a session of text": sound("cproxy", sessions=["4f2a91c0"]),
    "a list as a session's name": sound("cproxy", sessions=[SESSION | {"session": []}]),
    "text as a number": sound("cproxy", sessions=[SESSION, SESSION | {"streams": "many", "session": "x"}]),
    "null as a number": sound("cproxy", sessions=[SESSION, SESSION | {"sent_bytes": None}]),
    "an object as text": sound("cproxy", sessions=[SESSION | {"peer": {"a": {}}}]),
    "a huge number": sound("cproxy", sessions=[SESSION | {"round_trip_ms": 10 ** 400}]),
    "endless": sound("cproxy", uptime_s=float("inf")), "no number": sound("cproxy", uptime_s=float("nan")),
    "a stream without an end": sound("cproxy", sessions=[SESSION | {"stream_list": [
        STREAM | {"application": {"local": ["::1"], "peer": "x"}}]}]),
    "workers": sound("cproxy", workers=[5]), "transfers": sound("cproxy", transfers=5),
    "another program's": sound("recv")}
TEXTS = {"deep": "[" * 100_000, "long": '{"uptime_s": ' + "9" * 5000 + "}", "cut": '{"program": "cpr'}


@pytest.fixture
def programs(tmp_path, monkeypatch):
    with contextlib.ExitStack() as stack:
        yield AnsweringPrograms(tmp_path, stack, monkeypatch)


@pytest.fixture(params=[*STRANGE.values(), *TEXTS.values()], ids=[*STRANGE, *TEXTS])
def strange(request, programs):
    """The socket of a strange program; a good one is running, too."""
    path = programs.say("cproxy", request.param)
    programs.say("recv", sound("recv"))
    return path


@pytest.mark.parametrize("options", [[], ["--streams"], ["--json"]])
def test_status_shows_the_others(strange, capfd, options):
    assert status_commands.status_main(options) == 1
    said = capfd.readouterr()
    assert "inbox" in said.out and said.err.count("\n") == 1 and strange in said.err


def test_kill_and_wait_pass_it_over(strange, capfd):
    assert status_commands.kill_main(["00000000"]) == 1
    said = capfd.readouterr().err
    assert "there is no session 00000000 here" in said and strange in said
    assert status_commands.wait_main(["--for", "away", "--timeout", "0"]) == 1
    assert "--timeout has expired" in capfd.readouterr().err


def test_top_shows_the_others_and_sorts(strange):
    table = TopTable()
    found, silent = status_commands.ask_all(None)
    for column in COLUMNS:
        table.sort_by(column)
        table.update(found, 1.0)
        assert [row.program["name"] for row in table.rows] == ["inbox"]
    assert [one.path for one in silent] == [strange]


@pytest.mark.parametrize("answer", [
    {}, {"ok": True}, {"ok": "yes", "done": 5}, {"ok": False, "lines": 7}, {"ok": False, "lines": [{}, "\x1b[2J"]},
    {"ok": True, "done": {"x": "\x1b[2J"}}], ids=str)
def test_a_strange_answer_to_kill(programs, capfd, answer):
    programs.say("sproxy", sound("sproxy"), kill=answer)
    assert status_commands.kill_main(["4f2a91c0"]) in (0, 1)
    said = capfd.readouterr()
    assert (said.out + said.err).count("\n") >= 1 and "\x1b" not in said.out + said.err


@pytest.mark.parametrize("answer", [{}, 5, sound("relay", rules=7), sound("relay", name="\x1b[2J"), sound("sproxy")],
                         ids=["nothing", "a number", "no rules", "escape codes", "another program"])
def test_relay_status(programs, capfd, monkeypatch, answer):
    path = programs.say("relay", answer, reload=answer)
    monkeypatch.setattr(control, "find_running", lambda _program: programs.running)
    monkeypatch.setattr(control, "find_socket", lambda _program, _pid: path)
    for word in ("status", "reload"):
        assert relay.main([word]) in (0, 1)
        said = capfd.readouterr()
        assert "\x1b" not in said.out + said.err and (said.out or said.err.count("\n") == 1)


def test_what_cannot_be_said_as_json(programs, capfd):
    """In a field that nobody here knows."""
    path = programs.say("recv", json.dumps(sound("recv", news=7)).replace('"news": 7', '"news": 1e999'))
    assert status_commands.status_main(["--json"]) == 1
    said = capfd.readouterr()
    assert "Infinity" not in said.out and path in said.err
    assert status_commands.status_main([]) == 0


# ---- whatever an answer holds

def places(value, path=()):
    """All places in a JSON value, from the outside in."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def changed(answer, path, value):
    """A copy of it with another value in that place."""
    answer = copy.deepcopy(answer)
    at = answer
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return answer


class Window:
    """Of curses, as much as a screen needs."""

    def __init__(self):
        self.text = ""

    def __getattr__(self, _name):
        return lambda *_: None

    def getmaxyx(self):
        return 60, 300

    def addnstr(self, _line, _left, text, most, _style):
        self.text += f"{text[:most]}\n"


@pytest.fixture
def window(monkeypatch):
    for name in ("use_default_colors", "init_pair", "color_pair", "curs_set", "doupdate"):
        monkeypatch.setattr(f"curses.{name}", lambda *_: 0)
    return Window()


def show_everywhere(answer, window):
    """All that is ever made of an answer that passes for one."""
    facts = answer | {"pid": HERE, "socket": "/s"}
    status_commands.name_applications([facts])
    text = "\n".join(say_programs([facts]))
    screen, table = TopScreen(window, 1), TopTable()
    table.update([facts, sound("sproxy", socket="/t")], 1.0)
    for column in COLUMNS:
        table.sort_by(column)
        screen.draw_table(table, "")
    for session in facts.get("sessions", ()):
        screen.draw_session(facts, session, 0, "")
    if facts["program"] == "relay":
        say_status(facts, as_json=False)
    list(Ledger(str).take([Surveyed(facts["program"], HERE, "/s", 0, answer)]).items())
    board = Board()
    for now in (1000.0, 1001.0):
        board.begin(now)
        board.take(HERE, "/s", answer)
        json.dumps([board.changes(-1, {}), board.histories(board.tables["sessions"])], allow_nan=False).encode("ascii")
    for char in "\x1b\x9b\u202e\ud800\r":
        assert char not in text and char not in window.text


@pytest.mark.parametrize("program", SOUND)
def test_whatever_passes_for_an_answer_can_be_shown(program, window):
    """Goal: each value of an answer becomes each nasty one in turn: what is not refused, everything that shows it can
    take. What the schema allows is not refused; what is of another type than there is."""
    assert is_status(sound(program)) and is_status(sound(program), program)
    SCHEMA.validate(sound(program, socket="/s"))
    show_everywhere(sound(program), window)
    for path in places(sound(program)):
        for value in NASTY if path else ():
            answer = changed(sound(program), path, value)
            if is_status(answer, program):
                show_everywhere(answer, window)
            else:
                assert not SCHEMA.is_valid(answer | {"socket": "/s"}) or isinstance(value, float | int), (path, value)


@pytest.mark.parametrize("program", SOUND)
def test_the_schema_and_the_check_agree(program):
    """Goal: what the check lets pass, and the schema does not, is no more than a word that is not known yet, and texts
    and numbers out of range."""
    for path in places(sound(program)):
        if not path:
            continue
        for value in NASTY:
            answer = changed(sound(program), path, value)
            error = jsonschema.exceptions.best_match(SCHEMA.iter_errors(answer | {"socket": "/s"}))
            if error is not None and is_status(answer, program):
                assert error.validator in ("enum", "additionalProperties", "minimum", "oneOf"), (path, value, error)
        if isinstance(path[-1], str):
            answer = sound(program)
            at = answer
            for key in path[:-1]:
                at = at[key]
            del at[path[-1]]
            if not SCHEMA.is_valid(answer | {"socket": "/s"}):
                assert not is_status(answer, program), path


def test_several_things_at_once(window):
    """The same with a few values changed at a time, by chance."""
    passed = 0
    for _ in range(3000):
        answer = sound(random.choice([*SOUND]))
        for _ in range(random.randint(1, 4)):
            path = random.choice([*places(answer)][1:])
            answer = changed(answer, path, copy.deepcopy(random.choice(NASTY)))
        if is_status(answer):
            passed += 1
            show_everywhere(answer, window)
    assert passed > 10


# ---- names

def test_a_name_that_nothing_has_is_named(programs, capfd):
    programs.say("recv", sound("recv"))
    assert status_commands.status_main(["lapotp"]) == 1
    assert "nothing called lapotp is running" in capfd.readouterr().out


@pytest.mark.parametrize("words", [["status", ""], ["kill", ""], ["kill", "/7"], ["wait", ""], ["top", ""]], ids=str)
def test_an_empty_name_is_a_mistake(capfd, words):
    """Goal: such as an unset variable leaves; it never means all."""
    from mproxy.programs.main import main
    assert main(words) == 2
    said = capfd.readouterr()
    assert said.err.count("\n") == 1 and not said.out
