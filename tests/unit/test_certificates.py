"""Certificates: OpenSSH's own tool reads ours and makes those that we read; what is wrong with one is said; and nothing
that was not signed counts."""

import base64
import os
import random
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mproxy._wire import CloseCode
from mproxy.ground.errors import MproxyError, PeerError, UsageError
from mproxy.policy.certificates import (
    CERTIFICATE_TYPE,
    CLIENT,
    FOR_EVER,
    HOST,
    MOST_BYTES,
    CertificateError,
    certificate_line,
    matches,
    parse_certificate,
    parse_certificate_line,
    parse_ssh_key,
    ssh_public_line,
)
from mproxy.policy.grants import parse_grant
from mproxy.policy.keys import fingerprint, public_line
from mproxy.policy.revoked import RevokedKeys, parse_revoked
from mproxy.policy.trust import SETTLE_S, AuthorizedKeys, HostTrust, find_grant
from tests.issuing import HOUR, NOW, Authority, always, spki_of

CA = Authority()
OTHER_CA = Authority(8)
KEY, STRANGER = spki_of(bytes(32)), spki_of(bytes(31) + b"\1")
LINE = f"cert-authority {public_line(CA.spki)}"


def reason(call, *arguments, **keywords):
    """The text of the error that a call ends with."""
    with pytest.raises(MproxyError) as caught:
        call(*arguments, **keywords)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    return str(caught.value)


def granted(line, data, key=KEY, now=NOW, host="10.0.0.1", living=False):
    return find_grant([parse_grant(line)], key, host, now, data, living)


# ---- the format

def test_all_of_it_comes_back():
    data = CA.certify(KEY, serial=(1 << 64) - 1, key_id="ann \N{SNOWMAN}", principals=["ann", "", "ops"],
                      critical={"source-address": "10.0.0.0/8", "target@mproxy": "a:1"}, extensions={"permit-pty": ""})
    found = parse_certificate(data)
    assert (found.spki, found.ca, found.role) == (KEY, CA.spki, CLIENT)
    assert (found.serial, found.key_id, found.principals) == ((1 << 64) - 1, "ann \N{SNOWMAN}", ("ann", "", "ops"))
    assert (found.valid_after, found.valid_before) == (NOW - HOUR, NOW + HOUR)
    assert found.critical == {"source-address": "10.0.0.0/8", "target@mproxy": "a:1"}
    assert found.extensions == {"permit-pty": ""}
    assert parse_certificate_line(f"\n# mine\n{certificate_line(data, 'a comment')}\n") == data


@pytest.fixture
def ssh_keygen(tmp_path):
    """Runs OpenSSH's tool; what it says."""
    if not shutil.which("ssh-keygen"):
        pytest.skip("needs ssh-keygen")

    def run(*words):
        command = ["ssh-keygen", *map(str, words)]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, timeout=30).stdout
    return run


def test_openssh_reads_ours(ssh_keygen, tmp_path):
    (tmp_path / "c.pub").write_text(certificate_line(CA.certify(KEY, critical={"source-address": "10.0.0.0/8"})) + "\n")
    said = ssh_keygen("-L", "-f", "c.pub")
    assert 'Key ID: "ann"' in said and "Serial: 7" in said and "source-address 10.0.0.0/8" in said


def test_we_read_those_of_openssh(ssh_keygen, tmp_path):
    """Goal: a CA of OpenSSH signs certificates that sproxy takes, with the CA's line as OpenSSH has it."""
    ssh_keygen("-q", "-t", "ed25519", "-N", "", "-f", "ca")
    (tmp_path / "k.pub").write_text(ssh_public_line(KEY, "me") + "\n")
    ssh_keygen("-q", "-s", "ca", "-I", "ann@desk", "-n", "ann,ops", "-z", "17", "-V", "20270101:20270201",
               "-O", "source-address=10.0.0.0/8", "-O", "critical:target@mproxy=db:5432", "k.pub")
    data = parse_certificate_line((tmp_path / "k-cert.pub").read_text())
    found = parse_certificate(data)
    assert (found.spki, found.key_id, found.serial, found.principals) == (KEY, "ann@desk", 17, ("ann", "ops"))
    line = f'cert-authority,principals="ops" {(tmp_path / "ca.pub").read_text()}'
    grant = granted(line, data, now=found.valid_after)
    assert grant.allows_target("db", 5432) and not grant.allows_target("db", 22)
    assert "ann@desk (serial 17" in grant.comment
    assert "this address" in reason(granted, line, data, now=found.valid_after, host="11.0.0.1")


def test_openssh_cas_with_other_keys_are_named(ssh_keygen, tmp_path):
    ssh_keygen("-q", "-t", "ecdsa", "-N", "", "-f", "ca")
    (tmp_path / "k.pub").write_text(ssh_public_line(KEY) + "\n")
    ssh_keygen("-q", "-s", "ca", "-I", "ann", "k.pub")
    data = parse_certificate_line((tmp_path / "k-cert.pub").read_text())
    assert "ecdsa-sha2-nistp256" in reason(parse_certificate, data)


@pytest.mark.parametrize("text", ["", "# nothing\n", public_line(KEY), CERTIFICATE_TYPE, f"{CERTIFICATE_TYPE} %", "\0",
                                  "ssh-ed25519 AAAA"])
def test_what_is_no_file_of_a_certificate(text):
    assert "contains no certificate" in reason(parse_certificate_line, text)


def test_no_byte_can_be_changed():
    """Goal: whatever one changes of a certificate, it counts no more."""
    data = CA.certify(KEY)
    for at in range(len(data)):
        for bit in (0, 7):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            with pytest.raises(CertificateError):
                parse_certificate(bytes(changed))
    for length in range(len(data)):
        with pytest.raises(CertificateError):
            parse_certificate(data[:length])
    with pytest.raises(CertificateError):
        parse_certificate(data + b"\0")


@given(st.binary(max_size=1000))
def test_any_bytes_are_refused(data):
    with pytest.raises(CertificateError):
        parse_certificate(data)


def test_mixed_up_parts_are_refused(seed):
    """Goal: pieces of right certificates, lengths that lie: an error in one line, and nothing else."""
    chance = random.Random(seed)
    whole = [CA.certify(KEY, critical={"source-address": "::/0"}), OTHER_CA.certify(STRANGER, role=HOST)]
    for _ in range(3000):
        data = bytearray(chance.choice(whole))
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(data))
            data[at:at + chance.randrange(5)] = chance.choice([b"", b"\xff\xff\xff\xff", b"\0\0\0\0", os.urandom(4)])
        if bytes(data) not in whole:
            reason(parse_certificate, bytes(data))


def test_too_large_ones_are_refused_before_they_are_read():
    with pytest.raises(CertificateError, match=f"may have {MOST_BYTES}"):
        CA.certify(KEY, principals=["a" * 100] * 10)
    assert "may have" in reason(parse_certificate, bytes(1 << 20))


def test_a_certificate_of_itself_is_nobodys_word():
    """Goal: who signs its own key, or the CA's, gains nothing by it."""
    me = Authority(0)
    assert me.spki == KEY
    assert "not in authorized_keys" in reason(granted, LINE, me.certify(KEY))
    assert "another key" in reason(granted, LINE, CA.certify(CA.spki))


# ---- as a client

def test_a_line_of_a_ca_lets_its_certificates_in_and_not_its_key():
    grant = granted(LINE, CA.certify(KEY))
    assert grant.spki == KEY and grant.comment == f"ann (serial 7, CA {fingerprint(CA.spki)})"
    assert "not in authorized_keys" in reason(granted, LINE, b"", key=CA.spki)
    assert "not in authorized_keys" in reason(granted, LINE, b"")
    assert "not in authorized_keys" in reason(granted, LINE, OTHER_CA.certify(KEY))
    assert granted(f"cert-authority {ssh_public_line(CA.spki)}", CA.certify(KEY)).spki == KEY


@pytest.mark.parametrize(("changes", "why"), [
    ({"role": HOST}, "is for a host, not for a client"),
    ({"valid_after": NOW + 1}, "not valid before 2027-01-15T08:00:01Z"),
    ({"valid_before": NOW}, "expired at 2027-01-15T08:00:00Z"),
    ({"valid_after": FOR_EVER}, "a time that is too far away"),
    ({"critical": {"force-command": "ls"}}, "unknown option 'force-command'"),
    ({"critical": {"target@mproxy": "nowhere"}}, "not HOST:PORT"),
    ({"critical": {"source-address": "11.0.0.0/8"}}, "this address"),
    ({"principals": ["bob", "eve"]}, "is for bob, eve, who may not connect"),
    ({"principals": []}, "is for nobody, who may not connect"),
    ({"principals": ["x" * 70] * 5}, "and 1 others"),
])
def test_why_a_certificate_does_not_count(changes, why):
    line = f'cert-authority,principals="ann,ops" {public_line(CA.spki)}'
    assert granted(line, CA.certify(KEY)).spki == KEY
    assert why in reason(granted, line, CA.certify(KEY, **changes))


def test_a_certificate_for_another_key_does_not_count():
    assert "for another key" in reason(granted, LINE, CA.certify(STRANGER))


def test_line_and_certificate_bind_both():
    line = (f'cert-authority,target="a:1,b:1",from="10.0.0.0/8",max-streams=5,max-sessions=2,listen="1000"'
            f" {public_line(CA.spki)}")
    grant = granted(line, CA.certify(KEY, critical={
        "target@mproxy": "b:1,c:1", "max-streams@mproxy": "3", "max-sessions@mproxy": "9", "listen@mproxy": "2000"}))
    assert [host for host in "abc" if grant.allows_target(host, 1)] == ["b"]
    assert (grant.max_streams, grant.max_sessions) == (3, 2)
    assert not grant.allows_place(("", 1000)) and not grant.allows_place(("", 2000))
    assert "this address" in reason(granted, line, CA.certify(KEY), host="11.0.0.1")
    assert not grant.same_rights(granted(line, CA.certify(KEY)))


def test_an_expired_line_of_a_ca():
    line = f'cert-authority,expiry="20260101" {public_line(CA.spki)}'
    assert "expiry date" in reason(granted, line, CA.certify(KEY))
    assert "expiry date" in reason(granted, line, CA.certify(KEY), living=True)


def test_a_session_outlives_its_certificate_but_not_its_beginning():
    """As with sshd, which looks at a certificate when a connection begins."""
    data = CA.certify(KEY)
    assert granted(LINE, data, now=NOW + 2 * HOUR, living=True).spki == KEY
    assert "not valid before" in reason(granted, LINE, data, now=NOW - 2 * HOUR, living=True)


@pytest.mark.parametrize(("line", "words"), [
    (f'principals="a" {public_line(CA.spki)}', "for use with cert-authority"),
    (f'cert-authority,principals="a,,b" {public_line(CA.spki)}', "not a list of names"),
    (f'cert-authority="yes" {public_line(CA.spki)}', "space or comma"),
    (f"cert-authority,cert-authority {public_line(CA.spki)}", "twice"),
    ("cert-authority ssh-ed25519 AAAA", "not a valid key"),
    ("cert-authority ssh-rsa AAAA", "no mproxy-ed25519 key"),
    (ssh_public_line(CA.spki), "unknown option"),
])
def test_wrong_lines_of_a_ca(line, words):
    with pytest.raises(UsageError, match=words):
        parse_grant(line)


def test_ssh_keys_that_are_none():
    assert parse_ssh_key(ssh_public_line(KEY).split()[1]) == KEY
    for text in ("", "%", "AAAA", base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x01x").decode()):
        assert parse_ssh_key(text) is None


def test_a_session_goes_on_until_its_ca_is_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # what is above it is not looked at
    path = tmp_path / "authorized_keys"
    path.write_text(LINE)
    path.chmod(0o600)
    keys = AuthorizedKeys(str(path))
    data = CA.certify(KEY)
    assert keys.find(KEY, "10.0.0.1", NOW, data).spki == KEY
    assert "expired" in reason(keys.find, KEY, "10.0.0.1", NOW + HOUR, data)
    assert keys.find_living(KEY, "10.0.0.1", NOW + HOUR, data).spki == KEY
    path.write_text(public_line(STRANGER))
    assert keys.changed(100.0) and keys.find_living(KEY, "10.0.0.1", NOW, data).spki == KEY
    assert keys.settles(100.0 + SETTLE_S)
    assert "not in authorized_keys" in reason(keys.find_living, KEY, "10.0.0.1", NOW, data)


# ---- as a host

def known(tmp_path, *lines):
    (tmp_path / "known_hosts").write_text("".join(f"{line}\n" for line in lines))
    warnings = []
    trust = HostTrust(str(tmp_path / "known_hosts"), warn=warnings.append)
    trust.warnings = warnings
    return trust


def host_certificate(**changes):
    return CA.certify(KEY, **always(role=HOST, principals=["a.example.com"]) | changes)


def test_a_ca_vouches_for_a_host(tmp_path):
    """Goal: nothing is remembered, no other key counts for hosts of that name, and others are met as ever."""
    trust = known(tmp_path, f"@cert-authority *.example.com {public_line(CA.spki)}")
    before = (tmp_path / "known_hosts").read_text()
    assert trust.verify("a.example.com", 6200, KEY, host_certificate()) == "certified"
    assert "shows no certificate" in reason(trust.verify, "a.example.com", 6200, KEY)
    assert "of another CA" in reason(trust.verify, "a.example.com", 6200, KEY, OTHER_CA.certify(KEY, role=HOST))
    assert (tmp_path / "known_hosts").read_text() == before
    assert trust.verify("elsewhere", 6200, KEY, host_certificate()) == "new"
    assert trust.verify("elsewhere", 6200, KEY) == "known"


@pytest.mark.parametrize(("changes", "why"), [
    ({"role": CLIENT}, "is for a client, not for a host"),
    ({"principals": ["b.example.com"]}, "is for b.example.com, not for a.example.com"),
    ({"principals": ["*.example.net", "?.com"]}, "not for a.example.com"),
    ({"valid_before": 5}, "expired at 1970"),
    ({"valid_after": 1 << 40}, "not valid before"),
    ({"critical": {"target@mproxy": "a:1"}}, "unknown option target@mproxy"),
])
def test_why_a_hosts_certificate_does_not_count(tmp_path, changes, why):
    trust = known(tmp_path, f"@cert-authority * {public_line(CA.spki)}")
    assert why in reason(trust.verify, "a.example.com", 6200, KEY, host_certificate(**changes))
    assert "for another key" in reason(trust.verify, "a.example.com", 6200, STRANGER, host_certificate())


def test_a_remembered_key_goes_on_beside_a_ca(tmp_path):
    trust = known(tmp_path, f"@cert-authority * {ssh_public_line(CA.spki)}", f"a:1 {public_line(STRANGER)}")
    assert trust.verify("a", 1, STRANGER) == "known"
    assert trust.verify("a", 1, KEY, host_certificate(principals=[])) == "certified"
    assert "has changed" in reason(trust.verify, "a", 1, KEY)


def test_revoked_host_keys(tmp_path):
    trust = known(tmp_path, f"@revoked * {public_line(KEY)}", f"a:1 {public_line(KEY)}")
    assert f"is revoked by {tmp_path}/known_hosts:1" in reason(trust.verify, "a", 1, KEY)
    trust = known(tmp_path, f"@cert-authority * {public_line(CA.spki)}", f"@revoked a,b {public_line(CA.spki)}")
    assert "the CA of the certificate of a:1 is revoked" in reason(
        trust.verify, "a", 1, KEY, host_certificate(principals=[]))
    assert trust.verify("c", 1, KEY, host_certificate(principals=[])) == "certified"


@pytest.mark.parametrize("line", ["@cert-authority", "@cert-authority *", "@revoked * mproxy-ed25519 AAAA",
                                  f"@else * {public_line(KEY)}"])
def test_a_damaged_mark_may_have_been_about_anybody(tmp_path, line):
    trust = known(tmp_path, line)
    assert "known_hosts:1 is damaged" in reason(trust.verify, "a", 1, KEY)
    assert len(trust.warnings) == 1


@pytest.mark.parametrize(("patterns", "names"), [
    ("*", "a a:1 [::1]:1"), ("a", "a a:1"), ("a:1", "a:1"), ("[::1]:1", "[::1]:1"), ("*,!a", "[::1]:1"),
    ("::1", "[::1]:1"), ("A", "a a:1")])
def test_patterns_of_hosts(tmp_path, patterns, names):
    trust = known(tmp_path, f"@cert-authority {patterns} {public_line(CA.spki)}")
    for host, port, name in (("a", 1, "a:1"), ("::1", 1, "[::1]:1"), ("a", 2, "a")):
        if name in names.split():
            assert trust.check(host, port, KEY, host_certificate(principals=[])) == "certified"
        else:
            assert trust.check(host, port, KEY, host_certificate(principals=[])) == "new"


@pytest.mark.parametrize(("name", "pattern", "is_it"), [
    ("a.b", "*.b", True), ("b", "*.b", False), ("aXb", "a?b", True), ("", "*", True), ("aab", "*ab", True),
    ("x", "", False), ("abcabd", "*abd", True), ("AB", "a*", True), ("a" * 5000, "*a" * 2000 + "b", False)])
def test_wildcards(name, pattern, is_it):
    """The last would take a time without end if each * were tried against each letter."""
    assert matches(name, pattern) is is_it


# ---- revoked

@pytest.mark.parametrize("line", [
    public_line(KEY), f"key: {public_line(KEY)}", ssh_public_line(KEY), f"key: {ssh_public_line(KEY)}",
    f"hash: {fingerprint(KEY)}", fingerprint(KEY), "serial: 7", "serial:5-9", "serial: 7 - 7", "id: ann",
    public_line(CA.spki), f"sha256: {ssh_public_line(KEY)}", certificate_line(CA.certify(KEY))])
def test_each_kind_of_revocation(line):
    data = CA.certify(KEY)
    revoked = parse_revoked(f"# list\n\n{line}\n".encode(), "list")
    assert "revoked" in revoked.why(KEY, parse_certificate(data)) and len(revoked) == 1
    assert revoked.why(STRANGER, parse_certificate(OTHER_CA.certify(STRANGER, serial=4, key_id="bob"))) is None
    assert revoked.why(STRANGER, None) is None


def test_fingerprints_as_openssh_shows_them(ssh_keygen, tmp_path):
    (tmp_path / "k.pub").write_text(ssh_public_line(KEY) + "\n")
    shown = ssh_keygen("-l", "-f", "k.pub").split()[1]
    assert "revoked" in parse_revoked(f"hash: {shown}".encode(), "list").why(KEY, None)


@pytest.mark.parametrize("line", ["nonsense", "serial: 9-5", "serial: x", "serial: 99999999999999999999999", "id:",
                                  "hash: SHA256:x", "sha1: x", "mproxy-ed25519 AAAA", f"{CERTIFICATE_TYPE} AAAA",
                                  "serial"])
def test_a_line_that_nobody_understands_is_named(line):
    assert reason(parse_revoked, f"# list\n{line}\n".encode(), "list").startswith("list:2: ")


def test_a_binary_list_is_recognised(ssh_keygen, tmp_path):
    (tmp_path / "k.pub").write_text(ssh_public_line(KEY) + "\n")
    ssh_keygen("-k", "-f", "krl", "k.pub")
    assert "binary list of OpenSSH" in reason(parse_revoked, (tmp_path / "krl").read_bytes(), "krl")


def test_the_list_of_revoked_keys_is_followed(tmp_path, monkeypatch):
    """Goal: newcomers are refused by any state of the file, sessions end when it has stayed so; a file that is gone, or
    says something strange, refuses newcomers and ends nobody."""
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "revoked"
    path.write_text("id: eve\n")
    warnings = []
    revoked = RevokedKeys(str(path), warnings.append)
    data = CA.certify(KEY)
    revoked.check(KEY, data, living=False)
    path.write_text("serial: 7\n")
    assert revoked.changed(100.0)
    with pytest.raises(PeerError) as refused:
        revoked.check(KEY, data, living=False)
    assert refused.value.code == CloseCode.KEY_REFUSED
    revoked.check(KEY, data, living=True)
    assert not revoked.settles(100.0 + SETTLE_S - 0.1) and revoked.settles(100.0 + SETTLE_S)
    assert "revoked" in reason(revoked.check, KEY, data, living=True)
    path.write_text("")
    assert revoked.changed(200.0)
    assert "revoked" in reason(revoked.check, KEY, data, living=False), "an editor empties it before it writes"
    path.unlink()
    assert revoked.changed(201.0) and not revoked.settles(300.0) and len(warnings) == 1
    assert "cannot be read" in reason(revoked.check, STRANGER, b"", living=False)
    revoked.check(STRANGER, b"", living=True)
    path.write_text("serial: 8\n")
    assert revoked.changed(301.0) and revoked.settles(301.0 + SETTLE_S)
    revoked.check(KEY, data, living=False)
    revoked.check(KEY, b"\0" * 20, living=False)
