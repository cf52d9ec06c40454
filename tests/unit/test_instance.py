"""The identity that cproxy and sproxy keep across restarts: slots of the state directory, twins, copies."""

import shutil

import pytest

from mproxy._wire import CloseCode
from mproxy.ground.errors import MproxyError, PeerError
from mproxy.policy.instance import Instance, LeftBehind, stdio_name
from mproxy.policy.keys import SPKI_PREFIX
from mproxy.policy.site import Site
from mproxy.policy.trust import AuthorizedKeys


def died(holder):
    """What the kernel does when a process ends: it releases the slot's lock."""
    import os
    os.close(holder._slot._fd)


def test_an_instance_comes_back_with_what_it_left_behind(tmp_path):
    first = Instance(tmp_path, "5200")
    assert first.former == 0 and first.persistent
    first.began(0xABCD1234)
    died(first)
    again = Instance(tmp_path, "5200")
    assert (again.id, again.former) == (first.id, 0xABCD1234)
    again.ended()
    died(again)
    assert Instance(tmp_path, "5200").former == 0


def test_file_of_an_earlier_version_keeps_its_id(tmp_path):
    (tmp_path / "instance-5200").write_bytes(b"I" * 16)
    instance = Instance(tmp_path, "5200")
    assert (instance.id, instance.former) == (b"I" * 16, 0)


@pytest.mark.parametrize("kept", [b"", b"short", bytes(17), bytes(300)])
def test_damaged_file_is_replaced(tmp_path, kept):
    (tmp_path / "instance-5200").write_bytes(kept)
    first = Instance(tmp_path, "5200")
    died(first)
    assert Instance(tmp_path, "5200").id == first.id


def test_a_hundred_at_once_differ_and_a_place_that_gets_free_is_taken(tmp_path):
    name = stdio_name("server", 6200)
    all_of_them = [Instance(tmp_path, name) for _ in range(100)]
    assert len({one.id for one in all_of_them}) == 100
    died(all_of_them[70])
    assert Instance(tmp_path, name).id == all_of_them[70].id


def test_slots_of_those_that_died_with_a_session_are_found(tmp_path):
    name = stdio_name("server", 6200)
    died_owing, died_clean, living, own = (Instance(tmp_path, name) for _ in range(4))
    for instance in (died_owing, living, own):
        instance.began(7)
    died(died_owing)
    died(died_clean)
    assert own.left_beside() == [died_owing.path]
    assert Instance(None, name).left_beside() == []


def left_behind(tmp_path):
    instance = Instance(tmp_path, "5200")
    instance.began(7)
    instance.release()
    return instance, LeftBehind(instance.path)


def test_what_is_left_behind_is_owed_until_it_is_said(tmp_path):
    instance, left = left_behind(tmp_path)
    assert (left.id, left.former) == (instance.id, 7)
    assert left.take()
    assert Instance(tmp_path, "5200").id != instance.id  # a cproxy that starts in this moment is somebody else
    left.ended()
    assert not left.take()


def test_a_cproxy_that_starts_says_the_goodbye_itself(tmp_path):
    instance, left = left_behind(tmp_path)
    assert left.take()
    left.let_go()
    again = Instance(tmp_path, "5200")
    assert (again.id, again.former) == (instance.id, 7)
    assert not left.take()
    again.began(8)
    again.release()
    assert not left.take()  # that one has used it, and needs another
    assert LeftBehind(again.path).former == 8


def test_with_its_directory_what_is_owed_is_gone(tmp_path):
    _instance, left = left_behind(tmp_path)
    (tmp_path / "instance-5200").unlink()
    assert not left.take()


def test_a_new_name_is_kept(tmp_path):
    twin = Instance(tmp_path, "5200")
    before = twin.id
    twin.began(7)
    twin.rename()
    assert twin.id != before and twin.former == 0
    died(twin)
    assert Instance(tmp_path, "5200").id == twin.id


@pytest.mark.parametrize("host", ["fe80::1%eth0", "../../etc", "a/b", "x" * 250, "server.example"])
def test_any_host_makes_a_file_name(tmp_path, host):
    assert Instance(tmp_path, stdio_name(host, 6200)).persistent
    assert [file.parent for file in tmp_path.rglob("*")] == [tmp_path]


def test_a_site_is_the_same_after_a_restart_and_another_in_a_copy(tmp_path):
    first = Site(tmp_path / "one", 6200)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert Site(tmp_path / "one", 6200).number != first.number, "two that run at once"
    died(first)
    assert Site(tmp_path / "one", 6200).number == first.number
    assert Site(tmp_path / "two", 6200).number not in (0, first.number)


def test_a_site_without_a_directory_to_write_to_is_the_same_after_a_restart(tmp_path):
    (tmp_path / "file").write_text("")
    assert Site(tmp_path / "file", 6200).number == Site(None, 6200).number != Site(None, 6201).number


def test_a_state_directory_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MproxyError, match="--state-dir"):
        Instance(tmp_path / "file", "5200")


@pytest.mark.parametrize(("host", "code"), [("10.1.0.7", None), ("10.5.0.7", CloseCode.WRONG_ADDRESS)])
def test_a_key_in_the_wrong_place_is_not_a_key_that_is_refused(tmp_path, host, code, monkeypatch):
    """The client may come back to a network where it is accepted, so the code differs."""
    from base64 import b64encode
    spki = SPKI_PREFIX + bytes(32)
    monkeypatch.setenv("HOME", str(tmp_path))  # nothing above it is looked at: in a lab of its own / is somebody else's
    file = tmp_path / "authorized_keys"
    file.write_text(f'from="10.1.0.0/24" mproxy-ed25519 {b64encode(spki).decode()}\n')
    file.chmod(0o600)
    keys = AuthorizedKeys(file, lambda _text: None)
    try:
        keys.find(spki, host, 0)
        found = None
    except PeerError as error:
        found = error.code
    assert found == code
    with pytest.raises(PeerError) as refused:
        keys.find(SPKI_PREFIX + bytes(31) + b"x", host, 0)
    assert refused.value.code == CloseCode.KEY_REFUSED
