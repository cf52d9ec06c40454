"""Command lines: every option, what is refused and with which message, and the help text."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mproxy
from mproxy.ground.config import (
    MIB,
    SECOND_US,
    CproxyConfig,
    SessionConfig,
    SproxyConfig,
    format_duration,
    format_host_port,
    format_size,
)
from mproxy.ground.errors import UsageError
from mproxy.ground.words import (
    counted,
    is_loopback,
    parse_bind,
    parse_count,
    parse_duration,
    parse_host,
    parse_host_port,
    parse_port,
    parse_size,
    printable,
)
from mproxy.programs import main as mproxy_main
from mproxy.programs.cproxy_options import parse_cproxy
from mproxy.programs.sproxy_options import parse_attach, parse_attach_start, parse_sproxy
from mproxy.service.exit import complain

PARSE = {"cproxy": parse_cproxy, "sproxy": parse_sproxy}

FINGERPRINT = "SHA256:" + "a" * 43
ATTACH_WORDS = "--attach takes no other option than --start, and at most a PORT (with --start: HOST:PORT)"


PARSERS = (parse_duration, parse_size, parse_count, parse_port, parse_host, parse_host_port, parse_bind)


def refusal(parse, argument):
    with pytest.raises(UsageError) as caught:
        parse(argument)
    text = str(caught.value)
    assert "\n" not in text
    return text


# --- values ---

@pytest.mark.parametrize("text, duration_us", [
    ("100ms", 100_000), ("1s", 1_000_000), ("1.5m", 90_000_000), ("2h", 7_200_000_000),
    ("7d", 604_800_000_000), ("3", 3_000_000), ("0.25", 250_000), ("1us", 1), ("0.0000019s", 1),
    ("1S", 1_000_000), ("0", 0),
])
def test_durations(text, duration_us):
    assert parse_duration(text) == duration_us


@pytest.mark.parametrize("text, size_bytes", [
    ("4MiB", 4 << 20), ("64KiB", 65536), ("1GiB", 1 << 30), ("4M", 4 << 20), ("500kB", 500_000),
    ("65536", 65536), ("1.5MiB", 1_572_864), ("2g", 2 << 30), ("1MB", 1_000_000), ("12B", 12),
])
def test_sizes(text, size_bytes):
    assert parse_size(text) == size_bytes


WRONG_NUMBERS = ["", " ", "1 s", "s", "-1s", "+1s", "1e3s", "1.s", ".5s", "1..5", "1,5s", "0x10", "1x",
                 "1s1s", "٣s", "nan", "inf", "9" * 16, "1s\n"]


@pytest.mark.parametrize("text", WRONG_NUMBERS)
def test_wrong_numbers_are_refused(text):
    assert refusal(parse_duration, text).startswith("not a duration; use")
    assert refusal(parse_size, text).startswith("not a size; use")


@settings(deadline=None)
@given(st.integers(0, 10 ** 15 - 1))
def test_what_is_shown_can_be_typed(number):
    assert parse_duration(format_duration(number)) == number
    assert parse_size(format_size(number)) == number


@settings(deadline=None)
@given(st.text(max_size=12))
def test_any_text_is_a_value_or_refused(text):
    for parse in PARSERS:
        try:
            parse(text)
        except UsageError as error:
            assert str(error).isprintable()


def test_counts():
    assert parse_count("20000") == 20000
    for text in ("", "-1", "1.5", "1k", "²", "9" * 16):
        assert refusal(parse_count, text) == "not a whole number"


def test_ports():
    assert parse_port("1") == 1 and parse_port("65535") == 65535 and parse_port("0", lowest=0) == 0
    for text in ("0", "65536", "-1", "", "ssh", "22 ", "²", "000022"):
        assert refusal(parse_port, text) == "not a valid port (1 to 65535)"


@pytest.mark.parametrize("text, host", [
    ("Example.COM", "example.com"), ("10.0.0.1", "10.0.0.1"), ("::1", "::1"), ("[::1]", "::1"),
    ("FD00:0:0::5", "fd00::5"), ("fe80::1%eth0", "fe80::1%eth0"), ("[fe80::1%eth0]", "fe80::1%eth0"),
    ("a_b-c", "a_b-c"), ("host.", "host."),
    ("bücher.example", "bücher.example"),
])
def test_hosts(text, host):
    assert parse_host(text) == host


@pytest.mark.parametrize("text", [
    "", "-x", ".", "a b", "a:b", "a:23", "a/b", "user@host", "[10.0.0.1]", "[name]", "[::1", "::1]", "::1%",
    "::1%a%b", "10.0.0.1%eth0", "a\nb", "a\x1b[2J", "a" * 254, "[]",
])
def test_wrong_hosts(text):
    assert refusal(parse_host, text).startswith("not a valid host; use")


@pytest.mark.parametrize("text, pair", [
    ("127.0.0.1:23", ("127.0.0.1", 23)), ("[::1]:23", ("::1", 23)), ("Intranet:80", ("intranet", 80)),
    ("[fe80::1%eth0]:5", ("fe80::1%eth0", 5)),
])
def test_host_and_port(text, pair):
    assert parse_host_port(text) == pair
    assert parse_host_port(format_host_port(*pair)) == pair


@pytest.mark.parametrize("text, reason", [
    ("::1:23", "not HOST:PORT; put an IPv6 address in brackets"), ("host", "not HOST:PORT, such as"),
    (":23", "not HOST:PORT, such as"), ("host:", "not HOST:PORT, such as"),
    ("host:0", "not a valid port"), ("host:http", "not a valid port"), ("[::1]", "not "), ("a b:5", "not a valid host"),
])
def test_wrong_host_and_port(text, reason):
    assert refusal(parse_host_port, text).startswith(reason)


@settings(deadline=None)
@given(st.ip_addresses(v=4) | st.ip_addresses(v=6), st.integers(1, 65535))
def test_every_address_survives_a_round_trip(address, port):
    text = parse_host(str(address))
    assert parse_host_port(format_host_port(text, port)) == (text, port)
    assert parse_bind(str(address)) == text
    assert parse_host(address.exploded) == text


def test_bind_takes_numeric_addresses_only():
    assert parse_bind("[::]") == "::"
    for text in ("localhost", "", "*", "10.0.0", "127.1"):
        assert refusal(parse_bind, text).startswith("not a numeric address; use one such as")


def test_names_are_not_empty():
    """`--user "$VARIABLE"` gives an empty name if the variable is not set: the program would go on as root."""
    for option in ("--user", "--authorized-keys", "--host-key", "--state-dir"):
        assert refusal(parse_sproxy, [option, "", "6200"]) == f"{option} '': must not be empty"
    for option in ("--key", "--known-hosts", "--state-dir"):
        assert refusal(parse_cproxy, [option, "", "5200", "server", "6200"]) == f"{option} '': must not be empty"


def test_one_of_a_thing_is_no_plural():
    assert [counted(number, "rule") for number in (0, 1, 2)] == ["0 rules", "1 rule", "2 rules"]


def test_printable_shows_plain_words_as_they_are():
    assert printable("a:1") == "a:1"
    assert [printable(text) for text in ("", "a b", "a\x1b")] == ["''", "'a b'", r"'a\x1b'"]


# --- cproxy ---

def test_cproxy_with_defaults(monkeypatch):
    monkeypatch.setattr("mproxy.programs.session_options.default_state_dir", lambda: "/state")
    config = parse_cproxy(["5200", "server", "6200"])
    assert config == CproxyConfig(port=5200, sproxy_host="server", sproxy_port=6200, state_dir="/state")
    assert (config.key_file, config.known_hosts_file) == ("/state/client-key.pem", "/state/known_hosts")


def test_cproxy_with_every_option():
    argv = [
        "--bind", "10.0.0.1", "--bind", "::1", "--heartbeat", "100ms", "--misses", "5", "--window", "1MiB",
        "--session-budget", "8MiB", "--session-ttl", "1h", "--max-streams", "7",
        "--drain", "1s", "--log-level", "debug", "--log-format", "json", "--eager", "--idle", "5m",
        "--idle-heartbeat", "25s",
        "--stay", "--target", "[::1]:80", "--connect-timeout", "3s", "--state-dir", "/s", "--key", "k",
        "--known-hosts", "kh", "--host-fingerprint", FINGERPRINT, "5200", "::1", "6200"]
    assert parse_cproxy(argv) == CproxyConfig(
        session=SessionConfig(
            heartbeat_us=100_000, idle_heartbeat_us=25 * SECOND_US, misses=5, window_bytes=MIB,
            session_budget_bytes=8 * MIB, session_ttl_us=3600 * SECOND_US, max_streams=7),
        port=5200, sproxy_host="::1", sproxy_port=6200, bind=("10.0.0.1", "::1"),
        drain_us=SECOND_US, log_level="debug", log_format="json", eager=True, idle_us=300 * SECOND_US,
        stay=True, target=("::1", 80), connect_timeout_us=3 * SECOND_US, state_dir="/s", key="k", known_hosts="kh",
        host_fingerprint=(FINGERPRINT,))


def test_options_stand_anywhere():
    config = parse_cproxy(["5200", "--eager", "server", "--misses=4", "6200"])
    assert (config.port, config.sproxy_host, config.sproxy_port) == (5200, "server", 6200)
    assert config.eager and config.session.misses == 4


def test_cproxy_stdio():
    config = parse_cproxy(["--stdio", "[fd00::1]", "6200"])
    assert config.stdio and config.port is None
    assert (config.sproxy_host, config.sproxy_port) == ("fd00::1", 6200)


@pytest.mark.parametrize(("text", "words"), [
    ("http://proxy:3128", ("http", "proxy", 3128, None, "")),
    ("http://ann@proxy:3128/", ("http", "proxy", 3128, "ann", "")),
    ("socks5h://ann:s%40:cret@[::1]:1080", ("socks5h", "::1", 1080, "ann", "s@:cret"))])
def test_cproxy_takes_a_proxy(text, words):
    assert parse_cproxy(["--proxy", text, "5200", "server", "6200"]).proxy == words


def test_cproxy_via_needs_no_address():
    config = parse_cproxy(["--via", "ssh -T server 'sproxy --attach'", "5200"])
    assert (config.port, config.sproxy_host, config.sproxy_port) == (
        5200, "via=ssh%20-T%20server%20%27sproxy%20--attach%27", None)
    assert config.sproxy_name == "ssh -T server 'sproxy --attach'"
    assert parse_cproxy(["--via", "x", "--name", "b\u00fcro", "5200"]).sproxy_host == "via=b%C3%BCro"
    config = parse_cproxy(["--via", "x", "--stdio"])
    assert config.stdio and (config.port, config.sproxy_name) == (None, "x")


@pytest.mark.parametrize("words", [["--via", "x", "5200", "server", "6200"], ["5200", "server:6200", "--via=x"],
                                   ["--stdio", "--via", "x", "server", "6200"]])
def test_cproxy_via_may_have_an_address_for_the_key(words):
    config = parse_cproxy(words)
    assert (config.via, config.sproxy_host, config.sproxy_port, config.sproxy_name) == (
        "x", "server", 6200, "server:6200")


def test_attach_may_have_a_port():
    assert parse_attach(["--attach"]) is None
    assert parse_attach(["6200", "--attach"]) == 6200
    for words, text in ((["--attach", "x"], "PORT x: not a valid port (1 to 65535)"),
                        (["--attach", "1", "2"], ATTACH_WORDS), (["--attach", "--single"], ATTACH_WORDS)):
        assert refusal(parse_attach, words) == text


def test_attach_start_may_have_a_daemon():
    assert parse_attach_start(["--attach", "--start"]) is None
    assert parse_attach_start(["--start", "[::1]:5432", "--attach"]) == ("::1", 5432)
    for words, text in ((["--attach", "--start", "6200"],
                         "HOST:PORT 6200: not HOST:PORT, such as 127.0.0.1:23 or [::1]:23"),
                        (["--attach", "--start", "a:1", "b:2"], ATTACH_WORDS)):
        assert refusal(parse_attach_start, words) == text
    assert refusal(parse_sproxy, ["--start", "6200"]) == "--start is for use with --attach"


def test_sproxy_that_ends_when_nobody_needs_it():
    config = parse_sproxy(["--exit-idle", "2h", "--trust-attached", "6200"])
    assert config.exit_idle_us == 7200 * SECOND_US and config.trust_attached
    assert parse_sproxy(["6200"]).exit_idle_us is None


def test_cproxy_plain_keeps_the_words():
    config = parse_cproxy(["--plain", "5200", "host", "23"])
    assert config.plain and (config.port, config.sproxy_host, config.sproxy_port) == (5200, "host", 23)


# --- sproxy ---

def test_sproxy_with_defaults(monkeypatch):
    monkeypatch.setattr("mproxy.programs.session_options.default_state_dir", lambda: "/state")
    config = parse_sproxy(["6200"])
    assert config == SproxyConfig(port=6200, state_dir="/state")
    assert config.host_key_file == "/state/host-key.pem"
    assert config.authorized_keys_file == "/state/authorized_keys"


def test_sproxy_with_every_option():
    argv = ["--allow", "a:1", "--allow", "[::1]:2", "--single", "--max-unfinished", "3", "--bind", "::",
            "--host-key", "hk", "--authorized-keys", "ak", "--user", "nobody", "--memory-limit", "64MiB",
            "--source-per-key", "--stdio-ttl", "2h", "--state-dir", "/s", "6200", "[::1]:22"]
    assert parse_sproxy(argv) == SproxyConfig(
        port=6200, daemon_host="::1", daemon_port=22, allow=(("a", 1), ("::1", 2)), single=True,
        max_unfinished=3, bind=("::",), host_key="hk", authorized_keys="ak", user="nobody", source_per_key=True,
        stdio_ttl_us=7200 * SECOND_US,
        memory_limit_bytes=64 * MIB, state_dir="/s")


def test_sproxy_plain():
    config = parse_sproxy(["--plain", "6200", "host:5"])
    assert config.plain and (config.daemon_host, config.daemon_port) == ("host", 5)


# --- refusals ---

@pytest.mark.parametrize("command, text", [
    ("cproxy", "missing argument: PORT; expected PORT HOST PORT (try 'cproxy --help')"),
    ("cproxy 1 host", "missing argument: PORT; expected PORT HOST PORT (try 'cproxy --help')"),
    ("cproxy 1 host 2 3", "unexpected argument: 3; expected PORT HOST PORT (try 'cproxy --help')"),
    ("cproxy 65536 host 2", "PORT 65536: not a valid port (0 to 65535)"),
    ("cproxy 1 host 0", "PORT 0: not a valid port (1 to 65535)"),
    ("cproxy --stdio 1 host 2", "--stdio does not listen on a port: leave out 1"),
    ("cproxy --host-fingerprint SHA256:abc 1 host 2", "--host-fingerprint SHA256:abc: not a key fingerprint; expected"
     " SHA256: and the 43 characters after it"),
    ("sproxy --plaintext --source-per-key 1",
     "--plaintext and --source-per-key cannot be used together"),
    ("sproxy --memory-limit 1MiB 1", "--memory-limit 1MiB: out of range (64MiB to 1024GiB)"),
    ("cproxy --stdio host", "missing argument: PORT; expected HOST PORT (try 'cproxy --help')"),
    ("cproxy --stdio --bind ::1 h 2", "--stdio and --bind cannot be used together"),
    ("cproxy --stdio --eager h 2", "--stdio and --eager cannot be used together"),
    ("cproxy --stdio --idle 1s h 2", "--stdio and --idle cannot be used together"),
    ("cproxy --stdio --plain h 2", "--stdio and --plain cannot be used together"),
    ("cproxy --via ssh --stay 1", "--via and --stay cannot be used together"),
    ("cproxy --plain --target a:1 1 h 2", "--plain and --target cannot be used together"),
    ("cproxy --plain --misses 3 1 h 2", "--plain and --misses cannot be used together"),
    ("cproxy --plain --session-ttl 3d 1 h 2",
     "--plain and --session-ttl cannot be used together"),
    ("cproxy --allow a:1 1 h 2", "unrecognized arguments: --allow (try 'cproxy --help')"),
    ("cproxy --heart 1s 1 h 2", "unrecognized arguments: --heart (try 'cproxy --help')"),
    ("cproxy 1 h 2 --heartbeat", "--heartbeat: expected one argument (try 'cproxy --help')"),
    ("cproxy --heartbeat 5ms 1 h 2", "--heartbeat 5ms: out of range (10ms to 1h)"),
    ("cproxy --idle-heartbeat 500ms 1 h 2",
     "--idle-heartbeat 500ms: must not be less than --heartbeat, which is 1s"),
    ("cproxy --heartbeat soon 1 h 2",
     "--heartbeat soon: not a duration; use a number and a unit (us, ms, s, m, h, d), such as 100ms or 1.5h"),
    ("cproxy --window 128MiB 1 h 2",
     "--session-budget 64MiB: out of range (128MiB, which is one --window, to 1024GiB)"),
    ("cproxy --target ::1:23 1 h 2",
     "--target ::1:23: not HOST:PORT; put an IPv6 address in brackets, such as [::1]:23"),
    ("sproxy", "missing argument: PORT; expected PORT [HOST:PORT] (try 'sproxy --help')"),
    ("sproxy 1 2", "daemon 2: not HOST:PORT, such as 127.0.0.1:23 or [::1]:23"),
    ("sproxy 1 a:2 b:3", "unexpected argument: b:3; expected PORT [HOST:PORT] (try 'sproxy --help')"),
    ("cproxy --proxy http://p:1 --via x 1", "--via and --proxy cannot be used together"),
    ("cproxy --proxy p:1 1 h 2", "--proxy p:1: not a proxy; use http://HOST:PORT or socks5h://HOST:PORT, with"
     " USER:PASSWORD@ before HOST if it wants them"),
    ("cproxy --proxy http://p 1 h 2", "--proxy http://p: not HOST:PORT, such as 127.0.0.1:23 or [::1]:23"),
    ("cproxy --via x --plain 1", "--plain and --via cannot be used together"),
    ("cproxy --via x", "missing argument: PORT; expected PORT (try 'cproxy --help')"),
    ("cproxy --via x 1 server", "missing argument: PORT; expected PORT HOST PORT (try 'cproxy --help')"),
    ("cproxy --via x --stdio 5200", "--stdio does not listen on a port: leave out 5200"),
    ("cproxy --via-terminal 1 host 2", "--via-terminal is for use with --via"),
    ("cproxy --via", "--via: expected one argument (try 'cproxy --help')"),
    ("sproxy --attach --single 1", ATTACH_WORDS),
    ("sproxy --attach 1 2", ATTACH_WORDS),
    ("sproxy --single --plain 1", "--plain and --single cannot be used together"),
    ("sproxy --plain --allow a:1 1", "--plain and --allow cannot be used together"),
    ("sproxy --log-level loud 1", "--log-level loud: must be one of debug, info, warning, error"),
    ("sproxy --log-format xml 1", "--log-format xml: must be one of text, json"),
    ("sproxy --bind localhost 1",
     "--bind localhost: not a numeric address; use one such as 127.0.0.1 or ::1, or 0.0.0.0 for all"),
    ("sproxy -5", "PORT -5: not a valid port (0 to 65535)"),
    ("sproxy 1 [::1 22", "HOST [::1: not a valid host; use a name, an IPv4 address, or an IPv6 address such as ::1"),
])
def test_what_is_refused_and_in_which_words(command, text):
    program, *argv = command.split()
    assert refusal(PARSE[program], argv) == text


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from([
    "--stdio", "--plain", "--eager", "--bind", "--idle=1s", "--misses", "5", "::1", "host", "--", "-x", "",
    "--version=1", "\n"]), max_size=6))
def test_any_words_are_a_configuration_or_refused(argv):
    try:
        assert isinstance(parse_cproxy(argv), CproxyConfig)
    except UsageError:
        pass


def test_complaints_are_one_printable_line(capfd):
    complain("cproxy", "bad \x1b[2J\nword \u202e")
    assert capfd.readouterr().err == "cproxy: bad \\x1b[2J\\nword \\u202e\n"


# --- help, version, start ---

PROGRAMS = [*mproxy_main.PROGRAMS, "relay check", "relay reload", "relay stop", "relay status",
            "impair set"]
OPTION = re.compile(r"(?<![\w-])--?[a-zA-Z][a-z-]*")


def help_of(words, option, capsys):
    """What `mproxy words option` prints."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with pytest.raises(SystemExit) as caught:
            mproxy_main.main([*words.split(), option])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert caught.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", PROGRAMS)
def test_help_fits_a_terminal_and_names_real_options(words, capsys):
    text, whole = help_of(words, "--help", capsys), help_of(words, "--help-all", capsys)
    assert text.startswith("usage: ") and text.count("\n") <= 24
    assert "\n  words\n" not in whole  # what argparse calls them is no word for a user
    assert max(map(len, text.splitlines())) <= 80
    if text != whole:
        assert f"{words if words in PARSE else f'mproxy {words}'} --help-all" in text
    lines = [line for line in text.splitlines() if not line.startswith("  ssh ") and "'ssh " not in line]
    assert set(OPTION.findall("\n".join(lines))) - {"--attach", "--debug"} <= set(OPTION.findall(whole))


@pytest.mark.parametrize("words", PROGRAMS)
def test_the_whole_help_fits_80_columns_and_says_what_a_time_is(words, capsys):
    text = help_of(words, "--help-all", capsys)
    assert max(map(len, text.splitlines())) <= 80
    assert "TIME is a number with " in text or "TIME" not in text
    assert not re.search(r"\w-\n", text), "a word is divided"
    assert not re.search(r"<\S+ object", text), "an object instead of what it stands for"


@pytest.mark.parametrize("program", ["cproxy", "sproxy"])
def test_help_is_complete(program, capsys):
    with pytest.raises(SystemExit) as caught:
        PARSE[program](["--help-all"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    config_class = {"cproxy": CproxyConfig, "sproxy": SproxyConfig}[program]
    shown = {**SessionConfig.settings(), **config_class.settings()}
    words = {"session", "port", "sproxy_host", "sproxy_port", "daemon_host", "daemon_port", "direct", "ssh_name",
             "hushed", "standby"}
    if program == "sproxy":
        words |= {"connect_timeout_us", "idle_heartbeat_us"}
    for name in shown.keys() - words:
        assert re.search(rf"\n  (-\w( \S+)?, )?{shown[name].option}[ \n]", text), name
    for name in SessionConfig.settings().keys() | {"drain_us", "max_sessions"} & shown.keys():
        if name == "idle_heartbeat_us":
            continue  # as another option
        assert f"(default {shown[name].format(shown[name].default)}" in " ".join(text.split()), name
    assert "examples:" in text and "kB" in text


def test_help_mentions_telnet_forwarding_and_proxy_command(capsys):
    with pytest.raises(SystemExit):
        parse_cproxy(["--help-all"])
    text = capsys.readouterr().out
    for word in ("telnet 127.0.0.1 5200", "ssh -L", "ProxyCommand='cproxy --stdio %h 6200'"):
        assert word in text


@pytest.mark.parametrize("program", ["cproxy", "sproxy"])
def test_version(program, capsys):
    with pytest.raises(SystemExit) as caught:
        PARSE[program](["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"{program} {mproxy.__version__}\n"


def test_starting_does_not_import_what_is_slow():
    program = (
        "import sys\n"
        "from mproxy.programs import message, cproxy_options, sproxy_options, main\n"
        "from mproxy.service import log\n"
        "from mproxy.policy import backoff, network, resolver\n"
        "cproxy_options.parse_cproxy(['1', 'host', '2']); sproxy_options.parse_sproxy(['1'])\n"
        "slow = ['asyncio', 'concurrent', 'ctypes', 'dataclasses', 'inspect', 'ipaddress', 'json',\n"
        "        'logging', 'random', 'shutil', 'subprocess', 'tempfile', 'typing', 'urllib']\n"
        "sys.exit(', '.join(name for name in slow if name in sys.modules) or 0)\n")
    environ = {**os.environ, "PYTHONPATH": str(Path(mproxy.__file__).parents[1])}
    # Without site, whose imports are not ours to count.
    command = [sys.executable, "-S", "-c", program]
    result = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30, check=False)
    assert (result.returncode, result.stderr) == (0, "")


# --- the mproxy command ---

def test_mproxy_dispatches_the_rest_of_the_words(monkeypatch):
    received = []
    sample = SimpleNamespace(main=lambda argv: received.append(argv) or 7)
    monkeypatch.setitem(sys.modules, "sample_program", sample)
    monkeypatch.setitem(mproxy_main.PROGRAMS, "sample", ("sample_program", "main", "for this test"))
    assert mproxy_main.main(["sample", "--help", "x"]) == 7
    assert received == [["--help", "x"]]


def test_mproxy_help_and_version(capsys):
    assert mproxy_main.main(["--help-all"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in mproxy_main.PROGRAMS)
    assert max(map(len, text.splitlines())) <= 80
    assert mproxy_main.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"\b{name}\b", text) for name in mproxy_main.PROGRAMS)
    assert max(map(len, text.splitlines())) <= 80 and text.count("\n") <= 24
    assert mproxy_main.main(["--version"]) == 0
    assert capsys.readouterr().out == f"mproxy {mproxy.__version__}\n"


def test_mproxy_alone_says_in_ten_lines_what_it_can_do(capsys):
    assert mproxy_main.main([]) == 0
    text = capsys.readouterr().out
    assert text.count("\n") == 10 and max(map(len, text.splitlines())) <= 80
    named = {command.removeprefix("mproxy ").split()[0] for command, _ in mproxy_main.OVERVIEW}
    assert named <= mproxy_main.PROGRAMS.keys()


@pytest.mark.parametrize("argv, start", [
    (["relax"], "mproxy: relax is not an mproxy program. Choose from cproxy, sproxy,"),
    (["--what"], "mproxy: --what is not an mproxy program."),
])
def test_mproxy_refuses_unknown_programs_in_one_line(argv, start, capfd):
    assert mproxy_main.main(argv) == 2
    error = capfd.readouterr().err
    assert error.startswith(start) and error.endswith("(try 'mproxy --help')\n") and error.count("\n") == 1


# --- HOST:PORT in one word ---

@pytest.mark.parametrize(("joined", "apart"), [
    ("server:6200", ["server", "6200"]), ("10.0.0.1:6200", ["10.0.0.1", "6200"]), ("[::1]:6200", ["::1", "6200"]),
    ("[fe80::1%eth0]:6200", ["fe80::1%eth0", "6200"]),
])
def test_host_and_port_in_one_word_or_two(joined, apart):
    """Goal: HOST:PORT in one word, as for sproxy's daemon and in rule files, works everywhere."""
    from mproxy.programs.impair import parse_impair
    from mproxy.programs.relay_options import parse_relay
    from mproxy.programs.send import parse_send

    def same(parse, before, after):
        def said(words):
            return str(sorted((name, str(value)) for name, value in vars(parse(words)).items()))
        assert said([*before, joined, *after]) == said([*before, *apart, *after])
    same(parse_cproxy, ["5200"], [])
    same(parse_cproxy, ["--stdio"], ["--heartbeat", "2s"])
    same(parse_sproxy, ["6200"], [])
    same(lambda words: parse_relay(words)[1], ["80"], ["max=5"])
    same(parse_impair, ["7001"], [])
    same(parse_send, ["a", "b:c"], [])


@pytest.mark.parametrize("words", [["5200", "server"], ["5200", "::1"], ["5200", "server:"], ["5200", "server:ssh"],
                                   ["5200", "a:b:1"], ["5200", "server:1", "2"], ["5200", ":1"]])
def test_neither_one_word_nor_two(words):
    assert refusal(parse_cproxy, words)


@pytest.mark.parametrize(("host", "ours"), [
    ("localhost", True), ("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("::1%lo", True),
    ("::ffff:127.0.0.1", True), ("0.0.0.0", False), ("::", False), ("::2", False), ("::ffff:10.0.0.1", False),
    ("server", False), ("10.0.0.1", False), ("", False), ("127.0.0.1\0", False),
])
def test_loopback(host, ours):
    assert is_loopback(host) == ours
