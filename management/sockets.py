"""Listening sockets of the control plane, and who holds a port that we want."""

import errno
import os
import socket
from pathlib import Path

import psutil

from .addresses import Address
from .errors import StartError

BACKLOG = 128
PROBE_AFTER_SECONDS, PROBE_EVERY_SECONDS, PROBES = 30, 5, 5  # of a silent peer


def listen(address: Address) -> socket.socket:
    """StartError naming who has the port when it is taken."""
    if address.scheme == "unix":
        return listen_unix(Path(address.path))
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address.host, address.port))
    except OSError as error:
        listener.close()
        raise StartError(_complaint(address, error)) from None
    listener.listen(BACKLOG)
    notice_vanished(listener)
    return listener


def notice_vanished(listener: socket.socket) -> None:
    """Who is gone without a word is found out within a minute, however long the answer takes: accepted sockets inherit it."""
    if listener.family == socket.AF_UNIX or not hasattr(socket, "TCP_KEEPIDLE"):
        return
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_AFTER_SECONDS)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_EVERY_SECONDS)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)


def listen_unix(path: Path) -> socket.socket:
    """0600; a socket that nobody serves any more gives way."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                listener.close()
                raise StartError(f"{path}: another process listens on this socket")
        path.unlink()
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise StartError(f"{path}: {error.strerror}") from None
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    return listener


def require_free(address: Address) -> None:
    """For a socket that another process of ours will open."""
    listen(address).close()
    if address.scheme == "unix":
        Path(address.path).unlink(missing_ok=True)


def _complaint(address: Address, error: OSError) -> str:
    if error.errno != errno.EADDRINUSE:
        return f"{address.url}: {error.strerror}"
    return f"{address.url}: the port is in use by {_holder(address.port)}"


def _holder(port: int) -> str:
    try:
        listening = (c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.pid)
        pids = {c.pid for c in listening if c.pid and c.laddr and c.laddr.port == port}
        return ", ".join(f"process {pid} ({psutil.Process(pid).name()})" for pid in sorted(pids)) or "another process"
    except psutil.Error:
        return "another process"
