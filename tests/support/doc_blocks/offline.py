"""Run a Python file as a script that can reach this machine and no other.

Used as `python offline.py FILE`: a connection, datagram or name look-up beyond the loopback
addresses raises, so an example that needs the network fails with or without one.
"""

import ipaddress
import runpy
import sys

_WATCHED = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo"})


class NetworkNeededError(RuntimeError):
    """The script tried to reach another machine."""


def _is_here(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if host in {None, "", "localhost"}:
        return True
    try:
        address = ipaddress.ip_address(str(host))
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event not in _WATCHED:
        return
    target = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
    # A path of a Unix socket is no tuple, nor is the missing address of a connected datagram.
    host = target[0] if isinstance(target, tuple) else target
    is_address = isinstance(target, tuple) or event == "socket.getaddrinfo"
    if is_address and not _is_here(host):
        message = f"{event} to {host!r}: examples run without a network"
        raise NetworkNeededError(message)


def main() -> None:
    """Run the file named by the first argument as `__main__`."""
    script = sys.argv[1]
    sys.argv = [script]
    sys.addaudithook(_watch)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
