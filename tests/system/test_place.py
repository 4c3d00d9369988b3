"""Where a socket can be made, and what is said where it cannot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from apart import NOBODY, run_apart
from prefork.errors import ConfigurationError, PermissionProblem
from prefork.system.identity import user_name
from prefork.system.place import check_length, check_place, own_directory, warn_of_place


def problem_of(path: Path | str) -> str:
    with pytest.raises((ConfigurationError, PermissionProblem)) as problem:
        check_place(str(path))
    return str(problem.value)


def test_an_ordinary_directory_will_do(folder: Path) -> None:
    """A directory of our own is accepted, through a link too."""
    (folder / "link").symlink_to(folder)
    check_place(str(folder / "app.sock"))
    check_place(str(folder / "link" / "app.sock"))


def test_107_bytes_are_the_limit(folder: Path) -> None:
    """107 bytes are accepted, 108 are not; bytes count, not characters; the message has both numbers."""
    room = 107 - len(str(folder)) - 1
    check_place(str(folder / ("x" * room)))
    assert "108 bytes long" in problem_of(folder / ("x" * (room + 1)))
    message = problem_of(folder / ("ä" * (room - 1)))
    assert f"{len(str(folder)) + 1 + 2 * (room - 1)} bytes long" in message
    assert "at most 107" in message
    assert "/run/app/app.sock" in message
    check_length("y" * 107, "abstract name")
    with pytest.raises(ConfigurationError, match=r"the abstract name y+ is 108 bytes"):
        check_length("y" * 108, "abstract name")


def test_a_missing_directory_is_named_with_its_mend(folder: Path) -> None:
    """The whole directory, the component that is missing, and the command that makes it."""
    message = problem_of(folder / "some" / "where" / "app.sock")
    assert f"directory {folder}/some/where does not exist ({folder}/some is missing)" in message
    assert "install -d -o " in message
    assert message.endswith(f"{folder}/some/where`")
    assert "is missing)" not in problem_of(folder / "some" / "app.sock")


def test_under_run_systemd_is_the_mend_too() -> None:
    """A directory under /run comes and goes with the unit."""
    assert "RuntimeDirectory=prefork-no-such in the" in problem_of("/run/prefork-no-such/app.sock")


def test_a_file_on_the_way_is_named(folder: Path) -> None:
    """A component that is no directory, in the middle and at the end."""
    (folder / "file").touch()
    assert problem_of(folder / "file" / "app.sock").startswith(f"{folder}/file, on the way")
    assert problem_of(folder / "file" / "x" / "app.sock").startswith(f"{folder}/file, on the way")
    (folder / "loop").symlink_to("loop")
    assert "cannot be used: Too many levels" in problem_of(folder / "loop" / "app.sock")


@pytest.mark.root
@pytest.mark.tool("unshare")
def test_a_read_only_file_system_is_said_to_be_one(folder: Path) -> None:
    """Not permissions but the mount is what must change."""
    script = "from prefork.system.place import check_place\ncheck_place(sys.argv[1])"
    mount = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o ro none "$0" && exec "$@"', str(folder))
    message = run_apart(script, str(folder / "app.sock"), command=mount)
    assert message == (
        f"PermissionProblem the socket's directory {folder} is on a read-only file system: choose another, as /run"
    )


@pytest.mark.root
def test_a_directory_of_others_is_refused_with_its_looks(folder: Path) -> None:
    """Not writable, and not to be entered: the component, its mode and owner, and the mend."""
    (folder / "shut" / "in").mkdir(parents=True)
    (folder / "shut").chmod(0o750)
    script = "from prefork.system.place import check_place\ncheck_place(sys.argv[1])"
    written = run_apart(script, str(folder / "none.sock"), user=NOBODY)
    entered = run_apart(script, str(folder / "shut" / "in" / "none.sock"), user=NOBODY)
    assert written.startswith(f"PermissionProblem nobody may not write to {folder} (mode 0755, root:root)")
    assert entered.startswith(f"PermissionProblem nobody may not enter {folder}/shut (mode 0750, root:root)")
    mend = "as root `install -d -o nobody -g nogroup -m 0755 /run/none` (systemd: RuntimeDirectory=none), and name"
    assert mend in written
    assert mend in entered


@pytest.mark.root
@pytest.mark.parametrize("directory", ["/run", "/var/lib", "/root"])
def test_no_directory_that_exists_is_given_away(directory: str) -> None:
    """The mend makes a new one, and calls the file what it is."""
    script = "from prefork.system.place import check_place\ncheck_place(sys.argv[1], 'control socket')"
    said = run_apart(script, f"{directory}/no-such-thing.sock", user=NOBODY)
    assert "where the control socket shall be: make a directory of its own" in said
    assert "-m 0755 /run/no-such-thing`" in said
    assert "chmod" not in said


def test_the_directory_of_its_own_is_new_or_ours(folder: Path) -> None:
    """One that exists and is not ours is not named in a command; one that is, needs none."""
    assert f"-m 0755 {folder}/app` (systemd: A=app), and name {folder}/app/app.log" in own_directory(
        "/x/app.log", str(folder), "A"
    )
    (folder / "app").touch()
    assert f"{folder}/prefork-app`" in own_directory("/x/app.log", str(folder), "A")
    (folder / "prefork-app").mkdir()
    assert own_directory("/x/app.log", str(folder)) == f"name {folder}/prefork-app/app.log, where it may"
    (folder / "prefork-app").rmdir()
    (folder / "prefork-app").touch()
    (folder / f"prefork-app-{user_name(os.geteuid())}").touch()
    assert own_directory("/x/app.log", str(folder)) == f"name a place in a directory of its own, below {folder}"


@pytest.mark.parametrize(
    ("path", "warned"),
    [
        ("/tmp/app.sock", True),
        ("/tmp/app/app.sock", True),
        ("/var/tmp/app.sock", True),
        ("/tmpfiles/app.sock", False),
        ("/run/app/app.sock", False),
    ],
)
def test_places_that_are_cleaned_are_warned_of(path: str, warned: bool) -> None:
    """Everything under /tmp and /var/tmp, and nothing else."""
    warnings = warn_of_place(path)
    assert len(warnings) == warned
    assert all("systemd-tmpfiles" in warning and path in warning for warning in warnings)


def test_a_link_into_a_cleaned_place_is_warned_of(folder: Path) -> None:
    """What counts is where the directory really is."""
    assert warn_of_place(os.path.join("/proc/self/root/tmp", "app.sock"))


@pytest.mark.root
def test_who_must_make_a_missing_directory(folder: Path) -> None:
    """Below what is ours we make it ourselves; elsewhere root makes it, and it becomes ours."""
    script = "from prefork.system.place import create\nprint(create(sys.argv[1]))"
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    wanted = "`install -d -o nobody -g nogroup -m 0755 {0}/a/b`"
    said = [run_apart(script, str(folder / name / "a" / "b"), user=NOBODY) for name in ("open", "shut")]
    assert said == [
        f"create it with {wanted.format(folder / 'open')}",
        f"create it, as root, with {wanted.format(folder / 'shut')}",
    ]
