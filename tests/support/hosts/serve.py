"""`python serve.py FD`: uvicorn on a socket that the test has opened, so that no port is guessed."""

import socket
import sys

import uvicorn

if __name__ == "__main__":
    # Who is nearest is who has to be trusted, so no header may replace the address of the peer.
    server = uvicorn.Server(uvicorn.Config("observed:app", proxy_headers=False, log_level="warning"))
    server.run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
