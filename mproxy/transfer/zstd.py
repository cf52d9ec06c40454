"""Zstandard, imported when it is used: Python's own from 3.14 on, before that the package `zstandard`.

Both write the length of the contents into each frame. What a peer sends is asked for it first, so that a few bytes
cannot become more than is expected of them.
"""

from __future__ import annotations

import functools
import importlib
import sys

from mproxy.ground.packages import COMPRESSION, import_packages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mproxy.transfer.arriving import Data

LEVEL = 3
# A frame of at most a mebibyte needs no larger window; one that asks for more is after our memory.
WINDOW_LOG = 20

_IS_OWN = sys.version_info >= (3, 14)


def load() -> None:
    """Import it; MproxyError when it is missing."""
    _module()


@functools.cache
def _module() -> Any:
    if _IS_OWN:
        return importlib.import_module("compression.zstd")
    import_packages(COMPRESSION)
    return importlib.import_module("zstandard")


def compress(data: Data) -> bytes:
    """A frame. Releases the GIL."""
    module = _module()
    if not _IS_OWN:
        packed: bytes = module.ZstdCompressor(level=LEVEL).compress(data)
    else:
        packed = module.compress(data, LEVEL)
    return packed


def decompress(frame: Data, most: int) -> bytes | None:
    """The contents, at most `most` bytes; None if it is no such frame. Never takes more memory than these and a window.
    Releases the GIL."""
    module = _module()
    try:
        if not _IS_OWN:
            length = module.frame_content_size(frame)
            if not 0 <= length <= most:
                return None
            data: bytes = module.ZstdDecompressor(max_window_size=1 << WINDOW_LOG).decompress(
                frame, max_output_size=length, allow_extra_data=False)
        else:
            length = module.get_frame_info(frame).decompressed_size
            if length is None or not 0 <= length <= most:
                return None
            decompressor = module.ZstdDecompressor(
                options={module.DecompressionParameter.window_log_max: WINDOW_LOG})
            data = decompressor.decompress(frame, length)
            if not decompressor.eof or decompressor.unused_data:
                return None
    except (module.ZstdError, MemoryError):
        return None
    return data if len(data) == length else None
