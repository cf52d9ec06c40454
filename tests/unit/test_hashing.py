"""`mproxy hash`: the same hash as a transfer's."""

import os
import threading

import pytest

from mproxy.programs import hashing, main
from mproxy.transfer import tree


@pytest.mark.parametrize("size", [0, 1, (1 << 18) + 1, 1 << 20, (1 << 20) + 1, 2 << 20, 2_500_000])
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_the_hash_of_a_transfer(tmp_path, capsys, size, kind):
    data, path = os.urandom(size), tmp_path / "f"
    if kind == "file":
        path.write_bytes(data)
    else:
        os.mkfifo(path)
        threading.Thread(target=path.write_bytes, args=(data,), daemon=True).start()
    count = tree.block_count(size)
    leaves = [tree.leaf(data[number << 20:(number + 1) << 20], number, number == count - 1) for number in range(count)]
    assert main.main(["hash", str(path)]) == 0
    assert capsys.readouterr().out == f"{tree.root(b''.join(leaves)).hex()}  {path}\n"


def test_what_cannot_be_read_is_named_and_the_rest_is_hashed(tmp_path, capfd):
    (tmp_path / "f").write_bytes(b"data")
    assert main.main(["hash", str(tmp_path), str(tmp_path / "none"), str(tmp_path / "f")]) == 1
    out, err = capfd.readouterr()
    assert out.count("\n") == 1
    assert err == (f"mproxy hash: {tmp_path}: Is a directory\n"
                   f"mproxy hash: {tmp_path / 'none'}: No such file or directory\n")
    assert main.main(["hash"]) == 2


def test_holes(tmp_path, capsys):
    path = tmp_path / "f"
    with path.open("wb") as file:
        file.truncate(5 << 20)
        file.seek(2 << 20)
        file.write(b"data")
    assert main.main(["hash", str(path)]) == 0
    of_holes = capsys.readouterr().out
    path.write_bytes(path.read_bytes())
    assert main.main(["hash", str(path)]) == 0
    assert capsys.readouterr().out == of_holes


@pytest.mark.parametrize("size, known", [
    (0, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"),
    (102400, "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085")])
def test_blake3_as_b3sum_prints_it(tmp_path, capfd, monkeypatch, size, known):
    """Goal: the values that BLAKE3's authors publish, in pieces, too."""
    monkeypatch.setattr(hashing, "BLAKE3_BYTES", 50_000)
    path = tmp_path / "f"
    path.write_bytes(bytes(number % 251 for number in range(size)))
    assert main.main(["hash", "--blake3", str(path)]) == 0
    assert capfd.readouterr().out == f"{known}  {path}\n"
