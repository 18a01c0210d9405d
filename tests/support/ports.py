"""Free loopback ports for servers that are started as processes of their own."""

import socket


def free_port() -> int:
    """A port without a listener at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
