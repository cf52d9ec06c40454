"""The sockets of `mproxy impair`. What they are for: _impair_io.pxd."""

import os
from functools import partial

from libc.errno cimport EAGAIN, errno
from libc.stdlib cimport calloc, free

from mproxy.net._batch cimport (
    Received, address_hash, address_pair, address_same, address_set, receive_batch, received, receiver_free,
    receiver_init, send_add, send_batch, sender_init, udp_buffers, udp_connect, udp_fragment, udp_socket,
)
from mproxy.net._loop cimport EPOLLET, EPOLLIN
from mproxy.net._socket cimport Target, close, is_spare


cdef class ImpairRelay:
    """Takes packets from the bound UDP socket `fd` (a duplicate of the caller's) to `target` and back.

    At most `most` clients at once: a newcomer takes the place of the one that has been silent longest.
    """

    def __init__(self, Loop loop, int fd, Target target, Path up, Path down, observer, *, uint32_t most=1024,
                 int64_t idle_us=60000000):
        self.loop = loop
        self.observer = observer
        self.up, self.down = up, down
        self.most = most
        self.idle_us = idle_us
        address_set(&self.server, &target.addresses[0])
        self.slots = <Client **>calloc(most, sizeof(Client *))
        self.generations = <uint32_t *>calloc(most, sizeof(uint32_t))
        if receiver_init(&self.receiver) < 0 or self.slots == NULL or self.generations == NULL:
            raise MemoryError
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
        sender_init(&self.to_clients, self.listening.fd, False)
        _relays.add(self)

    def __dealloc__(self):
        receiver_free(&self.receiver)
        free(self.slots)
        free(self.generations)

    def close(self):
        """Stop at once; what is on its way is lost."""
        cdef int fd = self.listening.fd
        while self.oldest != NULL:
            self.forget(self.oldest)
        self.alarm.close()
        self.loop.unschedule(&self.work)
        self.loop.remove(&self.listening)
        os.close(fd)
        self.loop.call_soon_threadsafe(partial(_relays.discard, self))

    cdef void run(self) noexcept:
        cdef int64_t now = self.loop.now_us
        cdef Client *client = self.newest
        cdef Client *older
        cdef bint again = self.readable and self.read_clients(now)
        while client != NULL:
            older = client.older
            if client.readable and self.read_server(client, now):
                again = True
            client = older
        self.send_up(now)
        self.send_down(now)
        self.alarm.set(max(min(self.up.deadline(), self.down.deadline()), now + TOGETHER_US))
        if again:
            self.loop.schedule(&self.work)

    cdef bint read_clients(self, int64_t now) noexcept:
        """Take what the clients sent; true when there may be more."""
        cdef Received packet
        cdef Client *client
        cdef int i, n, _reads
        for _reads in range(READS_A_TURN):
            n = receive_batch(&self.receiver, self.listening.fd)
            for i in range(n):
                received(&self.receiver, i, &packet)
                client = self.client_of(&packet.from_address, now)
                if client != NULL:
                    put_all(self.up, &packet, client.id, now)
            if n < 0 and errno == EAGAIN:
                self.readable = False
                return False
        return True

    cdef bint read_server(self, Client *client, int64_t now) noexcept:
        """Take what the server sent to a client; true when there may be more."""
        cdef Received packet
        cdef int i, n, _reads
        for _reads in range(READS_A_TURN):
            n = receive_batch(&self.receiver, client.source.fd)
            for i in range(n):
                received(&self.receiver, i, &packet)
                put_all(self.down, &packet, client.id, now)
            if n < 0 and errno == EAGAIN:  # any other error was one packet's: ECONNREFUSED when nobody listens
                client.readable = False
                return False
        return True

    cdef void send_up(self, int64_t now) noexcept:
        """Hand what has arrived to the server, runs of one client's packets together."""
        cdef Client *client
        cdef uint64_t id = 0
        cdef int count = 0, sent = 0, i
        while True:
            while count < BURST and self.up.take(now, &self.burst[count]):
                count += 1
            while sent < count:
                id = self.burst[sent].client
                client = self.find(id)
                if client != NULL:
                    sender_init(&self.to_server, client.source.fd, True)
                while sent < count and self.burst[sent].client == id:
                    if client != NULL:
                        put_out(&self.to_server, &self.server, &self.burst[sent], now)
                    sent += 1
                if client != NULL:
                    finish(&self.to_server, now)
                    self.unsent += self.to_server.dropped
            for i in range(count):
                free(self.burst[i].data)
            if count < BURST:
                return
            count = sent = 0

    cdef void send_down(self, int64_t now) noexcept:
        """Hand what has arrived to the clients."""
        cdef Client *client
        cdef uint64_t dropped = self.to_clients.dropped
        cdef int count = BURST, i
        while count == BURST:
            count = 0
            while count < BURST and self.down.take(now, &self.burst[count]):
                client = self.find(self.burst[count].client)
                if client != NULL:
                    put_out(&self.to_clients, &client.address, &self.burst[count], now)
                count += 1
            finish(&self.to_clients, now)
            for i in range(count):
                free(self.burst[i].data)
        self.unsent += self.to_clients.dropped - dropped

    # ---- clients

    cdef Client *find(self, uint64_t id) noexcept:
        """The client of that id; NULL when it is gone."""
        cdef Client *client = self.slots[<uint32_t>id]
        return client if client != NULL and client.id == id else NULL

    cdef Client *client_of(self, const Address *address, int64_t now) noexcept:
        """Who writes from this address, a new client if need be; NULL when there is no descriptor for one."""
        cdef Client *client = self.buckets[address_hash(address) % BUCKETS]
        while client != NULL and not address_same(&client.address, address):
            client = client.next
        if client == NULL:
            return self.add_client(address, now)
        self.used(client, now)
        return client

    cdef Client *add_client(self, const Address *address, int64_t now) noexcept:
        cdef Client *client
        cdef Client **bucket = &self.buckets[address_hash(address) % BUCKETS]
        cdef uint32_t slot = 0
        while self.oldest != NULL and (self.count == self.most or now - self.oldest.used_at > self.idle_us):
            self.forget(self.oldest)
        client = <Client *>calloc(1, sizeof(Client))
        if client == NULL:
            return NULL
        client.source.fd = udp_socket(True)
        if client.source.fd < 0 or is_spare(client.source.fd) or udp_connect(client.source.fd, &self.server) < 0:
            if client.source.fd >= 0:
                close(client.source.fd)
            free(client)
            return NULL
        udp_buffers(client.source.fd, SOCKET_BYTES)
        udp_fragment(client.source.fd, True)
        while self.slots[slot] != NULL:
            slot += 1
        self.generations[slot] += 1
        self.slots[slot] = client
        client.id = <uint64_t>self.generations[slot] << 32 | slot
        client.address = address[0]
        client.relay = <void *>self
        client.source.ready = server_ready
        client.source.owner = client
        client.next = bucket[0]
        bucket[0] = client
        self.count += 1
        self.total += 1
        self.used(client, now)
        self.loop.add(&client.source, EPOLLIN | EPOLLET)
        host, port = address_pair(address)
        self.loop.guard(partial(self.observer.on_client, host, port, self.count), None)
        return client

    cdef void used(self, Client *client, int64_t now) noexcept:
        """Put it behind all others in the order of use."""
        client.used_at = now
        if self.newest == client:
            return
        self.unlink(client)
        client.older = self.newest
        client.newer = NULL
        if self.newest != NULL:
            self.newest.newer = client
        else:
            self.oldest = client
        self.newest = client

    cdef void unlink(self, Client *client) noexcept:
        if client.newer != NULL:
            client.newer.older = client.older
        elif self.newest == client:
            self.newest = client.older
        if client.older != NULL:
            client.older.newer = client.newer
        elif self.oldest == client:
            self.oldest = client.newer
        client.older = client.newer = NULL

    cdef void forget(self, Client *client) noexcept:
        """The client is gone; what is still on its way to it will find nobody."""
        cdef Client **link = &self.buckets[address_hash(&client.address) % BUCKETS]
        cdef int fd = client.source.fd
        while link[0] != client:
            link = &link[0].next
        link[0] = client.next
        self.unlink(client)
        self.slots[<uint32_t>client.id] = NULL
        self.count -= 1
        self.loop.remove(&client.source)
        close(fd)
        self.loop.free_later(client)


_relays = set()  # open ones: the kernel holds pointers to their sources


cdef void run_relay(Work *work) noexcept:
    (<ImpairRelay>work.owner).run()


cdef void clients_ready(Source *source, uint32_t events) noexcept:
    cdef ImpairRelay relay = <ImpairRelay>source.owner
    relay.readable = True
    relay.loop.schedule(&relay.work)


cdef void server_ready(Source *source, uint32_t events) noexcept:
    cdef Client *client = <Client *>source.owner
    client.readable = True
    (<ImpairRelay>client.relay).loop.schedule(&(<ImpairRelay>client.relay).work)


cdef void put_all(Path path, const Received *packet, uint64_t client, int64_t now) noexcept:
    """Let each of the joined packets enter by itself."""
    cdef uint32_t offset = 0, length
    if packet.cut_off:
        return
    if packet.length == 0:
        path.put(packet.data, 0, client, now)
    while offset < packet.length:
        length = min(packet.segment_bytes, packet.length - offset)
        path.put(packet.data + offset, length, client, now)
        offset += length


cdef void put_out(Sender *sender, const Address *address, const Held *packet, int64_t now) noexcept:
    if not send_add(sender, address, packet.data, packet.length, max(packet.length, <uint32_t>1), now):
        finish(sender, now)
        send_add(sender, address, packet.data, packet.length, max(packet.length, <uint32_t>1), now)


cdef void finish(Sender *sender, int64_t now) noexcept:
    """Send what was gathered; a full socket loses packets, as a full device does."""
    cdef int i
    if send_batch(sender, now) < 0:
        for i in range(sender.next, sender.count):
            sender.dropped += sender.packets[i]
        sender.count = sender.part_count = sender.next = 0
