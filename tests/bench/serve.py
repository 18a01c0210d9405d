"""One worker of uvicorn with uvloop and httptools, no access log, on one core, over a socket that is handed in.

Run as `python -m bench.serve bench.bare:app --fd N --core N`. A contestant differs from another in its app alone.
"""

import argparse
import socket

from bench import processes


def main() -> None:
    """Serve one app until the parent ends us."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("app")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--core", type=int, required=True)
    options = parser.parse_args()
    processes.settle_in(options.core)

    import uvicorn

    settings = uvicorn.Config(
        options.app,
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        log_level="warning",
        backlog=2048,
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(settings).run(sockets=[socket.socket(fileno=options.fd)])


if __name__ == "__main__":
    main()
