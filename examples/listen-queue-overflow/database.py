"""A "database" that everybody shares: a TCP server that answers in a millisecond, unless somebody makes it stall.

user 7    →  one line, at once
report    →  one line, after five seconds in which nobody else is answered (a lock on a table, a vacuum, a backup …)
"""

from __future__ import annotations

import socketserver
import sys
import threading
import time

STALL = 5.0

the_table = threading.Lock()


class Session(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            with the_table:
                time.sleep(STALL if line.startswith(b"report") else 0.001)
            self.wfile.write(b"ok " + line)


class Database(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256


if __name__ == "__main__":
    with Database(("127.0.0.1", int(sys.argv[1])), Session) as database:
        print(f"database on port {database.server_address[1]}", flush=True)
        database.serve_forever()
