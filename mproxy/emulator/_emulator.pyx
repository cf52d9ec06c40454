"""The sockets of `mproxy impair`. Their purpose: _emulator.pxd."""

import os
from functools import partial

from libc.errno cimport EAGAIN, errno
from libc.stdlib cimport calloc, free

from mproxy.ground._list cimport list_append, list_remove
from mproxy.io._loop cimport EPOLLET, EPOLLIN
from mproxy.io._packets cimport LARGEST_PACKET, MOST_SEGMENTS, Message, Slot
from mproxy.io._socket cimport Target, close, is_spare
from mproxy.io._udp_socket cimport (
    peer_hash, peer_name, peer_of, peer_pair, peer_same, peer_set, udp_buffers, udp_connect, udp_fragment,
    udp_is_v4, udp_socket,
)


cdef class Emulator:
    """Takes packets from the bound UDP socket `fd` (a duplicate of the caller's) to `target` and back.

    At most `most` clients at once: a newcomer takes the place of the one that has been silent longest.
    """

    def __init__(self, Loop loop, int fd, Target target, PathEmulator up, PathEmulator down, on_client, *,
                 uint32_t most=1024, int64_t idle_us=60000000):
        self.loop = loop
        self.on_client = on_client
        self.up, self.down = up, down
        self.most = most
        self.idle_us = idle_us
        peer_set(&self.server, &target.addresses[0])
        self.slots = <EmulatorClient **>calloc(most, sizeof(EmulatorClient *))
        self.generations = <uint32_t *>calloc(most, sizeof(uint32_t))
        if self.slots == NULL or self.generations == NULL:
            raise MemoryError
        self.inbox = Inbox()
        self.outbox = Outbox()
        self.work.run = run_relay
        self.work.owner = <void *>self
        self.alarm = Alarm()
        self.listening.fd = os.dup(fd)
        self.listening.ready = clients_ready
        self.listening.owner = <void *>self
        if self.alarm.open(loop, &self.work) < 0 or loop.add(&self.listening, EPOLLIN | EPOLLET) < 0:
            raise OSError(errno, os.strerror(errno))
        udp_buffers(self.listening.fd, SOCKET_BYTES)
        udp_fragment(self.listening.fd, True)
        self.v4 = udp_is_v4(self.listening.fd)
        _relays.add(self)

    def __dealloc__(self):
        free(self.slots)
        free(self.generations)

    def close(self):
        """Stop at once; what is on its way is lost."""
        cdef int fd = self.listening.fd
        while self.all.first != NULL:
            self.forget(<EmulatorClient *>self.all.first)
        self.alarm.close()
        self.loop.unschedule(&self.work)
        self.loop.remove(&self.listening)
        os.close(fd)
        self.loop.call_soon_threadsafe(partial(_relays.discard, self))

    def rebind(self):
        """Every client's packets come to the server from another port from now on, as when a NAT forgets its table;
        what the server sends to the former one is lost. A client for whom there is no descriptor keeps its port."""
        cdef EmulatorClient *client = <EmulatorClient *>self.all.first
        cdef int fd
        while client != NULL:
            fd = self.open_socket()
            if fd >= 0:
                self.loop.close(&client.source)
                client.source.fd = fd
                self.loop.add(&client.source, EPOLLIN | EPOLLET)
                self.rebound += 1
            client = <EmulatorClient *>client.in_all.next

    cdef void run(self) noexcept:
        cdef int64_t now = self.loop.now_us
        cdef bint again = self.readable and self.read_clients(now)
        cdef EmulatorClient *client = <EmulatorClient *>self.all.last
        cdef EmulatorClient *older
        while client != NULL:
            older = <EmulatorClient *>client.in_all.prev
            if client.readable and self.read_server(client, now):
                again = True
            client = older
        self.send(True, now)
        self.send(False, now)
        self.alarm.set(max(min(self.up.deadline(), self.down.deadline()), now + TOGETHER_US))
        if again:
            self.loop.schedule(&self.work)

    cdef bint read_clients(self, int64_t now) noexcept:
        """Take what the clients sent; true when there may be more."""
        cdef Peer peer
        cdef EmulatorClient *client
        cdef int i, n, _reads
        for _reads in range(READS_A_TURN):
            n = self.inbox.receive(self.listening.fd, 0, BATCH, True)
            for i in range(n):
                peer_of(&peer, &self.inbox.slots[i])
                client = self.client_of(&peer, now)
                if client != NULL:
                    put_all(self.up, &self.inbox.slots[i], client.id, now)
            if n < 0 and errno == EAGAIN:
                self.readable = False
                return False
        return True

    cdef bint read_server(self, EmulatorClient *client, int64_t now) noexcept:
        """Take what the server sent to a client; true when there may be more."""
        cdef int i, n, _reads
        for _reads in range(READS_A_TURN):
            n = self.inbox.receive(client.source.fd, 0, BATCH, False)
            for i in range(n):
                put_all(self.down, &self.inbox.slots[i], client.id, now)
            if n < 0 and errno == EAGAIN:  # any other error is one packet's: ECONNREFUSED when nobody listens
                client.readable = False
                return False
        return True

    cdef void send(self, bint inward, int64_t now) noexcept:
        """Send what has arrived: to the server (`inward`), by the socket of the client it comes from, or to clients."""
        cdef PathEmulator path = self.up if inward else self.down
        cdef EmulatorClient *client
        cdef int count = BURST, done, i
        while count == BURST:
            count = done = 0
            while count < BURST and path.take(now, &self.burst[count]):
                count += 1
            while done < count:
                client = self.find(self.burst[done].client)
                done += self.put_train(client, done, count, inward, now) if client != NULL else 1
                if self.outbox.count and (
                        done == count or not self.outbox.has_room(MOST_SEGMENTS)
                        or inward and self.burst[done].client != client.id):
                    self.flush(client.source.fd if inward else self.listening.fd, inward, now)
            for i in range(count):
                free(self.burst[i].data)

    cdef int put_train(self, EmulatorClient *client, int first, int count, bint inward, int64_t now) noexcept:
        """Put packet `first` of `count` in the burst into the outbox, with those that can go in one train with it;
        returns how many. The outbox has room for MOST_SEGMENTS parts."""
        cdef uint32_t segment = self.burst[first].length, total = segment
        cdef int last = first
        cdef Message *message
        if inward:
            message = self.outbox.add(NULL, 0, NULL)
        else:
            message = self.outbox.add(&client.name, client.name_bytes, &client.peer.local)
        message.owner = client
        self.outbox.add_part(self.burst[first].data, segment)
        while last + 1 < count and last + 1 - first < MOST_SEGMENTS and self.burst[last].length == segment \
                and self.burst[last + 1].client == client.id and 0 < self.burst[last + 1].length <= segment \
                and total + self.burst[last + 1].length <= LARGEST_PACKET:
            last += 1
            total += self.burst[last].length
            self.outbox.add_part(self.burst[last].data, self.burst[last].length)
        self.outbox.finish(segment, now < client.singly_until[inward])
        return last + 1 - first

    cdef void flush(self, int fd, bint inward, int64_t now) noexcept:
        """Send the outbox; a full socket loses packets, as a full device does."""
        cdef Message *message
        cdef EmulatorClient *client
        cdef int i
        self.outbox.flush(fd, False)
        for i in range(self.outbox.count):
            message = &self.outbox.messages[i]
            client = <EmulatorClient *>message.owner
            self.unsent += message.packets - message.sent
            if message.fell_back and message.error == 0 and now >= client.singly_until[inward]:
                client.singly_until[inward] = now + SINGLY_US
        self.outbox.clear()

    # ---- clients

    cdef EmulatorClient *find(self, uint64_t id) noexcept:
        """The client with that id; NULL when it is gone."""
        cdef EmulatorClient *client = self.slots[<uint32_t>id]
        return client if client != NULL and client.id == id else NULL

    cdef EmulatorClient *client_of(self, const Peer *peer, int64_t now) noexcept:
        """The client at this address, a new one if need be; NULL when there is no descriptor for one."""
        cdef EmulatorClient *client = self.buckets[peer_hash(peer) % BUCKETS]
        while client != NULL and not peer_same(&client.peer, peer):
            client = client.next
        if client == NULL:
            return self.add_client(peer, now)
        self.used(client, now)
        return client

    cdef EmulatorClient *add_client(self, const Peer *peer, int64_t now) noexcept:
        cdef EmulatorClient *client
        cdef EmulatorClient **bucket = &self.buckets[peer_hash(peer) % BUCKETS]
        cdef uint32_t slot = 0
        while self.all.first != NULL and (self.all.count == self.most or self.is_idle(now)):
            self.forget(<EmulatorClient *>self.all.first)
        client = <EmulatorClient *>calloc(1, sizeof(EmulatorClient))
        if client == NULL:
            return NULL
        client.source.fd = self.open_socket()
        if client.source.fd < 0:
            free(client)
            return NULL
        while self.slots[slot] != NULL:
            slot += 1
        self.generations[slot] += 1
        self.slots[slot] = client
        client.id = <uint64_t>self.generations[slot] << 32 | slot
        client.peer = peer[0]
        client.name_bytes = peer_name(peer, self.v4, &client.name)
        client.emulator = <void *>self
        client.source.ready = server_ready
        client.source.owner = client
        client.next = bucket[0]
        bucket[0] = client
        client.used_at = now
        list_append(&self.all, client, &client.in_all)
        self.total += 1
        self.loop.add(&client.source, EPOLLIN | EPOLLET)
        host, port = peer_pair(peer)
        self.loop.guard(partial(self.on_client, host, port, self.all.count), None)
        return client

    cdef int open_socket(self) noexcept:
        """A new one, towards the server; negative: none can be had."""
        cdef int fd = udp_socket()
        if fd >= 0 and (is_spare(fd) or udp_connect(fd, &self.server) < 0):
            close(fd)
            return -1
        if fd >= 0:
            udp_buffers(fd, SOCKET_BYTES)
            udp_fragment(fd, True)
        return fd

    cdef void used(self, EmulatorClient *client, int64_t now) noexcept:
        """Put it last in the order of use."""
        client.used_at = now
        if self.all.last != client:
            list_remove(&self.all, client, &client.in_all)
            list_append(&self.all, client, &client.in_all)

    cdef bint is_idle(self, int64_t now) noexcept:
        """Whether the client silent longest, if there is one, has been so for too long."""
        return self.all.first != NULL and now - (<EmulatorClient *>self.all.first).used_at > self.idle_us

    cdef void forget(self, EmulatorClient *client) noexcept:
        """The client is gone; what is still on its way to it is lost."""
        cdef EmulatorClient **link = &self.buckets[peer_hash(&client.peer) % BUCKETS]
        cdef int fd = client.source.fd
        while link[0] != client:
            link = &link[0].next
        link[0] = client.next
        list_remove(&self.all, client, &client.in_all)
        self.slots[<uint32_t>client.id] = NULL
        self.loop.remove(&client.source)
        close(fd)
        self.loop.free_later(client)


_relays = set()  # open ones: the kernel holds pointers to their sources


cdef void run_relay(Work *work) noexcept:
    (<Emulator>work.owner).run()


cdef void clients_ready(Source *source, uint32_t events) noexcept:
    cdef Emulator relay = <Emulator>source.owner
    relay.readable = True
    relay.loop.schedule(&relay.work)


cdef void server_ready(Source *source, uint32_t events) noexcept:
    cdef EmulatorClient *client = <EmulatorClient *>source.owner
    client.readable = True
    (<Emulator>client.emulator).loop.schedule(&(<Emulator>client.emulator).work)


cdef void put_all(PathEmulator path, const Slot *slot, uint64_t client, int64_t now) noexcept:
    """Have each of the joined packets enter by itself."""
    cdef uint32_t offset = 0, length
    if slot.cut:
        return
    if slot.length == 0:
        path.put(slot.data, 0, client, now)
    while offset < slot.length:
        length = min(slot.segment, slot.length - offset)
        path.put(slot.data + offset, length, client, now)
        offset += length
