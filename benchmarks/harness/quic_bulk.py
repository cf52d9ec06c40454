#!/usr/bin/env python3
"""One stream of bulk data over QUIC, by aioquic: `quic_bulk.py receive PORT CERTIFICATE TARGET`, and then
`quic_bulk.py send PORT CERTIFICATE SOURCE`.

The receiver makes a certificate, which the sender trusts. When the stream ends it writes what came to TARGET.
Windows are wide enough that they never close, and everything else is aioquic's default.
"""

import asyncio
import datetime
import ipaddress
import os
import sys
from pathlib import Path

from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import StreamDataReceived
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HOST = "127.0.0.1"
PROTOCOL = "bench"
WINDOW_BYTES = 64 << 20
WRITE_BYTES = 1 << 20


def configuration(is_client: bool) -> QuicConfiguration:
    return QuicConfiguration(
        is_client=is_client, alpn_protocols=[PROTOCOL], max_data=WINDOW_BYTES, max_stream_data=WINDOW_BYTES
    )


def make_certificate(path: Path) -> None:
    """A self-signed one for HOST, with its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    encoded = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(encoded + certificate.public_bytes(pem))


class Receiver(QuicConnectionProtocol):
    """Keeps one stream, writes it to a file and answers its end with its length."""

    target: Path
    done: asyncio.Event

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._parts: list[bytes] = []

    def quic_event_received(self, event):
        if isinstance(event, StreamDataReceived):
            self._parts.append(event.data)
            if event.end_stream:
                part = self.target.with_suffix(".part")
                part.write_bytes(b"".join(self._parts))
                os.rename(part, self.target)
                self._quic.send_stream_data(event.stream_id, b"%d" % self.target.stat().st_size, end_stream=True)
                asyncio.get_running_loop().call_later(0.1, self.done.set)


async def receive(port: int, certificate: Path, target: Path) -> None:
    make_certificate(certificate)
    settings = configuration(is_client=False)
    settings.load_cert_chain(certificate, certificate)
    Receiver.target, Receiver.done = target, asyncio.Event()
    server = await serve(HOST, port, configuration=settings, create_protocol=Receiver)
    await Receiver.done.wait()
    server.close()


async def send(port: int, certificate: Path, source: Path) -> None:
    settings = configuration(is_client=True)
    settings.load_verify_locations(str(certificate))
    async with connect(HOST, port, configuration=settings) as client:
        reader, writer = await client.create_stream()
        with open(source, "rb") as file:
            while data := file.read(WRITE_BYTES):
                writer.write(data)
        writer.write_eof()
        answer = await reader.read()
    if answer != b"%d" % source.stat().st_size:
        raise SystemExit(f"the receiver has got {answer!r} bytes")


if __name__ == "__main__":
    action = {"receive": receive, "send": send}[sys.argv[1]]
    asyncio.run(action(int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])))
