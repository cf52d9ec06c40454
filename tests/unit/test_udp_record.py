"""What is remembered of a server and UDP from one run of cproxy to the next."""

import os
import stat

import pytest

from mproxy.policy.udp_record import UdpRecord

NAME = "server:6200"
HERE, ELSEWHERE = "127.0.0.1", "10.9.8.7"


@pytest.fixture
def record(tmp_path):
    return UdpRecord(str(tmp_path), NAME)


def again(tmp_path):
    return UdpRecord(str(tmp_path), NAME)


def test_nothing_is_known(record, tmp_path):
    assert record.is_offered and record.blocked(100) == (0, 0)
    assert not os.listdir(tmp_path)


def test_it_is_not_offered(record, tmp_path):
    record.offer(False)
    assert not again(tmp_path).is_offered
    record.offer(True)
    assert again(tmp_path).is_offered and not os.listdir(tmp_path / "udp")


def test_blocked_from_here(record, tmp_path):
    record.note_blocked(60, 3, HERE, HERE)
    left_s, failures = again(tmp_path).blocked(1000)
    assert 58 <= left_s <= 60 and failures == 3
    assert again(tmp_path).blocked(10) == (10, 3)


@pytest.mark.parametrize("peer", [HERE, "::1"])
def test_blocked_from_another_network(record, tmp_path, peer):
    record.note_blocked(60, 3, peer, ELSEWHERE)
    assert again(tmp_path).blocked(1000) == (0, 0)


def test_no_longer_blocked(record, tmp_path):
    record.note_blocked(0, 1, HERE, HERE)
    assert again(tmp_path).blocked(1000) == (0, 0)
    record.note_blocked(60, 1, HERE, HERE)
    record.passes()
    assert again(tmp_path).blocked(1000) == (0, 0)


@pytest.mark.parametrize("text", [
    "", "yes", "no no", "blocked", "blocked 1 2 3", "blocked 99999999999999999999 1 127.0.0.1 7f0000",
    "blocked 9999999999 1 name 7f0000", "blocked 9999999999 1 .... 7f0000", "blocked 9999999999 1 :::: ", "\0" * 1000])
def test_a_damaged_file_says_nothing(record, tmp_path, text):
    record.offer(False)
    (tmp_path / "udp" / NAME).write_text(text)
    found = again(tmp_path)
    assert found.is_offered and found.blocked(1000) == (0, 0)


def test_it_is_for_this_user_alone(record, tmp_path):
    record.offer(False)
    assert stat.S_IMODE(os.stat(tmp_path / "udp").st_mode) == 0o700
    assert stat.S_IMODE(os.stat(tmp_path / "udp" / NAME).st_mode) == 0o600


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "udp").write_text("in the way")
    record = again(tmp_path)
    record.offer(False)
    assert not record.is_offered and again(tmp_path).is_offered


def test_without_a_state_directory():
    record = UdpRecord(None, NAME)
    record.offer(False)
    assert not record.is_offered
