"""A QUIC server that sends back what comes on a stream, and a client that checks it, by aioquic:
`quic_talk.py serve PORT CERTIFICATE` and `quic_talk.py talk PORT CERTIFICATE`.

The client sends blocks, one after another, on one connection, and says how many have come back as they were.
"""

import asyncio
import random
import sys

from aioquic.asyncio import connect, serve
from aioquic.quic.configuration import QuicConfiguration

HOST = "127.0.0.1"
PROTOCOL = "talk"
BLOCK_BYTES = 40_000  # many packets, in flight at once


def settings(is_client):
    return QuicConfiguration(is_client=is_client, alpn_protocols=[PROTOCOL], idle_timeout=120)


def on_stream(reader, writer):
    tasks.add(asyncio.ensure_future(send_back(reader, writer)))


async def send_back(reader, writer):
    print("stream", flush=True)
    while data := await reader.read(65536):
        writer.write(data)


async def serve_all(port, certificate):
    ours = settings(is_client=False)
    ours.load_cert_chain(certificate, certificate)
    await serve(HOST, port, configuration=ours, stream_handler=on_stream)
    print("ready", flush=True)
    await asyncio.Event().wait()


async def talk(port, certificate):
    ours = settings(is_client=True)
    ours.load_verify_locations(certificate)
    async with connect(HOST, port, configuration=ours) as client:
        reader, writer = await client.create_stream()
        chance = random.Random(port)
        for number in range(1, 1_000_000):
            block = chance.randbytes(BLOCK_BYTES)
            writer.write(block)
            if await reader.readexactly(BLOCK_BYTES) != block:
                raise SystemExit(f"block {number} came back changed")
            print("block", number, flush=True)


if __name__ == "__main__":
    tasks = set()
    asyncio.run({"serve": serve_all, "talk": talk}[sys.argv[1]](int(sys.argv[2]), sys.argv[3]))
