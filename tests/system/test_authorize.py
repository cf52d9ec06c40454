"""`mproxy keygen` and `mproxy authorize`: making keys, and exchanging them over a real ssh."""

import re
import shutil

import pytest
from lab import until
from openssh import NEEDS_SSHD, SSHD, SSHD_CONFIG, SSHD_PORT, listening, make_key, ssh_options
from proxies import PYTHON, SPROXY

KEYGEN = [PYTHON, "-m", "mproxy.programs.main", "keygen"]
AUTHORIZE = [PYTHON, "-m", "mproxy.programs.main", "authorize"]
FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")


def lines(path):
    return path.read_text().splitlines()


def finish(program, status=0):
    assert program.wait(30) == status, str(program)
    return program.log.text


def test_keygen_makes_a_key_once(lab):
    """Goal: the line for authorized_keys on standard output and nothing else; the second run keeps the key."""
    first = lab.client.start(*KEYGEN, "--comment", "ann@desk")
    made = finish(first)
    path = lab.client.home / "state" / "mproxy" / "client-key.pem"
    assert str(path) in made and FINGERPRINT.search(made)
    assert re.fullmatch(r"mproxy-ed25519 [A-Za-z0-9+/]{59}= ann@desk\n", first.out.text)
    assert oct(path.stat().st_mode)[-3:] == "600" and oct(path.parent.stat().st_mode)[-3:] == "700"
    before = path.read_bytes()
    second = lab.client.start(*KEYGEN, "--comment", "ann@desk")
    assert "kept the existing" in finish(second)
    assert path.read_bytes() == before and second.out.text == first.out.text


def test_keygen_says_where_it_cannot_write(lab):
    """Goal: one line, no traceback."""
    (lab.client.home / "file").write_text("")
    program = lab.client.start(*KEYGEN, "-f", lab.client.home / "file" / "key")
    assert len(finish(program, status=1).splitlines()) == 1 and program.out.text == ""


@pytest.mark.parametrize(("arguments", "status", "words"), [
    (["-f", ""], 2, "must not be empty"),
    (["-f", "."], 1, "is not a regular file"),
    (["-f", "link"], 1, "symbolic link"),
    (["-f", "junk"], 1, "chmod 600"),
    (["key"], 2, "key"),
])
def test_keygen_says_what_is_wrong(lab, arguments, status, words):
    """Goal: one line that names it; nothing is made, and nothing that was there is touched."""
    (lab.client.home / "link").symlink_to("elsewhere")
    (lab.client.home / "junk").write_text("no key")
    said = finish(lab.client.start(*KEYGEN, *arguments), status=status)
    assert words in said and len(said.splitlines()) == 1
    assert not (lab.client.home / "elsewhere").exists() and not (lab.client.home / "state").exists()
    assert (lab.client.home / "junk").read_text() == "no key"


def test_keygen_with_nowhere_to_print(lab):
    """Goal: a full disk behind standard output is reported in one line."""
    with open("/dev/full", "wb") as full:
        said = finish(lab.client.start(*KEYGEN, stdout=full), status=1)
    assert "No space left" in said.splitlines()[-1] and "Traceback" not in said


def test_its_ssh_goes_through_no_sproxy(lab):
    """Goal: where ssh_config has ssh go through an sproxy there, that one is not needed for it."""
    ssh = lab.client.home / "ssh"
    ssh.write_text("#!/bin/sh\nprintenv MPROXY_BOOTSTRAP >&2\nexit 255\n")
    ssh.chmod(0o755)
    said = finish(lab.client.start(*AUTHORIZE, "--ssh", ssh, "root@server"), status=1)
    assert "\n1\n" in f"\n{said}"


@pytest.fixture
def server(lab):
    """sshd on the server; what runs there finds its state below the host's home, as sproxy in the lab does."""
    home = lab.server.home
    make_key(home / "host_key")
    make_key(lab.client.home / "key")
    shutil.copy(lab.client.home / "key.pub", home / "authorized_keys")
    config = SSHD_CONFIG.replace("127.0.0.1", "0.0.0.0") + f"SetEnv XDG_STATE_HOME={home}/state\n"
    (home / "sshd_config").write_text(config.format(port=SSHD_PORT, home=home))
    daemon = lab.server.start(SSHD, "-D", "-e", "-f", home / "sshd_config")
    with lab.server.inside():
        until(lambda: daemon.running and listening(SSHD_PORT), 10, "sshd listening")
    return home / "state" / "mproxy"


def authorize(lab, *more):
    """One run of it, to the lab's server, which cproxy would call by its address."""
    ssh = " ".join(map(str, ["ssh", *ssh_options(lab, "-p", SSHD_PORT)]))
    return lab.client.start(*AUTHORIZE, "--ssh", ssh, *more, f"root@{lab.server_address}")


class TestAuthorize:
    pytestmark = NEEDS_SSHD

    def test_both_sides_know_each_other(self, lab, server):
        """Goal: to a server where sproxy has never run: it has a host key afterwards, our line once, however
        often it is repeated, and we have its key."""
        said = finish(authorize(lab, "--options", 'max-streams=50,target="localhost:22"', "--comment", "ann@desk"))
        mine = lab.client.start(*KEYGEN, "--comment", "ann@desk")
        finish(mine)
        assert lines(server / "authorized_keys") == ['max-streams=50,target="localhost:22" ' + mine.out.text.strip()]
        assert oct((server / "authorized_keys").stat().st_mode)[-3:] == "600"
        assert oct((server / "host-key.pem").stat().st_mode)[-3:] == "600"
        theirs = lab.server.start(*KEYGEN, "--host", "--comment", "")
        finish(theirs)
        known_hosts = lab.client.home / "state" / "mproxy" / "known_hosts"
        assert lines(known_hosts) == [f"{lab.server_address}:6200 {theirs.out.text.strip()}"]
        assert FINGERPRINT.search(theirs.log.text)[0] in said
        again = finish(authorize(lab))
        assert again.count("already in") == 2
        assert len(lines(server / "authorized_keys")) == len(lines(known_hosts)) == 1

    def test_options_for_a_key_that_is_there(self, lab, server):
        """Goal: an option that cannot be applied is reported, with the line and where it is, and by the exit status."""
        finish(authorize(lab, "--options", "max-streams=5"))
        before = lines(server / "authorized_keys")
        finish(authorize(lab, "--options", "max-streams=5"))
        said = finish(authorize(lab, "--options", "max-streams=9,target=\"localhost:22\""), status=1)
        assert "NOT applied" in said and before[0] in said and f"{server}/authorized_keys" in said
        assert lines(server / "authorized_keys") == before

    @pytest.mark.parametrize("options", [
        'expiry="2020-01-31"', "expiry=20200131", "max-streams=5,Expiry=2020-01-31T18:00Z", 'expiry="202001311800"',
        'expiry="2020-01-31 18:00:30Z",target="localhost:22"',
    ])
    def test_a_line_whose_time_is_over(self, lab, server, options):
        """Goal: an expired line does not count as present, since sproxy ignores it; only a new expiry renews it."""
        mine = lab.client.start(*KEYGEN, "--comment", "ann@desk")
        finish(mine)
        server.mkdir(parents=True, mode=0o700)
        file, old = server / "authorized_keys", f"{options} {mine.out.text.strip()}"
        file.write_text(old + "\n")
        for more in ((), ("--options", "max-streams=5")):
            said = finish(authorize(lab, *more), status=1)
            assert f"is in {lab.server_address}:{file}, but its expiry has passed" in said
            assert "--options" in said and "expiry=" in said and old in said
            assert lines(file) == [old]
        said = finish(authorize(lab, "--comment", "ann@desk", "--options", 'expiry="2099-01-31"'))
        assert f"renewed in {lab.server_address}:{file}" in said
        assert lines(file) == [old, f'expiry="2099-01-31" {mine.out.text.strip()}']
        assert f"already in {lab.server_address}:{file}" in finish(authorize(lab))

    @pytest.mark.parametrize("options", ["expiry=20990131", 'target="h:1",expiry="2099-01-31T18:00Z"', "expiry=soon"])
    def test_a_line_whose_time_is_not_over(self, lab, server, options):
        """Goal: it counts as present; if anything is wrong with it, sproxy's log says so."""
        mine = lab.client.start(*KEYGEN)
        finish(mine)
        server.mkdir(parents=True, mode=0o700)
        server.joinpath("authorized_keys").write_text(f"{options} {mine.out.text.strip()}\n")
        assert "already in" in finish(authorize(lab))
        said = finish(authorize(lab, "--options", "expiry=20980131"), status=1)
        assert "NOT applied" in said
        assert len(lines(server / "authorized_keys")) == 1

    @pytest.mark.parametrize("how", ["option", "option=", "environment", "files"])
    def test_running_sproxy_is_found(self, lab, server, how):
        """Goal: our line goes into the file that the running sproxy reads, and we remember its key, wherever it keeps
        them; no file is made where nobody reads it."""
        place = lab.server.home / "elsewhere"
        place.mkdir(mode=0o700)
        finish(lab.server.start(*KEYGEN, "--host", "-f", place / "host-key.pem"))
        (place / "authorized_keys").touch(mode=0o600)
        command, extra = {
            "option": ([SPROXY, "--state-dir", place], {}),
            "option=": ([SPROXY, f"--state-dir={place}"], {}),
            "environment": ([SPROXY], {"STATE_DIRECTORY": str(place)}),
            "files": ([SPROXY, "--host-key", place / "host-key.pem",
                       "--authorized-keys", place / "authorized_keys"], {}),
        }[how]
        sproxy = lab.server.start(*command, "6200", "127.0.0.1:7", env=extra) if extra else lab.server.start(
            *command, "6200", "127.0.0.1:7")
        offered = sproxy.event("host-key")["fingerprint"]
        sproxy.event("listening")
        said = finish(authorize(lab))
        assert offered in said and f"{place}/authorized_keys" in said
        assert len(lines(place / "authorized_keys")) == 1
        assert not any((server / name).exists() for name in ("host-key.pem", "authorized_keys"))
        until(lambda: sproxy.events("keys-read")[-1]["keys"] == "1", 10, "sproxy has read it")

    def test_sproxy_whose_files_cannot_be_told(self, lab, server):
        """Goal: nothing is changed, and the option that helps is named: no second host key, no unused list."""
        with lab.server.listen(6200):
            said = finish(authorize(lab), status=1)
            assert "--remote-dir" in said and "nothing was changed" in said and not server.exists()
        sproxy = lab.server.start(SPROXY, "--state-dir", lab.server.home / "elsewhere", "6200")
        sproxy.event("listening")
        said = finish(authorize(lab, "--remote-dir", server), status=1)
        assert "--remote-dir" in said and not (server / "host-key.pem").exists()
        assert not (server / "authorized_keys").exists()

    def test_sproxy_that_answers_with_another_key(self, lab, server):
        """Goal: a stale host key is not remembered as the key of the sproxy that answers."""
        finish(lab.server.start(*KEYGEN, "--host"))
        sproxy = lab.server.start(SPROXY, "--state-dir", lab.server.home / "elsewhere", "6200")
        offered = sproxy.event("host-key")["fingerprint"]
        sproxy.event("listening")
        said = finish(authorize(lab, "--remote-dir", server), status=1)
        assert offered in said and "offers the key" in said and "--remote-dir" in said
        assert not (lab.client.home / "state" / "mproxy" / "known_hosts").exists()

    def test_existing_lines_stay(self, lab, server):
        """Goal: other keys, a last line without a newline, an existing host key and another port are all handled."""
        server.mkdir(parents=True)
        (server / "authorized_keys").write_text("# team\nmproxy-ed25519 other")
        finish(lab.server.start(*KEYGEN, "--host"))
        before = (server / "host-key.pem").read_bytes()
        finish(authorize(lab, "--port", "7000", "--name", "Bastion"))
        assert lines(server / "authorized_keys")[:2] == ["# team", "mproxy-ed25519 other"]
        assert len(lines(server / "authorized_keys")) == 3
        assert (server / "host-key.pem").read_bytes() == before
        assert lines(lab.client.home / "state" / "mproxy" / "known_hosts")[0].startswith("bastion:7000 mproxy-ed25519 ")

    def test_changed_host_key_is_told_and_not_taken(self, lab, server):
        """Goal: if known_hosts has another key, it refuses, names the line to remove, and overwrites nothing."""
        finish(authorize(lab))
        known_hosts = lab.client.home / "state" / "mproxy" / "known_hosts"
        before = known_hosts.read_text()
        (server / "host-key.pem").unlink()
        said = finish(authorize(lab), status=1)
        assert "has changed" in said and f"{known_hosts}:1" in said
        assert known_hosts.read_text() == before

    def test_known_hosts_that_cannot_be_written(self, lab, server):
        """Goal: it says so, also by the exit status, since the next first contact would be unprotected."""
        said = finish(authorize(lab, "--known-hosts", "/proc/known_hosts"), status=1)
        assert "cannot remember the host's key in /proc/known_hosts" in said and "Traceback" not in said

    @pytest.mark.parametrize(("more", "status", "words"), [
        (["--options", "target=localhost"], 2, "not HOST:PORT"),
        (["--options", "expiry=2020-01-31"], 2, "--options: the expiry is in the past"),
        (["--ssh", "no-such-ssh"], 1, "no-such-ssh"),
        (["--ssh", "false"], 1, "failed with status 1"),
        (["--ssh", "'"], 2, "--ssh ': not a valid command"),
        (["--ssh", ""], 2, "--ssh '': must not be empty"),
        (["--key", ""], 2, "--key '': must not be empty"),
    ])
    def test_what_fails_says_why(self, lab, server, more, status, words):
        """Goal: one line says why, and no key is added that nobody asked for."""
        said = finish(authorize(lab, *more), status=status)
        assert words in said and "Traceback" not in said
        assert not (server / "authorized_keys").exists()
