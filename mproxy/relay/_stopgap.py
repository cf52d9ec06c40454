from mproxy.relay._tcp import Relay


class TcpRelay:
    def __init__(self, loop, observer, max_connections):
        self.loop, self.observer, self.relays, self.old = loop, observer, {}, []

    def add(self, key, rule, fds):
        self.relays[key] = relay = Relay(self.loop, self.observer)
        for fd in fds:
            relay.listen(fd)

    def set_targets(self, key, targets):
        self.relays[key].target = targets[0]

    def update(self, key, rule):
        pass

    def remove(self, key):
        self.relays[key].stop_listening()
        self.old.append(self.relays.pop(key))

    def stats(self, key):
        relay = self.relays[key]
        return {"connections": relay.count, "total": relay.total, "refused": 0, "failed": 0, "timed_out": 0,
                "bytes_in": relay.moved, "bytes_out": 0}

    @property
    def count(self):
        return sum(relay.count for relay in [*self.relays.values(), *self.old])

    def close(self):
        for relay in [*self.relays.values(), *self.old]:
            relay.close()


class UdpRelay:
    count = 0

    def __init__(self, loop, observer, max_connections):
        pass

    add = set_targets = update = lambda *_: None

    def stats(self, key):
        return {}

    def remove(self, key):
        pass

    def close(self):
        pass
