"""nginx, and a server whose socket is another group's: run by test_users.py where no other nginx can be seen."""

from __future__ import annotations

import sys
from pathlib import Path

from harness import Nginx, Server


def main(folder: Path, web: str, application: str) -> None:
    """Assert that the start says who cannot connect, to what, and the mend; and that it is so."""
    socket = folder / "run" / "app.sock"
    with Nginx(str(socket), folder=folder, user=web) as nginx:
        nginx.wait_worker()
        options = ["--user", application, "--socket-mode", "0660", "--workers", "1"]
        with Server("prefork.demo", *options, folder=folder, socket=str(socket)) as server:
            report = server.wait_event("reach")
            assert (report["level"], report["nginx"]) == ("warning", "blocked")
            assert all(part in report["message"] for part in (web, str(socket), "--socket-group")), report
            assert nginx.fetch().status == 502
            assert any("Permission denied" in line for line in nginx.errors())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
