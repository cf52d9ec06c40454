"""What a sender is told of a file that did not arrive."""

from __future__ import annotations

import errno

from mproxy.transfer.arriving import Unlike
from mproxy.transfer.destinations import Refusal
from mproxy.transfer.file_names import BadName
from mproxy.transfer.messages import Result
from mproxy.transfer.partial import Busy, Damaged, InTheWay

_CODES: dict[int | None, Result] = {
    errno.ENOSPC: Result.NO_SPACE, errno.EDQUOT: Result.NO_SPACE, errno.EFBIG: Result.NO_SPACE,
    errno.EACCES: Result.NO_PERMISSION, errno.EPERM: Result.NO_PERMISSION, errno.EROFS: Result.NO_PERMISSION,
    errno.ENAMETOOLONG: Result.BAD_NAME, errno.EILSEQ: Result.BAD_NAME, errno.EEXIST: Result.EXISTS,
    errno.EISDIR: Result.EXISTS}


def result_of(error: Exception) -> tuple[Result, str]:
    """(Result, text) of an exception."""
    if isinstance(error, Refusal):
        return error.result, str(error)
    if isinstance(error, BadName):
        return Result.BAD_NAME, str(error)
    if isinstance(error, (Busy, InTheWay)):
        return Result.EXISTS, str(error)
    if isinstance(error, (Damaged, Unlike)):
        return Result.DAMAGED, str(error)
    if isinstance(error, OSError):
        code = _CODES.get(error.errno, Result.FAILED)
        if error.errno == errno.EISDIR:
            return code, "a directory of that name is there"
        if code == Result.EXISTS:
            return code, "a different file of this name exists; --force replaces it"
        return code, error.strerror or str(error)
    return Result.FAILED, str(error)
