#!/usr/bin/env python3
"""What an editor does with a host far away, by ssh alone: start a server there that outlives the ssh that started it,
reach it through a forward, many streams at once, and be told of files that change. Ends with a count and a verdict.

    editor_load.py HOST STREAMS SECONDS
"""

import hashlib
import random
import socket
import subprocess
import sys
import threading
import time

# Runs on the host: each connection names a job. ECHO: bytes come back. WATCH: a line for each change of a file.
SERVER = r'''
import os, socket, sys, threading, time
def serve(connection):
    job = connection.recv(1)
    if job == b"W":
        known = {}
        while True:
            for name in sorted(os.listdir("watched")):
                at = os.stat("watched/" + name).st_mtime_ns
                if known.get(name) != at:
                    known[name] = at
                    connection.sendall((name + "\n").encode())
            time.sleep(0.05)
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.close()
os.makedirs("watched", exist_ok=True)
listener = socket.create_server(("127.0.0.1", 0), backlog=200)
if os.fork():
    print("PORT", listener.getsockname()[1], os.getpid(), flush=True)
    sys.stdout.flush()
    os._exit(0)
os.setsid()
for number in range(3):
    os.dup2(os.open("/dev/null", os.O_RDWR), number)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
'''

BEGAN = time.monotonic()


def say(text):
    print(text, flush=True)


def stream(port, number, until, results):
    """Random pieces go out and have to come back the same; (bytes, longest silence, what went wrong)."""
    numbers, total, longest = random.Random(number), 0, 0.0
    try:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"E")
            sent, came = hashlib.sha256(), hashlib.sha256()
            while time.monotonic() < until:
                piece = numbers.randbytes(numbers.choice((20, 200, 2000, 20000, 200000)))
                asked_at = time.monotonic()
                sent.update(piece)
                writer = threading.Thread(target=connection.sendall, args=(piece,))
                writer.start()
                left = len(piece)
                while left:
                    data = connection.recv(min(left, 65536))
                    if not data:
                        raise OSError("the connection ended")
                    came.update(data)
                    left -= len(data)
                writer.join()
                longest = max(longest, time.monotonic() - asked_at)
                total += len(piece)
                time.sleep(numbers.random() / 10)
            results[number] = total, longest, None if sent.digest() == came.digest() else "other bytes came back"
    except OSError as error:
        results[number] = total, longest, str(error)


def watch(port, seen):
    """Count the changes that the host tells of."""
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile() as lines:
        connection.sendall(b"W")
        for line in lines:
            seen.append(line.strip())


def main(host, streams, seconds):
    started = subprocess.run(["ssh", host, "python3", "-"], input=SERVER, capture_output=True, text=True, check=True)
    port = int(started.stdout.split()[1])
    say("the server there runs, and the ssh that started it has ended")
    with socket.create_server(("127.0.0.1", 0)) as free:
        ours = free.getsockname()[1]
    forward = subprocess.Popen(["ssh", "-N", "-o", "ExitOnForwardFailure=yes",
                                "-L", f"127.0.0.1:{ours}:127.0.0.1:{port}", host])
    deadline = time.monotonic() + 20
    while socket.socket().connect_ex(("127.0.0.1", ours)):
        if time.monotonic() > deadline or forward.poll() is not None:
            sys.exit("the forward did not come up")
        time.sleep(0.02)
    seen, results, until = [], {}, time.monotonic() + seconds
    threading.Thread(target=watch, args=(ours, seen), daemon=True).start()
    threads = [threading.Thread(target=stream, args=(ours, number, until, results)) for number in range(streams)]
    for thread in threads:
        thread.start()
    say(f"{streams} streams work")
    saves = 0
    while time.monotonic() < until:  # saving a file, each time by an ssh of its own, as a terminal would
        name = f"file{saves}"
        if subprocess.run(["ssh", host, "echo", "changed", ">", f"watched/{name}"], check=False).returncode == 0:
            saves += 1
        time.sleep(0.3)
    for thread in threads:
        thread.join()
    deadline = time.monotonic() + 10
    while len(set(seen)) < saves and time.monotonic() < deadline:
        time.sleep(0.05)
    alive = forward.poll() is None
    forward.terminate()
    wrong = [f"stream {number}: {why}" for number, (_, _, why) in results.items() if why]
    say(f"{len(results)} streams, {sum(total for total, _, _ in results.values()) / 1e6:.0f} MB there and back,"
        f" longest wait {max(longest for _, longest, _ in results.values()):.1f} s")
    say(f"{saves} files saved, {len(set(seen))} seen by the watcher")
    for line in wrong:
        say(line)
    good = not wrong and alive and len(set(seen)) >= saves
    say("everything is whole" if good else "something is missing")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
