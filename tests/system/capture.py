"""What somebody sees who can read every packet of a host."""

import contextlib
import socket
import threading

ETH_P_ALL = 3


class Capture:
    """Every packet that a host sees on one interface."""

    def __init__(self, host, interface):
        with host.inside():
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # sees nothing until it is bound
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
        self.socket.bind((interface, ETH_P_ALL))
        self.socket.settimeout(0.1)
        self.packets = []
        self.ending = False
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        while not self.ending:
            with contextlib.suppress(TimeoutError):
                self.packets.append(self.socket.recv(1 << 17))

    def end(self):
        """All packets that were seen, joined."""
        self.ending = True
        self.thread.join()
        self.socket.close()
        return b"".join(self.packets)


def is_to(packet, protocol, port):
    """Whether an Ethernet frame has an IPv4 packet of that protocol to that port."""
    return packet[12:14] == b"\x08\x00" and packet[23] == protocol and packet[36:38] == port.to_bytes(2)
