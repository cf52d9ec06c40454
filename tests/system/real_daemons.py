"""PostgreSQL, Redis and git on the lab's server, each on loopback, and what their clients have to find there."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from lab import as_nobody, until
from openssh import listening

from tests.root import real_root

POSTGRES_PORT, REDIS_PORT, GIT_PORT = 5432, 6379, 9418
NOBODY = 65534
MEGABYTES = 60  # of the repository
IDENTITY = ["-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "core.compression=0"]
QUICK = ["-c", "safe.directory=*", "-c", "core.compression=0", "-c", "pack.window=0"]


def postgres_programs():
    """Where they are: Debian has them off the path, by version."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    return places[0].parent if places else None


NEEDS_POSTGRES = pytest.mark.skipif(
    postgres_programs() is None or not real_root(), reason="no postgresql, or no real root who can become its user")
NEEDS_REDIS = pytest.mark.skipif(not shutil.which("redis-server"), reason="no redis-server")
NEEDS_GIT = pytest.mark.skipif(not shutil.which("git"), reason="no git")


def serve(lab, port, *argv):
    """Start a daemon on the server; returns it when it listens."""
    daemon = lab.server.start(*argv)
    with lab.server.inside():
        until(lambda: daemon.running and listening(port), 30, f"{argv[-1]} listens")
    return daemon


@pytest.fixture
def postgres(lab):
    """PostgreSQL with the tables of pgbench."""
    place, programs = lab.server.home / "postgres", postgres_programs()
    place.mkdir()
    os.chown(place, NOBODY, NOBODY)
    user = as_nobody()
    lab.server.run(*user, programs / "initdb", "-D", place, "-U", "test", "-A", "trust", "--no-sync", "--locale=C")
    settings = {"port": POSTGRES_PORT, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off",
                "shared_buffers": "16MB", "max_connections": "20"}
    words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    daemon = lab.server.start(*user, programs / "postgres", "-D", place, *words)
    daemon.expect("database system is ready to accept connections", output=daemon.log)
    lab.server.run(programs / "pgbench", "-h", "127.0.0.1", "-U", "test", "-i", "-q", "postgres")
    return daemon


@pytest.fixture
def redis(lab):
    return serve(lab, REDIS_PORT, "redis-server", "--bind", "127.0.0.1", "--port", REDIS_PORT, "--save", "",
                 "--daemonize", "no", "--dir", lab.server.home)


@pytest.fixture
def repository(lab):
    """A git daemon; the repository on the server, of incompressible files."""
    place = lab.server.home / "repositories" / "large"
    place.mkdir(parents=True)
    git = ["git", *IDENTITY, "-C", place]
    subprocess.run([*git, "init", "-q"], check=True, timeout=30)
    for number in range(MEGABYTES):
        (place / f"file{number}").write_bytes(os.urandom(1_000_000))
        subprocess.run([*git, "add", "."], check=True, timeout=30)
        subprocess.run([*git, "commit", "-q", "-m", str(number)], check=True, timeout=30)
    serve(lab, GIT_PORT, "git", *QUICK, "daemon", "--export-all", "--listen=127.0.0.1",
          f"--port={GIT_PORT}", f"--base-path={place.parent}", place.parent)
    return place
