"""Both ends of a transfer are killed at any moment, again and again, with everything that shortens it switched on."""

import os
import random
import signal

import pytest
from lab import pause
from test_transfer import MANY, Transfer, content

KILLS = 10
LARGE_BYTES = 3_000_000


@pytest.fixture
def transfer(tmp_path):
    made = Transfer(tmp_path)
    yield made
    made.close()


class Tree:
    """A tree that changes; `states` has for each file all contents that it has had."""

    def __init__(self, top, chance):
        self.top, self.chance = top, chance
        self.states = {}
        for number in range(600):
            self.write(f"{number % 7}/{number}", b"line %d of a text that says little\n" % number * (number % 50))
        for number in range(2):
            self.write(f"large{number}", content(number, LARGE_BYTES))
        for number in range(0, 600, 6):
            (top / f"{number % 7}/link{number}").symlink_to(f"../{(number + 1) % 7}/{number + 1}")
        for number in range(0, 600, 9):
            os.link(top / f"{number % 7}/{number}", top / f"second{number}")

    def write(self, name, data):
        path = self.top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.states.setdefault(name, []).append(data)

    def change(self):
        """Some small files, and a piece of each large one, which moves the rest of it."""
        for number in self.chance.sample(range(600), 20):
            self.write(f"{number % 7}/{number}", b"%d changed\n" % self.chance.randrange(1 << 30))
        for number in range(2):
            old = self.states[f"large{number}"][-1]
            at = self.chance.randrange(len(old))
            self.write(f"large{number}", old[:at] + self.chance.randbytes(5000) + old[at + 100:])

    def is_state(self, name, data):
        """Whether a file of this name has ever held this."""
        if name.startswith("second"):
            number = int(name[6:])
            name = f"{number % 7}/{number}"
        return data in self.states[name]


def files_of(top):
    """{name: contents} of what has its name."""
    return {str(path.relative_to(top)): path.read_bytes() for path in sorted(top.rglob("*"))
            if path.is_file() and not path.is_symlink() and not path.name.startswith(".")}


@pytest.mark.long
def test_killed_at_any_moment(transfer, seed):
    """Goal: bundles, links, changed large files, all compressed: whatever has a name is whole, in a state that the
    source has had; and whoever is left goes on until all is the same."""
    chance = random.Random(seed)
    tree = Tree(transfer.source / "t", chance)
    key = transfer.directory / "secret"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    receiver, port = transfer.recv("--force", "--key", key, once=False)
    _box, through = transfer.impair(port, "--rate", "30Mbit", "--delay", "4ms", "--loss", "1")
    words = "--delta", "--compress", "--links", "--key", key, transfer.source / "t"
    assert transfer.send(port, *words).wait(MANY) == 0
    for _kill in range(KILLS):
        tree.change()
        sender = transfer.send(through, *words)
        victims = chance.choice([[sender], [receiver], [sender, receiver]])
        pause(chance.uniform(0.1, 0.8))  # at any moment
        for victim in victims:
            victim.signal(signal.SIGKILL)
            victim.wait()
        if receiver in victims:
            receiver, _port = transfer.recv("--force", "--key", key, port=port, once=False)
        if sender not in victims and chance.random() < 0.2:  # it finds the next one after some seconds
            assert sender.wait(MANY) == 0, str(sender)
        else:
            sender.process.kill()
            sender.wait()
        wrong = [name for name, data in files_of(transfer.target / "t").items() if not tree.is_state(name, data)]
        assert not wrong
    sender = transfer.send(through, *words)
    assert sender.wait(MANY) == 0, str(sender)
    assert files_of(transfer.target / "t") == files_of(transfer.source / "t")
    assert not list(transfer.target.rglob(".*")), "nothing is left behind"
    for path in (transfer.source / "t").rglob("*link*"):
        assert os.readlink(transfer.target / path.relative_to(transfer.source)) == os.readlink(path)
