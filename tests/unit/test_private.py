"""Files and directories that nobody else may write: how they are made, and when others could."""

import grp
import os
import pwd
import stat

import pytest

from mproxy.ground.errors import MproxyError
from mproxy.ground.private_directory import make_private_directories
from mproxy.policy import trust
from mproxy.policy.trust import check_private


@pytest.mark.parametrize("members, users, own", [
    ((), ((1000, 1000),), True), (("u1000",), ((1000, 1000),), True),           # Debian's, listed as a member or not
    (("u1001",), ((1000, 1000),), False), ((), ((1000, 1000), (1001, 1000)), False),  # another one is in it
    (("u1000",), ((1000, 100),), False), ((), ((1001, 1000),), False)])         # not the owner's primary group
def test_a_group_with_the_owner_alone_may_write(tmp_path, monkeypatch, members, users, own):
    """Goal: where the umask is 002, as in ssh sessions on Debian, what pipx and others have made on the way is no
    reason to let nobody in; its sshd does the same."""
    monkeypatch.setattr(grp, "getgrgid", lambda _gid: grp.struct_group(("ann", "x", 1000, list(members))))
    monkeypatch.setattr(pwd, "getpwall", lambda: [
        pwd.struct_passwd((f"u{uid}", "x", uid, gid, "", "/", "/bin/sh")) for uid, gid in users])
    assert trust.is_own_group(1000, 1000) is own


def test_a_directory_of_ones_own_group_does_not_spoil_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "keys").touch(0o600)
    (tmp_path / "a").chmod(0o775)
    monkeypatch.setattr(trust, "is_own_group", lambda _gid, _uid: True)
    check_private(tmp_path / "a" / "keys")
    (tmp_path / "a").chmod(0o777)
    with pytest.raises(MproxyError, match="can be written by other users"):
        check_private(tmp_path / "a" / "keys")


def test_every_directory_that_is_made_is_private(tmp_path):
    """os.makedirs leaves those in between to the umask."""
    old = os.umask(0o002)
    try:
        make_private_directories(str(tmp_path / "a" / "b" / "c"))
        make_private_directories(str(tmp_path / "a" / "b" / "c"))
    finally:
        os.umask(old)
    assert [stat.S_IMODE((tmp_path / place).stat().st_mode) for place in ("a", "a/b", "a/b/c")] == [0o700] * 3
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        make_private_directories(str(tmp_path / "file"))


def test_where_no_directory_can_be_made():
    """The kernel says of it that there is no such directory, as of one above it that is missing."""
    with pytest.raises(FileNotFoundError):
        make_private_directories("/proc/nowhere/below")
