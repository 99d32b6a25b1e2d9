"""A program: passes on all between connections to a port of this host, which it prints, and HOST PORT.

    python relay.py HOST PORT

A connection to it stays open when HOST closes the one there. It ends when its standard input does, that is with the
process that started it; a process of its own, for the one that needs it may hold Python's lock while it waits.
"""

import contextlib
import os
import socket
import sys
import threading


def main(host: str, port: int) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    print(server.getsockname()[1], flush=True)
    threading.Thread(target=accept, args=(server, host, port), daemon=True).start()
    sys.stdin.read()
    os._exit(0)


def accept(server: socket.socket, host: str, port: int) -> None:
    while True:
        near, _ = server.accept()
        try:
            far = socket.create_connection((host, port))
        except OSError:  # nobody listens there yet: the client tries again
            near.close()
            continue
        threading.Thread(target=pump, args=(near, far, True), daemon=True).start()
        threading.Thread(target=pump, args=(far, near, False), daemon=True).start()


def pump(source: socket.socket, target: socket.socket, closes: bool) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        if closes:
            target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
