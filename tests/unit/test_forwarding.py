"""Where streams lead, as people write it: forwards, targets, and what is permitted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mproxy.ground.errors import UsageError
from mproxy.ground.forwarding import (
    is_wide,
    parse_forward,
    parse_permitted,
    parse_spot,
    parse_target,
    permits,
    say_target,
)


@pytest.mark.parametrize(("text", "listening", "target"), [
    ("8080:intranet:80", ("", 8080), ("intranet", 80)),
    ("127.0.0.2:8080:Intranet:80", ("127.0.0.2", 8080), ("intranet", 80)),
    ("localhost:8080:[fd00::7]:80", ("", 8080), ("fd00::7", 80)),
    ("[::1]:8080:[fd00::7]:80", ("::1", 8080), ("fd00::7", 80)),
    ("*:0:10.0.0.1:80", ("*", 0), ("10.0.0.1", 80)),
    (":8080:10.0.0.1:80", ("*", 8080), ("10.0.0.1", 80)),
    ("/run/a.sock:db:5432", ("/run/a.sock", 0), ("db", 5432)),
    ("5432:/run/b.sock", ("", 5432), ("/run/b.sock", 0)),
    ("127.0.0.1:5432:/run/b.sock", ("127.0.0.1", 5432), ("/run/b.sock", 0)),
    ("/run/a.sock:/run/b.sock", ("/run/a.sock", 0), ("/run/b.sock", 0)),
])
def test_forwards(text, listening, target):
    assert parse_forward(text) == (listening, target)
    assert parse_target(say_target(*target)) == target


@pytest.mark.parametrize("text", [
    "", "8080", "8080:intranet", "8080:intranet:http", "8080:intranet:0", "a:8080:intranet:80", "8080:in tranet:80",
    "1:2:3:4:5", "/run/a.sock", "run/a.sock:db:5432", "/run/:db:5432", "99999:intranet:80", "8080::80",
    f"/{'x' * 107}:db:5432", "8080:/a\nb", "x:/run/a.sock:db:5432", "8080:fd00::7:80",
])
def test_wrong_forwards(text):
    with pytest.raises(UsageError) as caught:
        parse_forward(text)
    assert str(caught.value).isprintable()


@given(st.text(st.sampled_from("/a:[]*1 "), max_size=12))
def test_any_text_is_a_forward_or_refused(text):
    for parse in (parse_forward, parse_spot, parse_target, parse_permitted):
        try:
            parse(text)
        except UsageError as error:
            assert str(error).isprintable()


@pytest.mark.parametrize(("text", "spot"), [
    ("1080", ("", 1080)), ("0.0.0.0:1080", ("0.0.0.0", 1080)), ("*:1080", ("*", 1080)), ("/run/s", ("/run/s", 0))])
def test_spots(text, spot):
    assert parse_spot(text) == spot


@pytest.mark.parametrize(("text", "is_in", "is_out"), [
    ("db:5432", [("db", 5432)], [("db", 5433), ("db2", 5432), ("/db", 0)]),
    ("db:*", [("db", 1), ("db", 65535)], [("db2", 1)]),
    ("*:443", [("db", 443), ("10.0.0.1", 443)], [("db", 80), ("/run/s", 0)]),
    ("*:*", [("db", 443), ("fd00::1", 1)], [("/run/s", 0)]),
    ("*.Example.com:443", [("a.example.com", 443), ("a.b.example.com", 443)],
     [("example.com", 443), ("badexample.com", 443), ("a.example.com.evil", 443)]),
    ("[fd00::7]:*", [("fd00::7", 5)], [("fd00::8", 5)]),
    ("/run/s", [("/run/s", 0)], [("/run/t", 0), ("run", 1)]),
])
def test_what_is_permitted(text, is_in, is_out):
    permitted = parse_permitted(text)
    assert all(permits(permitted, target) for target in is_in)
    assert not any(permits(permitted, target) for target in is_out)
    assert parse_permitted(say_target(*permitted)) == permitted
    assert is_wide(permitted) == text.startswith("*")


@pytest.mark.parametrize("text", ["*", "a*:80", "a.*:80", "*a:80", "**:80", "*.:80", "fd00::7:*", "*:http", "*:0"])
def test_wrong_patterns(text):
    with pytest.raises(UsageError):
        parse_permitted(text)
