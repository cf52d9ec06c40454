"""Random passages: one seed determines the path, its faults, the settings of both ends and what applications do."""

import random

from mproxy.transport._states import ConnectionState

from mproxy.transport._packet import EndCode
from mproxy.transport.datagram_config import DatagramConfig
from tests.sim.path import Faults, World

SECOND = 1_000_000


class Passage:
    """One run. `str()` says how to replay it."""

    def __init__(self, seed):
        self.seed = seed
        self.random = pick = random.Random(seed)
        self.config = self._config()
        up, down = self._faults(), self._faults()
        size, answer = self._size(), pick.choice((0, 0, 1, self._size()))
        self.world = World(seed, up, down, config=self.config, server_config=self._config(), number=self._number(),
                           data=pick.randbytes(size), answer=pick.randbytes(answer))
        self.mover_is_client = pick.random() < 0.5

    def __str__(self):
        return f"seed {self.seed}; replay: python -m tests.sim.soak --datagram --seed {self.seed}"

    # ---- making it up

    def _number(self):
        """The first packet number: often just below 2**32, or where a number of 64 bits is large."""
        pick = self.random
        return pick.choice((None, 2**32 - pick.randrange(1, 300), 2**32 - 1, 2**62, 1))

    def _size(self):
        """Bytes of a stream: mostly few packets, now and then some thousands."""
        return int(2 ** self.random.uniform(0, self.random.choice((18.5,) * 9 + (22,)))) - 1

    def _config(self):
        pick = self.random
        return DatagramConfig(
            recovery=(getattr(self, "config", None) and self.config.recovery) or pick.choice(("sack", "sack", "gbn")),
            congestion=pick.choice(("bbr", "bbr", "cubic", "fixed")), window=int(2 ** pick.uniform(0, 8)),
            max_window_bytes=pick.choice((16 << 10, 64 << 10, 1 << 20, 16 << 20)),
            max_packet_bytes=pick.choice((1200, 1452, 1472, 9000, 65507)),
            ack_delay_us=pick.choice((0, 1000, 10_000, 25_000)), keepalive_us=pick.choice((200_000, 2 * SECOND)),
            retries=40, idle_us=120 * SECOND)

    def _faults(self):
        pick = self.random
        faults = Faults(delay=int(10 ** pick.uniform(2, 5.3)))
        if pick.random() < 0.6:
            faults.loss = pick.choice((0.001, 0.01, 0.05, 0.1, 0.2, 0.3))
        if pick.random() < 0.4:
            faults.duplicate = pick.choice((0.01, 0.1, 0.5))
        if pick.random() < 0.4:
            faults.reorder, faults.reorder_by = pick.choice((0.01, 0.1, 0.5)), int(10 ** pick.uniform(2, 5.2))
        if pick.random() < 0.4:
            faults.corrupt = pick.choice((0.001, 0.01, 0.05))
        if pick.random() < 0.3:
            faults.jitter = int(10 ** pick.uniform(2, 5))
        if pick.random() < 0.4:
            faults.rate = 10 ** pick.uniform(4.7, 7)
            faults.queue_bytes = int(10 ** pick.uniform(3.7, 5.5))
        if pick.random() < 0.3:
            faults.mtu = pick.choice((1200, 1300, 1420, 1472, 9000))
        return faults

    # ---- faults in mid-course

    def _plan(self):
        world, pick = self.world, self.random
        for _ in range(pick.choice((0, 0, 1, 1, 2, 4))):
            at = int(10 ** pick.uniform(3, 6.8))
            world.clock.after(at, pick.choice((self._silence, self._move, self._shrink, self._one_way, self._stall)))

    def _silence(self):
        """Nothing passes for up to twelve seconds."""
        self._mute((self.world.up, self.world.down))

    def _one_way(self):
        self._mute((self.random.choice((self.world.up, self.world.down)),))

    def _mute(self, directions):
        for direction in directions:
            direction.silent = True
        self.world.clock.after(int(10 ** self.random.uniform(4, 7.1)), self._speak, directions)

    def _speak(self, directions):
        for direction in directions:
            direction.silent = False

    def _shrink(self):
        """The path takes smaller packets from now on."""
        self.world.up.faults.mtu = self.world.down.faults.mtu = self.random.choice((1200, 1250, 1400))

    def _move(self):
        """One end has another address from now on."""
        world = self.world
        if world.server is None:
            return
        if self.mover_is_client:  # when both move at once nobody can find the other
            world.client.address += b"'"
            mover = world.client
        else:
            world.server.address = world.server_address = world.server_address + b"'"
            mover = world.server
        if self.random.random() < 0.5:
            mover.connection.probe(world.clock.now)
            mover.pump()

    def _stall(self):
        """One application does not read for a while."""
        peer = self.world.server if self.random.random() < 0.7 else self.world.client
        if peer is not None:
            peer.paused = True
            self.world.clock.after(int(10 ** self.random.uniform(3, 6.7)), peer._resume)

    # ---- running

    def run(self):
        """Play it; AssertionError when anything is not as it must be."""
        world, pick = self.world, self.random
        self._plan()
        if pick.random() < 0.2:
            world.client.read_pause, world.client.read_most = pick.randrange(1, 20_000), 1 << pick.randrange(9, 16)
        world.start()
        world.run(self._over, limit=3600 * SECOND)
        self.check()

    def _over(self):
        """Whether both ends are closed; the client alone counts if it never got through."""
        return self.world.over() and (self.world.server is not None or self.world.client.ended is not None)

    def check(self):
        """Each byte once and in order; both ends know, or one could not hear the other's last words."""
        world = self.world
        ends = [world.client.ended, world.server.ended if world.server else None]
        assert world.server is not None, f"{self}: never connected: {world}"
        assert world.data.startswith(world.server.received), f"{self}: the stream up differs"
        assert world.answer.startswith(world.client.received), f"{self}: the stream down differs"
        assert all(end is not None for end in ends), f"{self}: an end has no end: {world}"
        codes = sorted(end[0] for end in ends)
        assert codes[0] == EndCode.DONE and codes[1] in (EndCode.DONE, EndCode.TIMED_OUT, EndCode.IDLE), \
            f"{self}: {ends} {world}"
        assert bytes(world.server.received) == world.data, f"{self}: the stream up is not complete: {world}"
        assert bytes(world.client.received) == world.answer, f"{self}: the stream down is not complete: {world}"
        return codes


def play(seed):
    """Run the passage of `seed`; returns it."""
    passage = Passage(seed)
    try:
        passage.run()
    except AssertionError as error:
        raise AssertionError(f"{passage}\n{error}") from error
    assert passage.world.client.connection.state == ConnectionState.CLOSED
    return passage
