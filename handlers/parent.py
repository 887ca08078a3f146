"""What the kernel does for a process that asks: end it with its parent, give it no rights that it has not got.

Every process of ours asks for the first, so that nothing stays behind a server that was killed. Only Linux can.
"""

import ctypes
import sys

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38


def end_with_parent(signal_number: int) -> None:
    """From now on. A parent that ended before is another one now: os.getppid() tells."""
    _prctl(PR_SET_PDEATHSIG, signal_number)


def gain_no_rights() -> None:
    """Nor any process that it starts: programs that run as somebody else don't."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
