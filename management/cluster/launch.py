"""`python -m flambeau.management.cluster.launch LOCK COMMAND…`: starts the command as nobody's child; prints its process id.

The command holds the lock as long as it lives: the descriptor stays open across exec. Not for: anything else.
"""

import fcntl
import os
import sys


def main(arguments: list[str]) -> None:
    path, *command = arguments
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if child := os.fork():
        os.ftruncate(lock, 0)
        os.write(lock, str(child).encode())
        print(child)
        return
    os.setsid()
    os.set_inheritable(lock, True)
    log = os.open(os.environ["FLAMBEAU_SERVER_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
