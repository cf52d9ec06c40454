"""known_hosts and authorized_keys: what lines mean, what a wrong one does, and who is let in when files change."""

import multiprocessing
import os
import re
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mproxy._wire import CloseCode
from mproxy.ground.errors import MproxyError, PeerError, UsageError
from mproxy.io._moves import Moves
from mproxy.policy import trust
from mproxy.policy.grants import parse_grant
from mproxy.policy.keys import SPKI_PREFIX, fingerprint, public_line
from mproxy.policy.trust import (
    SETTLE_S,
    AuthorizedKeys,
    HostTrust,
    check_private,
    judge_host,
    parse_authorized_keys,
    parse_known_hosts,
)

ONE, OTHER, THIRD = (SPKI_PREFIX + bytes([n]) * 32 for n in (1, 2, 3))
NOW = 1_800_000_000


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """Directories above the home directory need not be ours; in a user namespace those of the system are nobody's."""
    monkeypatch.setenv("HOME", str(tmp_path))


def grant_of(options):
    return parse_grant(f"{options} {public_line(ONE, 'ann')}")


def refusal(call, *arguments):
    with pytest.raises(PeerError) as caught:
        call(*arguments)
    assert caught.value.code == CloseCode.KEY_REFUSED
    return str(caught.value)


# --- known_hosts ---

def test_a_command_is_remembered_by_its_name(tmp_path):
    trust = HostTrust(tmp_path / "known_hosts")
    assert trust.verify("via=ssh%20server", 0, ONE) == "new"
    assert trust.verify("via=ssh%20server", 0, ONE) == "known"
    assert trust.path.read_text() == f"via=ssh%20server {public_line(ONE)}\n"
    assert "the key of via=ssh%20server has changed: known" in refusal(trust.verify, "via=ssh%20server", 0, OTHER)
    assert trust.verify("server", 6200, OTHER) == "new"


def test_first_contact_is_remembered(tmp_path):
    trust = HostTrust(tmp_path / "state" / "known_hosts")
    assert trust.verify("server", 6200, ONE) == "new"
    assert trust.verify("server", 6200, ONE) == "known"
    assert trust.verify("server", 6201, OTHER) == "new", "another port is another server"
    assert trust.verify("::1", 6200, THIRD) == "new"
    assert trust.path.read_text() == (
        f"server:6200 {public_line(ONE)}\nserver:6201 {public_line(OTHER)}\n[::1]:6200 {public_line(THIRD)}\n")
    assert oct(trust.path.stat().st_mode)[-3:] == "600"


def test_changed_key_is_refused_with_both_fingerprints_and_the_line(tmp_path):
    path = tmp_path / "known_hosts"
    path.write_text(f"# mine\n\nother:6200 {public_line(OTHER)}\nserver:6200 {public_line(ONE)}\n")
    before = path.read_bytes()
    text = refusal(HostTrust(path).verify, "server", 6200, OTHER)
    assert fingerprint(ONE) in text and fingerprint(OTHER) in text and f"{path}:4" in text
    assert path.read_bytes() == before


def test_any_of_several_lines_will_do(tmp_path):
    """For a change of keys that was announced beforehand."""
    path = tmp_path / "known_hosts"
    path.write_text(f"server:6200 {public_line(ONE)}\nserver:6200 {public_line(OTHER)} next\n")
    trust = HostTrust(path)
    assert trust.verify("server", 6200, OTHER) == trust.verify("server", 6200, ONE) == "known"
    refusal(trust.verify, "server", 6200, THIRD)


def test_pinned_key_asks_no_file(tmp_path):
    trust = HostTrust(tmp_path / "known_hosts", (fingerprint(ONE), fingerprint(OTHER)))
    assert trust.verify("server", 6200, OTHER) == "pinned"
    text = refusal(trust.verify, "server", 6200, THIRD)
    assert fingerprint(ONE) in text and fingerprint(THIRD) in text
    assert not trust.path.exists()


def test_without_a_file_every_contact_is_the_first():
    trust = HostTrust(None)
    assert trust.verify("server", 6200, ONE) == trust.verify("server", 6200, OTHER) == "unwritten"


def test_what_cannot_be_written_costs_a_warning(tmp_path):
    (tmp_path / "file").write_text("")
    warnings = []
    assert HostTrust(tmp_path / "file" / "known_hosts", warn=warnings.append).verify("server", 6200, ONE) == "unwritten"
    assert len(warnings) == 1 and "cannot remember" in warnings[0]


def test_what_cannot_be_read_trusts_nobody(tmp_path):
    (tmp_path / "known_hosts").mkdir()
    with pytest.raises(MproxyError, match="cannot read"):
        HostTrust(tmp_path / "known_hosts").verify("server", 6200, ONE)


def test_line_without_its_end_stays_one_line(tmp_path):
    path = tmp_path / "known_hosts"
    path.write_text(f"other:1 {public_line(OTHER)}")
    HostTrust(path).verify("server", 6200, ONE)
    assert [entry[1] for entry in parse_known_hosts(path.read_bytes(), path, None)] == [("other", 1), ("server", 6200)]


DAMAGED = [
    "server", "server:62", "server:62\x00\x00", "server:6200", "server:6200 ssh-ed25519 AAAA", "server:99999 x y",
    "server:6200 mproxy-ed25519 AAAA", f"server:6200 {public_line(OTHER)[:60]}", "::1:6200 mproxy-ed25519 AAAA",
    "\x00 \xff", "\x00" * 80, f"server:6200\x00 {public_line(OTHER)}",
]


@pytest.mark.parametrize("line", DAMAGED)
def test_damaged_line_is_no_first_contact(tmp_path, line):
    """Goal: a known key whose line is damaged must not be replaced by whatever key comes next."""
    path = tmp_path / "known_hosts"
    path.write_bytes(f"other:1 {public_line(OTHER)}\n{line}\n".encode())
    before = path.read_bytes()
    warnings = []
    trust = HostTrust(path, warn=warnings.append)
    text = refusal(trust.verify, "server", 6200, ONE)
    assert f"{path}:2" in text and "damaged" in text and fingerprint(ONE) in text
    assert warnings[0].startswith(f"{path}:2: ")
    refusal(trust.add, "server", 6200, ONE)
    assert path.read_bytes() == before
    assert trust.verify("other", 1, OTHER) == "known", "whoever is known stays so"


@pytest.mark.parametrize("line", DAMAGED)
def test_damaged_line_beside_a_whole_one_is_named_and_skipped(line):
    warnings = []
    data = f"{line}\nserver:6200 {public_line(ONE)}".encode()
    entries = parse_known_hosts(data, "kh", warnings.append)
    assert entries[-1] == (2, ("server", 6200), ONE) and judge_host(entries, "kh", ("server", 6200), ONE) == "same"
    assert len(warnings) == 1 and warnings[0].startswith("kh:1: ")


def test_line_of_another_host_may_be_damaged(tmp_path):
    path = tmp_path / "known_hosts"
    path.write_text("other:1 mproxy-ed25519 AAAA\n")
    assert HostTrust(path).verify("server", 6200, ONE) == "new"


@pytest.mark.parametrize("kind", ["link", "link above", "pipe"])
def test_what_is_no_list_is_no_first_contact(tmp_path, kind):
    path = tmp_path / "state" / "known_hosts"
    if kind == "link above":
        path.parent.symlink_to("nowhere")
    else:
        path.parent.mkdir()
        path.symlink_to("nowhere") if kind == "link" else os.mkfifo(path)
    with pytest.raises(MproxyError, match="cannot read"):
        HostTrust(path).verify("server", 6200, ONE)


def add_many(path, number):
    """Done by each of several processes."""
    for port in range(1, 41):
        HostTrust(path).verify(f"host{number}", port, ONE)
        HostTrust(path).verify("shared", port, ONE)


def test_writers_at_the_same_time_lose_nothing_and_repeat_nothing(tmp_path):
    path = tmp_path / "known_hosts"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=add_many, args=(path, number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    endpoints = [endpoint for _, endpoint, _ in parse_known_hosts(path.read_bytes(), path, None)]
    assert len(endpoints) == len(set(endpoints)) == 5 * 40


def test_second_of_two_first_contacts_with_different_keys_is_refused(tmp_path):
    """Both looked before either had written."""
    trust = HostTrust(tmp_path / "known_hosts")
    assert trust.check("server", 6200, ONE) == trust.check("server", 6200, OTHER) == "new"
    trust.add("server", 6200, ONE)
    refusal(trust.add, "server", 6200, OTHER)


# --- one line of authorized_keys ---

def test_bare_key_allows_everything():
    grant = parse_grant(public_line(ONE, "ann at desk"))
    assert (grant.spki, grant.comment, grant.max_streams, grant.max_sessions) == (ONE, "ann at desk", None, None)
    assert grant.allows_target("any", 1) and grant.refusal("10.0.0.1", NOW) is None


def test_every_option():
    grant = grant_of('target="localhost:22,[::1]:80",from="10.0.0.0/8, fd00::/16",expiry="2027-06-01Z",max-streams=5,'
                     "max-sessions=2")
    assert grant.allows_target("localhost", 22) and grant.allows_target("::1", 80)
    assert not grant.allows_target("localhost", 23)
    assert grant.refusal("10.9.9.9", NOW) is None and grant.refusal("fd00::1%eth0", NOW) is None
    assert grant.refusal("::ffff:10.1.1.1", NOW) is None, "IPv4 at a socket of both families"
    assert "this address" in grant.refusal("11.0.0.1", NOW) and "this address" in grant.refusal("not an address", NOW)
    assert (grant.max_streams, grant.max_sessions) == (5, 2) and grant.comment == "ann"


@pytest.mark.parametrize(("text", "moment"), [
    ("2027-01-31Z", datetime(2027, 1, 31, tzinfo=UTC)),
    ("20270131Z", datetime(2027, 1, 31, tzinfo=UTC)),
    ("2027-01-31T18:05Z", datetime(2027, 1, 31, 18, 5, tzinfo=UTC)),
    ("20270131180501Z", datetime(2027, 1, 31, 18, 5, 1, tzinfo=UTC)),
    ("2027-01-31T18:05", datetime(2027, 1, 31, 18, 5)),
    ("2027-01-31 18:05:07", datetime(2027, 1, 31, 18, 5, 7)),
])
def test_expiry(text, moment):
    grant = grant_of(f'expiry="{text}"')
    assert grant.expires_at == moment.timestamp()
    assert grant.refusal("10.0.0.1", moment.timestamp() - 1) is None
    assert "expiry" in grant.refusal("10.0.0.1", moment.timestamp())


@pytest.mark.parametrize(("line", "words"), [
    ("ssh-ed25519 AAAA", "unknown option 'ssh-ed25519'"),
    ("mproxy-ed25519", "is not a valid key"),
    ("mproxy-ed25519 ", "not a valid key"),
    ("mproxy-ed25519 AAAA", "is not a valid key"),
    ("restrict KEY", "unknown option 'restrict'"),
    ("max-streams KEY", "needs a value"),
    ("max-streams=0 KEY", "not a number"),
    ("max-streams=x KEY", "not a number"),
    ("max-sessions=0 KEY", "not a number"),
    ("max-streams=1,max-streams=2 KEY", "twice"),
    ('target="localhost" KEY', "not HOST:PORT"),
    ('target="" KEY', "not HOST:PORT"),
    ('target="a:1,,b:2" KEY', "not HOST:PORT"),
    ('from="10.0.0.1/8" KEY', "not a list of networks"),
    ('from="host" KEY', "not a list of networks"),
    ('from="10.0.0.0/8 KEY', "missing closing quote"),
    ('expiry="tomorrow" KEY', "not a date"),
    ('expiry="2027-02-30" KEY', "not a date"),
    ('from="10.0.0.0/8"KEY', "space or comma"),
    ('from="10.0.0.0/8", KEY', "unknown option"),
    ('from="10.0.0.0/8"', "space or comma"),
    ('from="10.0.0.0/8" ', "no mproxy-ed25519 key"),
    ('from="1\\', "missing closing quote"),
])
def test_wrong_line_says_what_is_wrong(line, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        parse_grant(line.replace("KEY", public_line(ONE)))


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_list_from_another_system(end):
    """Goal: files with a UTF-8 mark, with CRLF, or without a newline at the end are understood."""
    warnings = []
    text = f"\ufeff{public_line(ONE, 'ann')}\r\nmax-streams=3 {public_line(OTHER)}{end}"
    grants = parse_authorized_keys(text.encode(), "keys", warnings.append)
    assert [(grant.spki, grant.comment, grant.max_streams) for grant in grants] == [(ONE, "ann", None), (OTHER, "", 3)]
    known = parse_known_hosts(f"\ufeffserver:6200 {public_line(ONE)}{end}".encode(), "known", warnings.append)
    assert known == [(1, ("server", 6200), ONE)]
    assert warnings == []


def test_bad_lines_are_named_and_skipped():
    warnings = []
    data = f"# keys\n{public_line(ONE)}\nbad=1 {public_line(OTHER)}\n\n{public_line(THIRD)}\n".encode()
    grants = parse_authorized_keys(data, "/etc/keys", warnings.append)
    assert [(grant.line, grant.spki) for grant in grants] == [(2, ONE), (5, THIRD)]
    assert len(warnings) == 1 and warnings[0].startswith("/etc/keys:3: unknown option 'bad")


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode(errors="replace"))
       | st.lists(st.sampled_from(['target="a:1"', "from=", '"', ",", " ", "max-streams=3", public_line(ONE), "\n",
                                   "expiry=", "1.2.3.0/24", "\\", "20270101", "mproxy-ed25519"]))
       .map(lambda parts: "".join(parts).encode()))
def test_no_bytes_are_too_strange(data):
    """Whatever a file holds: entries or warnings, never an exception, one of them for every line that is not blank."""
    for parse in (parse_authorized_keys, parse_known_hosts):
        warnings = []
        entries = parse(data, "file", warnings.append)
        said = [line for line in data.split(b"\n") if line.decode(errors="replace").strip()[:1] not in ("", "#")]
        whole = [entry for entry in entries if not isinstance(entry, tuple) or entry[2] is not None]
        assert len(whole) + len(warnings) == len(said)


# --- authorized_keys as a file ---

def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    path.chmod(0o600)


def test_file_decides(tmp_path):
    path = tmp_path / "authorized_keys"
    write(path, public_line(ONE), f'from="10.0.0.0/8" {public_line(OTHER)}', f"max-streams=2 {public_line(OTHER)}")
    keys = AuthorizedKeys(path)
    assert keys.exists and len(keys) == 3
    assert keys.find(ONE, "192.0.2.1", NOW).line == 1
    assert keys.find(OTHER, "10.0.0.1", NOW).line == 2, "the first line that allows it"
    assert keys.find(OTHER, "192.0.2.1", NOW).max_streams == 2
    assert fingerprint(THIRD) in refusal(keys.find, THIRD, "10.0.0.1", NOW)


def test_without_a_file_there_is_no_list(tmp_path):
    keys = AuthorizedKeys(tmp_path / "authorized_keys")
    assert not keys.exists and not keys.changed()
    write(keys.path, public_line(ONE))
    assert keys.changed() and keys.exists, "a file that appears counts at once"
    refusal(keys.find, OTHER, "10.0.0.1", NOW)


def test_change_is_seen_and_no_change_costs_no_reading(tmp_path, monkeypatch):
    path = tmp_path / "authorized_keys"
    write(path, public_line(ONE), public_line(OTHER))
    keys = AuthorizedKeys(path)
    assert not keys.changed()
    write(path, public_line(OTHER))
    assert keys.changed()
    refusal(keys.find, ONE, "10.0.0.1", NOW)
    assert keys.find(OTHER, "10.0.0.1", NOW)
    monkeypatch.setattr("mproxy.policy.trust.read_list", None)
    assert not keys.changed()


def test_replaced_file_of_the_same_size_and_time_is_seen(tmp_path):
    path = tmp_path / "authorized_keys"
    write(path, public_line(ONE))
    keys = AuthorizedKeys(path)
    write(tmp_path / "new", public_line(OTHER))
    times = os.stat(path)
    os.utime(tmp_path / "new", ns=(times.st_atime_ns, times.st_mtime_ns))
    (tmp_path / "new").rename(path)
    assert keys.changed()
    assert keys.find(OTHER, "10.0.0.1", NOW)


@pytest.mark.parametrize("gave_up", [True, False])
def test_file_out_of_reach(tmp_path, monkeypatch, gave_up):
    """Goal: who gave up the rights with which the file was read goes on with what was read; for anybody else a
    directory that was closed is as a file that vanished."""
    path = tmp_path / "authorized_keys"
    path.write_text(public_line(ONE))
    keys = AuthorizedKeys(path)

    def refuse(name):
        raise PermissionError(13, "Permission denied", name)
    for name in ("file_stamp", "check_private"):
        monkeypatch.setattr(f"mproxy.policy.trust.{name}", refuse)
    if gave_up:
        monkeypatch.setattr("mproxy.policy.trust.os.geteuid", lambda: 65534)
    assert keys.changed() is not gave_up
    assert len(keys) == gave_up


def test_vanished_file_authorises_nobody(tmp_path):
    path = tmp_path / "authorized_keys"
    write(path, public_line(ONE))
    keys = AuthorizedKeys(path)
    path.unlink()
    assert keys.changed() and keys.exists
    refusal(keys.find, ONE, "10.0.0.1", NOW)
    write(path, public_line(ONE))
    assert keys.changed()
    assert keys.find(ONE, "10.0.0.1", NOW)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_file_that_others_may_write_authorises_nobody(tmp_path, monkeypatch, mode):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(trust, "is_own_group", lambda _gid, _uid: False)
    path = tmp_path / "authorized_keys"
    write(path, public_line(ONE))
    path.chmod(mode)
    warnings = []
    keys = AuthorizedKeys(path, warnings.append)
    refusal(keys.find, ONE, "10.0.0.1", NOW)
    assert len(warnings) == 1 and "nobody may connect" in warnings[0] and "chmod go-w" in warnings[0]
    path.chmod(0o644)
    assert keys.changed()
    assert keys.find(ONE, "10.0.0.1", NOW)


def test_directory_that_others_may_write_spoils_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    home = tmp_path / "home"
    (home / "a" / "b").mkdir(parents=True)
    write(home / "a" / "b" / "keys", public_line(ONE))
    check_private(home / "a" / "b" / "keys")
    (home / "a").chmod(0o777)
    with pytest.raises(MproxyError, match=re.escape(f"{home / 'a'} can be written by other users")):
        check_private(home / "a" / "b" / "keys")
    (home / "a").chmod(0o1777)
    check_private(home / "a" / "b" / "keys")
    (home / "a").chmod(0o755)
    tmp_path.chmod(0o777)  # above the home directory, which is the user's affair, as sshd sees it
    check_private(home / "a" / "b" / "keys")


def test_what_was_wrong_around_the_file_may_pass(tmp_path, monkeypatch):
    """Goal: written while its directory could be written by others, or while no descriptor was left, it counts as soon
    as that is over, though the file is the same."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "authorized_keys"
    write(path, public_line(ONE))
    warnings = []
    keys = AuthorizedKeys(path, warnings.append)
    (tmp_path / "a").chmod(0o777)
    write(path, public_line(ONE), public_line(OTHER))
    assert keys.changed(100.0) and not keys.changed(101.0), "the same problem is told once"
    refusal(keys.find, ONE, "10.0.0.1", NOW)
    (tmp_path / "a").chmod(0o755)
    assert keys.changed(102.0) and keys.find(OTHER, "10.0.0.1", NOW)
    with monkeypatch.context() as patch:
        patch.setattr("mproxy.policy.trust.read_list", out_of_descriptors)
        write(path, public_line(OTHER))
        assert keys.changed(103.0)
    assert keys.changed(104.0) and keys.find(OTHER, "10.0.0.1", NOW)
    assert len(warnings) == 2


def out_of_descriptors(path):
    raise MproxyError(f"cannot read {path}: Too many open files")


def test_expiry_needs_no_change_of_the_file(tmp_path):
    path = tmp_path / "authorized_keys"
    write(path, f'expiry="{time.strftime("%Y%m%d%H%M%SZ", time.gmtime(NOW))}" {public_line(ONE)}')
    keys = AuthorizedKeys(path)
    assert keys.find(ONE, "10.0.0.1", NOW - 1)
    refusal(keys.find, ONE, "10.0.0.1", NOW)


# --- who is there already ---

def rewrite(path, *lines):
    """Rewrite it as an editor does: the file keeps its inode."""
    with open(path, "r+") as file:
        file.truncate(0)
        file.write("".join(f"{line}\n" for line in lines))


PASSING = {
    "truncated": lambda path: os.truncate(path, 0),
    "removed": os.unlink,
    "others may write": lambda path: os.chmod(path, 0o646),
    "unreadable": lambda path: (os.unlink(path), os.mkdir(path)),
}


@pytest.mark.parametrize("kind", PASSING)
def test_passing_state_of_the_file_is_no_decision(tmp_path, monkeypatch, kind):
    """Goal: clients that come in that moment are refused, those that are there stay; afterwards all are judged only by
    the file as it was left."""
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "authorized_keys"
    write(path, public_line(ONE))
    keys = AuthorizedKeys(path)
    PASSING[kind](path)
    assert keys.changed(100.0) and not keys.settles(100.0)
    refusal(keys.find, ONE, "10.0.0.1", NOW)
    assert keys.find_living(ONE, "10.0.0.1", NOW)
    assert not keys.changed(102.0) and not keys.settles(102.0)
    if path.is_dir():
        path.rmdir()
    write(path, public_line(ONE), public_line(OTHER))
    assert keys.changed(103.0) and not keys.settles(103.0 + SETTLE_S - 0.1)
    assert keys.find(OTHER, "10.0.0.1", NOW) and keys.find_living(ONE, "10.0.0.1", NOW)
    assert keys.settles(103.0 + SETTLE_S) and not keys.settles(200.0)
    assert keys.find_living(ONE, "10.0.0.1", NOW)


def test_what_the_file_stays_counts_for_all(tmp_path):
    path = tmp_path / "authorized_keys"
    write(path, public_line(ONE), public_line(OTHER))
    keys = AuthorizedKeys(path)
    rewrite(path, public_line(OTHER))
    assert keys.changed(100.0) and keys.find_living(ONE, "10.0.0.1", NOW)
    assert keys.settles(100.0 + SETTLE_S)
    refusal(keys.find_living, ONE, "10.0.0.1", NOW)


def test_what_is_asked_for_counts_for_all(tmp_path):
    """Whoever sends SIGHUP has finished writing the file."""
    path = tmp_path / "authorized_keys"
    write(path, public_line(ONE))
    keys = AuthorizedKeys(path)
    rewrite(path, public_line(OTHER))
    keys.changed(100.0)
    keys.settle()
    refusal(keys.find_living, ONE, "10.0.0.1", NOW)


def test_file_that_was_moved_in_counts_at_once(tmp_path):
    path = tmp_path / "authorized_keys"
    write(path, public_line(ONE))
    keys = AuthorizedKeys(path, moved_in=Moves(path).last_was_move)
    write(tmp_path / "new", public_line(OTHER))
    (tmp_path / "new").rename(path)
    assert keys.changed(100.0) and keys.settles(100.0)
    refusal(keys.find_living, ONE, "10.0.0.1", NOW)
    os.truncate(path, 0)
    assert keys.changed(101.0) and not keys.settles(101.0), "what is done to it afterwards is another matter"


def test_moved_in_and_then_written_to_is_not_whole(tmp_path):
    path = tmp_path / "authorized_keys"
    write(path, public_line(ONE))
    keys = AuthorizedKeys(path, moved_in=Moves(path).last_was_move)
    write(tmp_path / "new", public_line(ONE))
    (tmp_path / "new").rename(path)
    os.truncate(path, 0)
    assert keys.changed(100.0) and not keys.settles(100.0)


def test_list_that_appears_ends_nobody_while_it_is_written(tmp_path):
    keys = AuthorizedKeys(tmp_path / "authorized_keys")
    write(keys.path)
    assert keys.changed(100.0) and keys.find_living(ONE, "10.0.0.1", NOW) is None
    write(keys.path, public_line(ONE))
    assert keys.changed(101.0) and keys.settles(101.0 + SETTLE_S)
    assert keys.find_living(ONE, "10.0.0.1", NOW).spki == ONE
    refusal(keys.find_living, OTHER, "10.0.0.1", NOW)


def test_closed_without_a_file_lets_nobody_in(tmp_path):
    keys = AuthorizedKeys(tmp_path / "authorized_keys", closed=True)
    assert keys.exists and keys.in_force(NOW) == 0
    refusal(keys.find, ONE, "10.0.0.1", NOW)
    write(keys.path, public_line(ONE))
    assert keys.changed() and keys.find(ONE, "10.0.0.1", NOW)


def test_link_to_nowhere_lets_nobody_in_and_says_so(tmp_path):
    (tmp_path / "authorized_keys").symlink_to("nowhere")
    warnings = []
    keys = AuthorizedKeys(tmp_path / "authorized_keys", warnings.append)
    refusal(keys.find, ONE, "10.0.0.1", NOW)
    assert keys.problem and "nobody may connect" in warnings[0]


def test_keys_in_force_are_counted_once_and_not_after_their_time(tmp_path):
    path = tmp_path / "authorized_keys"
    write(path, public_line(ONE), f'from="10.0.0.0/8" {public_line(ONE)}', f'expiry="20200101" {public_line(OTHER)}',
          "mproxy-ed25519 damaged", public_line(THIRD))
    assert AuthorizedKeys(path).in_force(NOW) == 2
