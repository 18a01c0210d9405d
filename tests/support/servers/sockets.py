"""What this process has read from each of its TCP connections, and written into it, as the kernel counts (Linux).

What it has read on one side and not written on the other it holds itself, be it in our buffers, in the server's or in
an event loop's; what the kernel has taken and not passed on is not in these numbers.
"""

import contextlib
import fcntl
import os
import socket
import struct
import termios
from pathlib import Path

_ACKED_AND_RECEIVED = 120
"""Where `tcpi_bytes_acked` and `tcpi_bytes_received` are in `struct tcp_info`."""


def traffic() -> dict[str, list[int]]:
    """Bytes read and written, by `local port-peer's port`."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile, no socket, or not connected
            if entry.readlink().name.startswith("socket:"):
                with socket.socket(fileno=os.dup(int(entry.name))) as each:
                    if each.family == socket.AF_INET:
                        found[f"{each.getsockname()[1]}-{each.getpeername()[1]}"] = _counted(each)
    return found


def held(before: dict[str, list[int]], now: dict[str, list[int]], *, upstream: int, server: int) -> int:
    """Bytes that were read from who listens at one port and not written to who called at the other, between two looks.

    Protocols and framing must be the same on both sides.
    """
    read = sum(count[0] - before.get(name, [0])[0] for name, count in now.items() if name.endswith(f"-{upstream}"))
    return read - sum(count[1] for name, count in now.items() if name.startswith(f"{server}-") and name not in before)


def _counted(each: socket.socket) -> list[int]:
    info = each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    acked, received = struct.unpack_from("QQ", info, _ACKED_AND_RECEIVED)
    return [received - _queued(each, termios.FIONREAD), acked + _queued(each, termios.TIOCOUTQ)]


def _queued(each: socket.socket, direction: int) -> int:
    (number,) = struct.unpack("i", fcntl.ioctl(each, direction, b"\0" * 4))
    return int(number)
