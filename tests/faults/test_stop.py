"""Stopping: what waits is answered, what is late is ended, and what is not ours is left alone."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness import FastCGIResponse, Server, alive, connect, encode_request, environment, fastcgi, replace, wait_until


def ask_all(server: Server, paths: list[str]) -> tuple[list[threading.Thread], list[FastCGIResponse]]:
    """Ask for every path at once, each from a thread of its own."""
    answers: list[FastCGIResponse] = []
    threads = [threading.Thread(target=lambda path=path: answers.append(server.ask(path=path))) for path in paths]
    for thread in threads:
        thread.start()
    return threads, answers


def queue_length(path: str) -> int:
    """Connections waiting at a listening socket, as ss(8) counts them."""
    shown = subprocess.run(["ss", "-xl"], capture_output=True, text=True, check=True).stdout
    return int(next(line.split()[2] for line in shown.splitlines() if path in line.split()))


def hold(folder: Path) -> int | None:
    """The end of the FIFO that keeps a request from ending until it is closed; None while nobody reads."""
    try:
        return os.open(folder / "fifo", os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None


@pytest.mark.tool("ss")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT, signal.SIGINT])
def test_a_graceful_stop_answers_all_that_waited_and_refuses_the_rest(folder: Path, number: signal.Signals) -> None:
    """One worker, one running request and twenty in the queue: all answered; a new connect is refused at once."""
    with Server("faulty", "--workers", "1", folder=folder) as server:
        os.mkfifo(folder / "fifo")
        threads, answers = ask_all(server, [f"/hold?fifo={folder}/fifo"])
        held = wait_until(lambda: hold(folder))
        late, late_answers = ask_all(server, ["/slow?s=0.02"] * 20)
        wait_until(lambda: queue_length(server.address) == 20)
        server.send(number)
        server.wait_event("stopping")
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            wait_until(lambda: connect(server.address).close())
        os.close(held)
        assert server.wait_exit() == 0
        for thread in threads + late:
            thread.join()
        assert [(answer.status, answer.complete) for answer in answers + late_answers] == [(200, True)] * 21


def test_a_peer_that_goes_on_asking_does_not_keep_its_worker(folder: Path) -> None:
    """One request after another on a kept connection: the stop lets one be answered, and then the worker leaves."""
    with Server("faulty", "--workers", "1", folder=folder) as server, connect(server.address) as peer:
        answers = 0
        while ask_again(peer):
            answers += 1
            if answers == 20:
                server.send(signal.SIGTERM)
        assert answers >= 20
        server.wait_event("stopping")
        assert server.wait_exit(10) == 0


def ask_again(peer: socket.socket) -> bool:
    """One more request on a connection that is kept; False when it is over."""
    try:
        peer.sendall(encode_request(path="/hello", keep=True))
        data = b""
        while part := peer.recv(65_536):
            data += part
            if b"\x01\x03\x00\x01\x00\x08" in data:  # END_REQUEST
                return True
    except ConnectionError:
        pass
    return False


def test_the_queue_is_answered_even_if_every_worker_dies_meanwhile(folder: Path) -> None:
    """While connections wait, dead workers are replaced, also during a stop."""
    with Server("faulty", "--workers", "1", folder=folder) as server:
        os.mkfifo(folder / "fifo")
        threads, answers = ask_all(server, [f"/hold?fifo={folder}/fifo"])
        held = wait_until(lambda: hold(folder))
        late, late_answers = ask_all(server, ["/die", "/hello", "/hello"])
        wait_until(lambda: queue_length(server.address) == 3)
        server.send(signal.SIGTERM)
        server.wait_event("stopping")
        os.close(held)
        assert server.wait_exit() == 0
        for thread in threads + late:
            thread.join()
        assert sorted(answer.status for answer in answers + late_answers) == [0, 200, 200, 200]


def test_the_queue_is_answered_even_if_everybody_dies_meanwhile(folder: Path) -> None:
    """The process that forks the workers is replaced as well, if somebody waits for one."""
    with Server("faulty", "--workers", "1", folder=folder) as server:
        os.mkfifo(folder / "fifo")
        threads, answers = ask_all(server, [f"/hold?fifo={folder}/fifo"])
        held = wait_until(lambda: hold(folder))
        late, late_answers = ask_all(server, ["/hello", "/hello"])
        wait_until(lambda: queue_length(server.address) == 2)
        server.send(signal.SIGTERM)
        server.wait_event("stopping")
        for pid in sorted(server.titles(), key=lambda pid: "zygote" not in server.titles()[pid]):
            os.kill(pid, signal.SIGKILL)
        assert server.wait_exit() == 0
        os.close(held)
        for thread in threads + late:
            thread.join()
        assert sorted(answer.status for answer in answers + late_answers) == [0, 200, 200]


def test_a_request_past_graceful_timeout_is_ended_with_the_reason(folder: Path) -> None:
    """TERM at graceful_timeout, KILL a second later; the stop is clean all the same."""
    with Server("faulty", "--workers", "1", "--graceful-timeout", "300ms", folder=folder) as server:
        threads, answers = ask_all(server, [f"/slow?s=60&began={folder}/began"])
        wait_until((folder / "began").exists)
        assert server.stop() == 0
        for thread in threads:
            thread.join()
        assert [answer.complete for answer in answers] == [False]
        died = server.find("worker_died")
        assert [event["cause"] for event in died] == ["killed by SIGKILL: graceful_timeout (0.3 s)"]
        assert died[0]["request"] == f"GET /slow?s=60&began={folder}/began"


def test_the_second_interrupt_stops_now(folder: Path) -> None:
    """INT twice does not wait for a running request."""
    with Server("faulty", "--workers", "2", folder=folder) as server:
        threads, answers = ask_all(server, [f"/slow?s=60&began={folder}/{number}" for number in (1, 2)])
        wait_until(lambda: (folder / "1").exists() and (folder / "2").exists())
        server.send(signal.SIGINT)
        server.wait_event("stopping", phase="draining")
        assert server.stop(signal.SIGINT) == 0
        for thread in threads:
            thread.join()
        assert [answer.complete for answer in answers] == [False, False]


def test_workers_run_the_applications_exit_handlers(folder: Path) -> None:
    """Once for each worker and once for the process that imported the application."""
    said = folder / "said"
    with Server("faulty", "--workers", "3", folder=folder, env={"FAULTY_EXIT": str(said)}) as server:
        server.wait_workers(3)  # whoever has no listener yet when the stop comes is ended without ceremony
        assert server.stop() == 0
    assert said.read_text() == "bye\n" * 4


def test_a_stop_while_the_application_is_imported_ends_it(folder: Path) -> None:
    """Nothing was served yet: there is nothing to wait for."""
    (folder / "hangs.py").write_text("import time, pathlib\npathlib.Path('importing').touch()\ntime.sleep(1000)\n")
    server = Server("hangs", folder=folder).start()
    wait_until((folder / "importing").exists)
    assert server.stop() == 0
    server.assert_nothing_left()


def test_a_signal_without_a_meaning_stops_nothing_and_says_what_to_do(folder: Path) -> None:
    """It is refused with a reason, and the server goes on."""
    with Server("faulty", "--workers", "1", folder=folder) as server:
        server.wait_ready()
        server.send(signal.SIGUSR2)
        reason = "to reload: SIGHUP or preforkctl reload; a new version of prefork wants a restart"
        server.wait_event("signal_refused", signal="SIGUSR2", message=reason)
        assert server.ask(path="/slow?s=0").status == 200


def test_an_inherited_listener_goes_on_accepting_for_its_owner(folder: Path) -> None:
    """It is neither unlinked nor shut down, and what waits in its queue is left to whoever comes next."""
    with socket.socket(socket.AF_UNIX) as listener:
        path = str(folder / "given.sock")
        listener.bind(path)
        listener.listen(8)
        number = listener.fileno()
        for _ in range(2):
            with Server(
                "faulty", "--workers", "2", folder=folder, socket=f"fd://{number}", pass_fds=[number]
            ) as server:
                assert fastcgi(path, path="/hello").body == b"hello"
                assert server.stop() == 0
        with connect(path) as waiting:
            accepted, _ = listener.accept()
            accepted.close()
            assert waiting.recv(1) == b""


def test_a_socket_that_was_replaced_by_somebody_else_is_not_unlinked(folder: Path) -> None:
    """Only our own inode is removed."""
    server = Server("faulty", folder=folder).start()
    server.wait_ready()
    assert server.path is not None
    replace(server.path, "somebody else's")
    assert server.stop() == 0
    assert server.path.read_text() == "somebody else's"
    server.log.close()


def test_killing_the_master_ends_everything_and_the_next_start_succeeds_at_once(folder: Path) -> None:
    """kill -9: every process gone within a second, and the path is taken over without a wait."""
    server = Server("faulty", "--workers", "4", folder=folder).start()
    server.wait_ready()
    wait_until(lambda: len(server.titles()) == 5)
    pids = list(server.titles())
    threads, _ = ask_all(server, [f"/slow?s=60&began={folder}/began"])
    wait_until((folder / "began").exists)
    server.process.kill()
    with Server("faulty", folder=folder) as successor:  # at once: the old workers may still be dying
        assert not any(alive(pid) for pid in pids)
        assert successor.ask(path="/hello").body == b"hello"
    server.process.wait()
    assert server.log.wait_end(1.0)
    for thread in threads:
        thread.join()
    server.log.close()


@pytest.mark.root
@pytest.mark.tool("unshare")
def test_as_pid_one_it_reaps_orphans_and_stops_on_a_signal(folder: Path) -> None:
    """In a pid namespace of its own: orphans of the application do not pile up as zombies."""
    # unshare(1) makes the server the first process of a new pid namespace.
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-m", "prefork", "faulty"]
    command += ["--socket", str(folder / "one.sock"), "--workers", "1", "--log-format", "json"]
    with subprocess.Popen(command, cwd=folder, env=environment({}), stderr=subprocess.PIPE, text=True) as first:
        try:
            assert first.stderr is not None
            for line in first.stderr:
                if '"serving"' in line:
                    break
            path = str(folder / "one.sock")
            for number in range(5):
                fastcgi(path, path=f"/fork?report={folder}/{number}&s=0.01")
            wait_until(lambda: all((folder / str(number)).exists() for number in range(5)))
            (shim_child,) = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
            wait_until(lambda: len(Path(f"/proc/{shim_child}/task/{shim_child}/children").read_text().split()) == 2)
            os.kill(int(shim_child), signal.SIGTERM)
            assert first.wait(30) == 0
        finally:
            first.kill()
