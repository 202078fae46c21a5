"""The one exception for what a user can mend, and how a full disk is told from other errors."""

import errno
import os

_FULL = (errno.ENOSPC, errno.EDQUOT)


class UserError(Exception):
    """A mistake in what the user asked for or supplied.

    The message says what was expected, what arrived, and what to do. Command lines print it
    without a traceback and exit with status 2.
    """


def disk_full(error: BaseException | None) -> bool:
    """True if `error`, or what it arose from, is a full disk or quota; C++ code only says so."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if any(os.strerror(number) in str(error) for number in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False
