"""Users and groups by name or number, and the step that cannot be taken back."""

from __future__ import annotations

import os
import pwd
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from apart import NOBODY, run_apart
from prefork.errors import ConfigurationError, PermissionProblem
from prefork.system import identity
from prefork.system.identity import (
    Identity,
    _prove,
    check_readable,
    find_group,
    find_user,
    group_name,
    resolve,
    root_warning,
    user_name,
)
from prefork.system.paths import Step

NO_ENTRY = 3_000_111  # a number that no machine of ours has given to anybody


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """Directories made here are open unless a test shuts them, whatever the umask of the run."""
    before = os.umask(0o022)
    yield
    os.umask(before)


BECOME = """
from prefork.system.identity import *
import resource
def regain():
    for change in (lambda: os.setuid(0), lambda: os.seteuid(0), lambda: os.setgid(0), lambda: os.setgroups([0])):
        try:
            change()
        except PermissionError:
            continue
        print("REGAINED")
identity = resolve(sys.argv[1], sys.argv[2] or None)
become(identity)
regain()
print(os.getresuid(), os.getresgid(), sorted(os.getgroups()) == list(identity.groups))
"""


def test_names_and_numbers_lead_to_numbers_and_back() -> None:
    """A number needs no entry; a name does."""
    assert (find_user("root"), find_group("root")) == (0, 0)
    assert (find_user("0"), find_group(str(NO_ENTRY))) == (0, NO_ENTRY)
    assert (user_name(0), group_name(0)) == ("root", "root")
    assert (user_name(NO_ENTRY), group_name(NO_ENTRY)) == (str(NO_ENTRY), str(NO_ENTRY))


@pytest.mark.parametrize("text", ["no-such-one", "", "-1", "4294967295", "99999999999999", "٣"])
def test_what_is_nobody_is_refused_by_name(text: str) -> None:
    """Unknown names, and numbers that chown(2) and setuid(2) take for "unchanged" or not at all."""
    with pytest.raises(ConfigurationError, match="user"):
        find_user(text)
    with pytest.raises(ConfigurationError, match="group"):
        find_group(text)


def test_nothing_asked_is_nothing_to_do() -> None:
    """Without user and group the process stays who it is."""
    assert resolve(None, None) is None


@pytest.mark.root
def test_a_user_without_entry_is_in_nobodys_group() -> None:
    """A number needs no entry: the group that has no rights anywhere stands in for the primary one, never root's."""
    assert resolve(str(NO_ENTRY), None) == Identity(NO_ENTRY, 65_534, (65_534,), str(NO_ENTRY), group_name(65_534))


@pytest.mark.root
def test_an_ordinary_user_without_entry_is_who_it_is() -> None:
    """As in a container that is started with a number: to ask for that one changes nothing."""
    script = (
        "import os\nfrom prefork.system.identity import resolve\n"
        f"os.setgroups([])\nos.setresgid(77, 77, 77)\nos.setresuid(*[{NO_ENTRY}] * 3)\n"
        f"print(resolve('{NO_ENTRY}', None))"
    )
    assert run_apart(script) == "None"


@pytest.mark.root
def test_root_gets_the_whole_identity() -> None:
    """Primary group by default, supplementary ones from the database, numbers without an entry as they are."""
    nobody = pwd.getpwnam("nobody")
    assert resolve("nobody", None) == Identity(NOBODY, nobody.pw_gid, (nobody.pw_gid,), "nobody", group_name(NOBODY))
    assert resolve(str(NO_ENTRY), "12345") == Identity(NO_ENTRY, 12345, (12345,), str(NO_ENTRY), "12345")
    grouped = resolve("nobody", "daemon")
    assert grouped is not None
    assert (grouped.gid, grouped.group, grouped.groups) == (1, "daemon", (1,))
    only_group = resolve(None, "daemon")
    assert only_group is not None
    assert (only_group.uid, only_group.gid) == (0, 1)


@pytest.mark.root
def test_without_root_only_the_present_identity_is_granted() -> None:
    """Asking for oneself is no error and changes nothing; asking for another is one, with the mend."""
    script = "from prefork.system.identity import *\nprint(resolve(*(name or None for name in sys.argv[1:])))"
    assert run_apart(script, "nobody", "nogroup", user=NOBODY) == "None"
    assert run_apart(script, "nobody", "", user=NOBODY) == "None"
    for user, group in (("root", ""), ("nobody", "root"), ("", "daemon")):
        answer = run_apart(script, user, group, user=NOBODY)
        assert answer.startswith("PermissionProblem only root can run the application as user ")
        assert "this process is nobody, nogroup. Start it as root, or leave user and group out" in answer


@pytest.mark.root
@pytest.mark.parametrize(
    ("user", "group", "gid"), [("nobody", "", NOBODY), ("nobody", "daemon", 1), ("4711", "12", 12)]
)
def test_become_is_complete_and_for_good(user: str, group: str, gid: int) -> None:
    """All three ids of both kinds, the groups too, and no way back by any of the calls."""
    uid = NOBODY if user == "nobody" else int(user)
    assert run_apart(BECOME, user, group) == f"{(uid,) * 3} {(gid,) * 3} True"


@pytest.mark.root
def test_become_root_is_possible_if_asked_for() -> None:
    """An operator may say root; the groups are set all the same."""
    script = (
        "from prefork.system.identity import *\n"
        "become(resolve('root', 'daemon'))\n"
        "print(os.getresgid(), os.getresuid())"
    )
    assert run_apart(script) == "(1, 1, 1) (0, 0, 0)"


@pytest.mark.root
@pytest.mark.tool("setpriv")
def test_a_way_back_to_root_is_found(folder: Path) -> None:
    """With "no setuid fixup" the capability survives the change of user: become refuses to go on."""
    odd = ("setpriv", "--securebits", "+no_setuid_fixup")
    assert run_apart(BECOME, "nobody", "", command=odd).startswith(
        "PermissionProblem user nobody could become root again: the process keeps CAP_SETUID"
    )


def test_become_without_privilege_says_what_is_needed() -> None:
    """The kernel's refusal, with the capabilities by name."""
    script = "from prefork.system.identity import *\nbecome(Identity(1, 1, (1,), 'daemon', 'daemon'))"
    answer = run_apart(script, user=NOBODY if os.geteuid() == 0 else None)
    assert answer.startswith("PermissionProblem cannot become user daemon (uid 1, gid 1): Operation not permitted;")
    assert "CAP_SETUID" in answer


def test_an_identity_that_was_not_taken_on_is_noticed() -> None:
    """What the kernel says afterwards counts, not that no call failed."""
    with pytest.raises(PermissionProblem, match=r"asked to become .*4711.*, the kernel made it"):
        _prove(Identity(4711, 4711, (4711,), "4711", "4711"))


STRANGER = Identity(NO_ENTRY, NO_ENTRY, (NO_ENTRY,), str(NO_ENTRY), str(NO_ENTRY))


def test_the_first_component_that_refuses_is_named(folder: Path) -> None:
    """Above, at the end, file or directory: its path, mode and owner, and the command that mends it."""
    (folder / "home" / "app").mkdir(parents=True)
    program = folder / "home" / "app" / "program"
    program.touch()
    program.chmod(0o755)
    text = folder / "home" / "app" / "text"
    text.touch(mode=0o644)
    check_readable(STRANGER, str(program), "the interpreter")
    check_readable(STRANGER, str(text), "the application")
    check_readable(STRANGER, str(program.parent), "the application's directory")

    def problem(path: Path, what: str) -> str:
        with pytest.raises(PermissionProblem) as raised:
            check_readable(STRANGER, str(path), what)
        return str(raised.value)

    program.chmod(0o700)
    text.chmod(0o600)
    assert f"as below /srv, or chmod o+rx {program}" in problem(program, "the interpreter")
    assert f"as below /srv, or chmod o+r {text}" in problem(text, "the application")
    assert f"it may not execute {program} (mode 0700" in problem(program, "the interpreter")
    assert f"it may not read {text} (mode 0600" in problem(text, "the application")
    program.parent.chmod(0o711)
    assert f"it may not read {program.parent} (mode 0711" in problem(program.parent, "the directory")
    (folder / "home").chmod(0o700)
    message = problem(program, "the interpreter")
    assert message.startswith(f"the interpreter {program} is out of reach for user {NO_ENTRY}: it may not enter")
    assert f"{folder}/home (mode 0700, {user_name(os.geteuid())}:" in message
    mend = f"Mend: put the interpreter where user {NO_ENTRY} can read it, as below /srv, or chmod o+x {folder}/home"
    assert message.endswith(mend)


@pytest.mark.root
@pytest.mark.parametrize("path", ["/root", "/etc/ssl/private", "/home/someone"])
def test_homes_and_the_systems_directories_are_not_opened(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No mend changes the mode of what others rely on being shut."""
    shut = os.stat_result((0o40700, 1, 1, 1, 0, 0, 0, 0, 0, 0))
    monkeypatch.setattr(identity, "walk", lambda _path: iter((Step(path, shut),)))
    monkeypatch.setattr(identity, "first_refusal", lambda _path, _person, _wanted: Step(path, shut))
    with pytest.raises(PermissionProblem) as raised:
        check_readable(STRANGER, f"{path}/app", "the application's directory")
    assert str(raised.value).endswith(f"directory where user {NO_ENTRY} can read it, as below /srv")


def test_the_way_through_links_counts(folder: Path) -> None:
    """A virtual environment's interpreter is a link: both where it stands and where it leads must be open."""
    (folder / "real").mkdir(mode=0o700)
    (folder / "real" / "python").touch(mode=0o755)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(folder / "real" / "python")
    with pytest.raises(PermissionProblem, match=re.escape(f"may not enter {folder}/real (")):
        check_readable(STRANGER, str(folder / "bin" / "python"), "the interpreter")


def test_what_does_not_exist_is_named(folder: Path) -> None:
    """The component that is missing, not only the whole path."""
    with pytest.raises(ConfigurationError, match=re.escape(f"{folder}/no: No such file")):
        check_readable(STRANGER, str(folder / "no" / "where"), "the application")


def test_what_is_only_read_need_not_be_executable(folder: Path) -> None:
    """A module with x for its owner alone is imported all the same; one without r is not."""
    module = folder / "wsgi.py"
    module.touch()
    module.chmod(0o744)
    check_readable(STRANGER, str(module), "the application", read_only=True)
    module.chmod(0o711)
    with pytest.raises(PermissionProblem, match=f"may not read {module} .*, or chmod o\\+r {module}$"):
        check_readable(STRANGER, str(module), "the application", read_only=True)


def test_ourselves_can_read_what_runs() -> None:
    """Without an identity the process is judged as it is."""
    check_readable(None, sys.executable, "the interpreter")


@pytest.mark.root
def test_what_we_may_not_look_at_ourselves_is_said(folder: Path) -> None:
    """An ordinary user gets the component, too."""
    (folder / "shut" / "in").mkdir(parents=True)
    (folder / "shut").chmod(0o700)
    script = "from prefork.system.identity import *\ncheck_readable(None, sys.argv[1], 'the application')"
    answer = run_apart(script, str(folder / "shut" / "in"), user=NOBODY)
    assert answer.startswith(f"PermissionProblem the application {folder}/shut/in is out of reach for user nobody: ")
    assert f"it may not enter {folder}/shut (mode 0700, root:root)" in answer


def test_only_root_is_warned() -> None:
    """An application as root deserves a loud word, whichever way it came about."""
    assert (root_warning(None) is None) is (os.geteuid() != 0)
    assert root_warning(STRANGER) is None
    warning = root_warning(Identity(0, 0, (0,), "root", "root"))
    assert warning is not None
    assert "will run as root" in warning


def test_the_title_is_what_others_see() -> None:
    """In /proc/PID/cmdline, as ps(1) reads it."""
    script = (
        "from prefork.system.identity import set_title\n"
        "set_title('prefork: master /run/app/app.sock')\n"
        "print(open('/proc/self/cmdline').read().rstrip('\\0'))"
    )
    assert run_apart(script) == "prefork: master /run/app/app.sock"
