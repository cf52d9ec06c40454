"""The configuration objects: their defaults and ranges, that they are frozen, and numbers as people write them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mproxy.ground.config import (
    GIB,
    KIB,
    MIB,
    SECOND_US,
    Config,
    CproxyConfig,
    SessionConfig,
    Setting,
    SproxyConfig,
    default_state_dir,
    format_duration,
    format_host_port,
    format_size,
)
from mproxy.ground.errors import UsageError


@pytest.mark.parametrize("config_class", [SessionConfig, CproxyConfig, SproxyConfig])
def test_defaults_are_within_their_own_ranges(config_class):
    config = config_class()
    for name, setting in config_class.settings().items():
        assert getattr(config, name) == setting.default
        setting.check(setting.default)


def test_defaults_of_the_design():
    session = SessionConfig()
    assert session.heartbeat_us == SECOND_US
    assert session.misses == 3
    assert session.window_bytes == 4 * MIB
    assert session.session_budget_bytes == 64 * MIB
    assert session.session_ttl_us == 7 * 24 * 3600 * SECOND_US
    assert CproxyConfig().bind_addresses == ("127.0.0.1", "::1")
    assert SproxyConfig().bind_addresses == ("0.0.0.0", "::")
    assert (SproxyConfig().daemon_host, SproxyConfig().daemon_port) == ("127.0.0.1", 23)


def test_a_named_address_replaces_the_default_ones():
    assert CproxyConfig(bind=("10.0.0.1",)).bind_addresses == ("10.0.0.1",)


@pytest.mark.parametrize("config_class, values, message", [
    (SessionConfig, {"heartbeat_us": 9_999}, "--heartbeat 9999us: out of range (10ms to 1h)"),
    (SessionConfig, {"misses": 1}, "--misses 1: out of range (2 to 1000)"),
    (SessionConfig, {"window_bytes": 4 * KIB - 1}, "--window 4095: out of range (4KiB to 1GiB)"),
    (SessionConfig, {"window_bytes": GIB + 1},
     "--window 1073741825: out of range (4KiB to 1GiB)"),
    (SessionConfig, {"window_bytes": 128 * MIB},
     "--session-budget 64MiB: out of range (128MiB, which is one --window, to 1024GiB)"),
    (SessionConfig, {"session_ttl_us": 1}, "--session-ttl 1us: out of range (1s to 3650d)"),
    (SessionConfig, {"max_streams": 0}, "--max-streams 0: out of range (1 to 1000000)"),
    (CproxyConfig, {"port": 65536}, "--port 65536: out of range (0 to 65535)"),
    (CproxyConfig, {"connect_timeout_us": 0},
     "--connect-timeout 0s: out of range (100ms to 10m)"),
    (CproxyConfig, {"log_level": "loud"},
     "--log-level loud: must be one of debug, info, warning, error"),
    (SproxyConfig, {"log_format": "xml"}, "--log-format xml: must be one of text, json"),
    (SproxyConfig, {"max_unfinished": 0}, "--max-unfinished 0: out of range (1 to 65536)"),
])
def test_out_of_range_names_option_value_and_range(config_class, values, message):
    with pytest.raises(UsageError) as caught:
        config_class(**values)
    assert str(caught.value) == message


@pytest.mark.parametrize("values", [
    {"heartbeat_us": 10_000}, {"heartbeat_us": 3600 * SECOND_US}, {"misses": 2}, {"window_bytes": 4 * KIB},
    {"window_bytes": GIB, "session_budget_bytes": GIB}, {"window_bytes": 64 * MIB},
])
def test_the_ends_of_a_range_are_allowed(values):
    config = SessionConfig(**values)
    assert {name: getattr(config, name) for name in values} == values


def test_a_configuration_is_frozen():
    config = SessionConfig()
    with pytest.raises(AttributeError, match="frozen"):
        config.misses = 4
    with pytest.raises(AttributeError, match="frozen"):
        config.anything = 4
    assert config.misses == 3


def test_an_unknown_setting_is_a_programming_error():
    with pytest.raises(TypeError, match="SessionConfig has no setting windows"):
        SessionConfig(windows=3)


def test_replace_gives_a_checked_copy():
    config = SessionConfig(misses=5)
    assert config.replace(heartbeat_us=100_000).misses == 5
    assert config.heartbeat_us == SECOND_US
    with pytest.raises(UsageError):
        config.replace(misses=0)


def test_equal_values_make_equal_configurations():
    assert SessionConfig() == SessionConfig(misses=3)
    assert hash(SessionConfig()) == hash(SessionConfig(misses=3))
    assert SessionConfig() != SessionConfig(misses=4)
    assert CproxyConfig() != SproxyConfig()
    assert "misses=4" in repr(SessionConfig(misses=4))


def test_option_names_come_from_attribute_names():
    class Sample(Config):
        linger_us = Setting(0)
        pool_bytes = Setting(0)
        most_peers = Setting(0)

    options = [setting.option for setting in Sample.settings().values()]
    assert options == ["--linger", "--pool", "--most-peers"]


@pytest.mark.parametrize("duration_us, text", [
    (0, "0s"), (1, "1us"), (100_000, "100ms"), (1_500_000, "1500ms"), (90_000_000, "90s"), (60_000_000, "1m"),
    (7_200_000_000, "2h"), (604_800_000_000, "7d"),
])
def test_format_duration(duration_us, text):
    assert format_duration(duration_us) == text


@pytest.mark.parametrize("size_bytes, text", [
    (0, "0"), (1000, "1000"), (1024, "1KiB"), (65536, "64KiB"), (4 << 20, "4MiB"), (3 << 30, "3GiB"),
])
def test_format_size(size_bytes, text):
    assert format_size(size_bytes) == text


@settings(deadline=None)
@given(st.integers(1, 1 << 62))
def test_formatted_numbers_are_never_longer_than_plain_ones(number):
    assert len(format_size(number)) <= len(str(number)) + 3
    assert len(format_duration(number)) <= len(str(number)) + 2


def test_format_host_port():
    assert format_host_port("10.0.0.1", 23) == "10.0.0.1:23"
    assert format_host_port("fe80::1%eth0", 23) == "[fe80::1%eth0]:23"


@pytest.mark.parametrize("environ, directory", [
    ({"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "HOME": "/root"}, "/var/lib/a"),
    ({"XDG_STATE_HOME": "/s", "HOME": "/root"}, "/s/mproxy"),
    ({"XDG_STATE_HOME": "relative", "HOME": "/srv/ann"}, "/srv/ann/.local/state/mproxy"),
    ({"HOME": "/srv/ann"}, "/srv/ann/.local/state/mproxy"),
    ({}, None),
])
def test_default_state_dir(environ, directory):
    assert default_state_dir(environ, is_root=False) == directory


def test_default_state_dir_of_root():
    assert default_state_dir({"HOME": "/root"}, is_root=True) == "/var/lib/mproxy"
    assert default_state_dir({"HOME": "/root", "XDG_STATE_HOME": "/s"}, is_root=True) == "/s/mproxy"
