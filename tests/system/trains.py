"""Makes the kernel refuse to cut trains, for programs under test."""

import errno
import os
import struct
import subprocess

from lab import HERE

# Why a system refuses: no checksum offload, and IPsec (EIO); no checksums, and more (EINVAL); the path (EMSGSIZE).
REFUSALS = [errno.EIO, errno.EINVAL, errno.EMSGSIZE]


class Refusal:
    """The error that a program started with `environment` gets for every train; `refused`: how many there were."""

    def __init__(self, directory, error):
        library, self._file = directory / "no_trains.so", directory / "trains"
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "no_trains.c", "-ldl"], check=True)
        self._file.write_bytes(struct.pack("=iI", error, 0))
        self.environment = {"LD_PRELOAD": os.fspath(library), "MPROXY_TEST_TRAINS": os.fspath(self._file)}

    @property
    def refused(self):
        return struct.unpack("=iI", self._file.read_bytes())[1]
