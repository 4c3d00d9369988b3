"""The page where a process shows its stack: by itself, by force, and what strangers write there."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.processes import PATIENCE, environment, wait_until
from prefork.system.processes import FORCE_SIGNAL
from prefork.system.stacks import (
    Frame,
    Stack,
    StackPage,
    activity,
    clear_page,
    is_ours,
    open_page,
    page_size,
    read_page,
    read_stack,
    watched_import,
)


@pytest.fixture
def page() -> Iterator[int]:
    descriptor = open_page()
    yield descriptor
    with contextlib.suppress(OSError):
        os.close(descriptor)


# by itself


def test_a_stack_from_the_inside_out(page: int) -> None:
    """Each call with its file, line and name; of whose request it is."""
    shown = StackPage(page)

    class Nested:
        def inner(self) -> None:
            shown.show(sys._getframe(), 17, "req-1")

    def outer() -> None:
        Nested().inner()

    outer()
    stack = read_stack(page)
    assert stack is not None
    assert (stack.number, stack.request_id, stack.forced) == (17, "req-1", False)
    inner, calls, test = stack.frames[:3]
    assert {frame.file for frame in (inner, calls, test)} == {__file__}
    assert inner.function.endswith("Nested.inner")
    assert calls.function.endswith("outer")
    assert (test.function, test.line - calls.line) == ("test_a_stack_from_the_inside_out", 2)
    assert str(stack).splitlines()[2] == f"{__file__}:{test.line} test_a_stack_from_the_inside_out"
    assert read_stack(page) is None  # it was taken


def test_our_own_frames_are_left_out(page: int) -> None:
    """Around the application, whichever is innermost; an application of ours is one."""
    import prefork
    import prefork.worker.loop

    home = str(Path(prefork.__file__).parent)
    ours = ("worker/loop.py", "worker/exchange.py", "protocol/fastcgi.py", "system/stacks.py", "hooks.py", "log.py")
    assert [name for name in ours if not is_ours(f"{home}/{name}")] == []
    assert [name for name in ("demo.py", "errors.py", "status/app.py") if is_ours(f"{home}/{name}")] == []
    assert not is_ours("/elsewhere" + home + "/worker/loop.py")
    scope = {"page": StackPage(page), "sys": sys}
    exec(compile("def show(): page.show(sys._getframe(), 1, '')", f"{home}/worker/loop.py", "exec"), scope)
    scope["show"]()  # type: ignore[operator]
    stack = read_stack(page)
    assert stack is not None
    assert stack.frames[0].function == "test_our_own_frames_are_left_out"


def test_the_demo_is_no_plumbing(page: int) -> None:
    """What a stack keeps of the package: its applications, nothing of what runs around them or below."""
    import prefork

    home = Path(prefork.__file__).parent
    names = ("demo.py", "worker/exchange.py", "status/app.py", "worker/loop.py", "zygote.py", "server.py")
    lines = [f'  File "{home / name}", line 7 in call' for name in names]
    os.write(page, "\n".join(["request 5 x", *lines, ""]).encode())
    stack = read_stack(page)
    assert stack is not None
    assert [frame.file for frame in stack.frames] == [str(home / "demo.py"), str(home / "status/app.py")]
    os.write(page, "\n".join(["Timeout (0:00:01)!", *lines, ""]).encode())
    assert [line.partition('"')[2].partition('"')[0] for line in read_page(page).splitlines()] == [
        str(home / "demo.py"),
        str(home / "status/app.py"),
    ]


def test_a_deep_stack_is_cut_in_its_middle(page: int) -> None:
    """What is innermost and what is outermost matter most."""

    def deeper(depth: int) -> None:
        if depth:
            deeper(depth - 1)
        else:
            StackPage(page).show(sys._getframe(), 1, "")

    deeper(500)
    stack = read_stack(page)
    assert stack is not None
    assert 115 <= len(stack.frames) <= 120  # who runs the tests may stand outermost, in code without a file
    assert stack.frames[0].line > stack.frames[1].line
    assert stack.frames[99].function.endswith("deeper")
    assert not stack.frames[-1].function.endswith("deeper")


def test_no_name_breaks_a_line(page: int) -> None:
    """Whatever a file is called; undecodable bytes of a path, line feeds, quotes, great length."""
    for name in ("a\nb", 'a", line 7 in b', "\udcff", "é", "x" * 100_000):
        scope = {"page": StackPage(page), "sys": sys}
        exec(compile("page.show(sys._getframe(), 1, '')", name, "exec"), scope)
        stack = read_stack(page)
        assert stack is not None
        assert stack.frames[1].function == "test_no_name_breaks_a_line"
        assert (len(stack.frames[0].file) <= 400, stack.frames[0].function) == (True, "<module>")


def test_nobody_there(page: int) -> None:
    """A worker that runs nothing has a stack without frames, which is not the same as no stack."""
    assert (read_stack(page), page_size(page)) == (None, 0)
    StackPage(page).show(None, 0, "")
    assert page_size(page) > 0
    assert read_stack(page) == Stack(())


def test_a_number_that_somebody_else_has_by_now(page: int, tmp_path: Path) -> None:
    """An application that closes all descriptors, and opens one of its own: nothing is written there, ever."""
    shown = StackPage(page)
    shown.let_force()
    os.close(page)
    victim = os.open(tmp_path / "theirs", os.O_RDWR | os.O_CREAT)
    os.dup2(victim, page)
    shown.show(sys._getframe(), 1, "")
    os.kill(os.getpid(), FORCE_SIGNAL)  # and it is not fatal
    shown.close()
    assert os.fstat(victim).st_size == 0
    assert os.fstat(page)
    os.close(victim)
    shown.show(sys._getframe(), 1, "")


def test_a_copy_shows_nothing(page: int) -> None:
    """In a process that is no worker any more, being asked does no harm."""
    shown = StackPage(page)
    shown.let_force()
    shown.close()
    os.kill(os.getpid(), FORCE_SIGNAL)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(page)
    clear_page(page)
    assert (page_size(page), read_stack(page)) == (0, None)


# by force

# Not in Python: faulthandler crashes now and then there, which is why those are asked.
HANGS = {
    "with the lock of the interpreter": "sum(range(10**12))",
    "without it": "hashlib.pbkdf2_hmac('sha256', b'a', b'b', 2 * 10**9)",
}

HANG = """
def hang():
    print("hangs", flush=True)
    {}

import hashlib, sys
sys.path.insert(0, sys.argv[2])
from prefork.system.stacks import StackPage
StackPage(int(sys.argv[1])).let_force()
hang()
"""


@contextlib.contextmanager
def hanging(page: int, statement: str, folder: Path) -> Iterator[int]:
    """A process that hangs in a statement, in line 4 of its file; its pid."""
    script = folder / "hangs.py"
    script.write_text(HANG.format(statement))
    command = [sys.executable, str(script), str(page), str(Path(__file__).parents[2])]
    process = subprocess.Popen(command, pass_fds=[page], env=environment({}), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "hangs\n"
        yield process.pid
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("statement", HANGS.values(), ids=HANGS)
def test_a_process_that_hangs_in_c(page: int, statement: str, tmp_path: Path) -> None:
    """Wherever it does: file, line and function."""
    with hanging(page, statement, tmp_path) as pid:
        # Two hundredths of a second after it said so, it is long past its Python.
        begun = wait_until(lambda: activity(pid))
        wait_until(lambda: (found := activity(pid)) and found.ran > begun.ran + 0.02)
        os.kill(pid, FORCE_SIGNAL)

        def settled() -> int:
            size = page_size(page)
            return size if os.pread(page, size, 0).count(b"<module>") else 0

        wait_until(settled)
        stack = read_stack(page, forced=True)
    script = str(tmp_path / "hangs.py")
    assert stack == Stack((Frame(script, 4, "hang"), Frame(script, 10, "<module>")), forced=True)


# what strangers write


@given(st.binary(max_size=3_000) | st.text(max_size=500).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_a_stack(data: bytes) -> None:
    """Bounded in every direction, and the page is empty afterwards."""
    page = open_page()
    os.write(page, data)
    stack = read_stack(page)
    assert (stack is None) == (data == b"")
    assert page_size(page) == 0
    if stack is not None:
        assert len(stack.frames) <= 120
        assert 0 <= stack.number < 10**19
    os.close(page)


def test_more_than_anybody_wants_to_know(page: int) -> None:
    """A page is read up to its bound, and cleared."""
    os.write(page, b"request 5 x\n" + b'  File "/a", line 99999999999999999999 in b\n' * 50_000)
    stack = read_stack(page)
    assert stack is not None
    assert (stack.number, len(stack.frames), stack.frames[0].line) == (5, 120, 999_999_999)
    assert page_size(page) == 0


def test_two_stacks_are_the_first(page: int) -> None:
    """One that was forced, and the answer that came after all."""
    os.write(page, b'Current thread 0x1 (most recent call first):\n  File "/a", line 1 in a\n')
    os.write(page, b'request 5 x\n  File "/b", line 2 in b\n')
    assert read_stack(page, forced=True) == Stack((Frame("/a", 1, "a"),), forced=True)


# what a process does


def test_activity(page: int, tmp_path: Path) -> None:
    """Who runs gets older; who is stopped is; who is not there is nobody."""
    with hanging(page, "while True: pass", tmp_path) as pid:
        first = wait_until(lambda: (found := activity(pid)) and found.waits_for_processor and found)
        assert not first.stopped
        wait_until(lambda: (found := activity(pid)) and found.ran > first.ran)
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: (found := activity(pid)) and found.stopped)
    assert activity(2**22 + 1) is None


def test_activity_where_the_kernel_counts_less(page: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In ticks of the clock."""
    import builtins

    whole = builtins.open

    def without(path: str, *arguments: object, **options: object) -> object:
        if str(path).endswith("schedstat"):
            raise FileNotFoundError(path)
        return whole(path, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(builtins, "open", without)
    with hanging(page, "while True: pass", tmp_path) as pid:
        wait_until(lambda: (found := activity(pid)) and found.ran > 0.05, PATIENCE)


def test_the_watchdog_of_an_import_is_gone_with_it(page: int) -> None:
    """To the last: whoever counts the threads afterwards counts none of ours."""
    before = set(os.listdir("/proc/self/task"))
    for _ in range(200):
        with watched_import(page, 60.0):
            assert len(set(os.listdir("/proc/self/task")) - before) == 1
        assert set(os.listdir("/proc/self/task")) <= before
    assert read_page(page) == ""


def test_an_import_that_ends_late_but_in_time_leaves_no_stack(page: int) -> None:
    """What the watchdog wrote of it would be taken for the stack of the next one that hangs."""
    with watched_import(page, 0.01):
        wait_until(lambda: page_size(page) > 0, PATIENCE)
    assert read_page(page) == ""
