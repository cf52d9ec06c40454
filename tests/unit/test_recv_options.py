"""The command line of recv: it decides who may send, before anything starts."""

import pytest

from mproxy.ground.errors import UsageError
from mproxy.programs.recv_options import parse_recv


def test_without_keys_it_does_not_start():
    with pytest.raises(UsageError, match=r"use --key FILE .* or --own-key, or --open"):
        parse_recv(["7000"])
    assert parse_recv(["--open", "7000"]).key is None


def test_open_beside_a_key_would_open_nothing(tmp_path):
    """Goal: giving both is refused, since only one of them would count."""
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(200, 232)))
    secret.chmod(0o600)
    assert parse_recv(["--key", str(secret), "7000"]).key is not None
    with pytest.raises(UsageError, match="--open and a key cannot be used together"):
        parse_recv(["--key", str(secret), "--open", "7000"])
