"""The rule of access, against its table and against the kernel itself."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from apart import NOBODY, run_apart
from prefork.system.paths import ENTER, READ, WRITE, Person, Step, _parse_acl, absolute, first_refusal, walk

OWNER = Person(1000, frozenset({1000}))
MEMBER = Person(2000, frozenset({2000, 50}))
OTHER = Person(3000, frozenset({3000}))
ROOT = Person(0, frozenset({0}))


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """Directories made here are open unless a test shuts them, whatever the umask of the run."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def names(path: Path | str) -> list[str]:
    return [step.path for step in walk(str(path))]


@pytest.mark.parametrize(
    ("person", "mode", "granted"),
    [
        (OWNER, 0o200, True),
        (OWNER, 0o060, False),  # the owner's bits decide, even if the group's would grant
        (OWNER, 0o006, False),
        (MEMBER, 0o020, True),
        (MEMBER, 0o602, False),  # the group's bits decide, even if the others' would grant
        (OTHER, 0o002, True),
        (OTHER, 0o660, False),
        (ROOT, 0o000, True),
    ],
)
def test_the_first_class_that_matches_decides(person: Person, mode: int, granted: bool) -> None:
    """Owner, then group, then others; root passes."""
    assert person.granted(mode, 1000, 50, WRITE) is granted


def test_the_triad_is_named_as_chmod_names_it(folder: Path) -> None:
    """A mend must change the bits that count for this person."""
    status = folder.stat()
    assert Person(status.st_uid, frozenset()).triad(status) == "u"
    assert Person(3000, frozenset({3000, status.st_gid})).triad(status) == "g"
    assert Person(3000, frozenset({3000})).triad(status) == "o"


# posix_acl tags: 1 owner, 2 user, 4 owning group, 8 group, 16 mask, 32 others
ACL = ((1, 7, 0), (2, 7, 3000), (4, 1, 50), (8, 7, 60), (16, 5, 0), (32, 1, 0))


@pytest.mark.parametrize(
    ("person", "wanted", "granted"),
    [
        (OWNER, WRITE, True),
        (OTHER, READ, True),  # a named user
        (OTHER, WRITE, False),  # cut by the mask
        (MEMBER, ENTER, True),
        (MEMBER, READ, False),
        (Person(4000, frozenset({60})), READ, True),  # a named group
        (Person(4000, frozenset({60})), WRITE, False),
        (Person(4000, frozenset({50, 60})), READ, True),  # one of several groups is enough
        (Person(5000, frozenset({5000})), ENTER, True),
        (Person(5000, frozenset({5000})), READ, False),
    ],
)
def test_an_acl_names_further_users_and_groups(person: Person, wanted: int, granted: bool) -> None:
    """acl(5): named users and groups come before others, and the mode's group bits are their mask."""
    assert person.granted(0o751, 1000, 50, wanted, ACL) is granted


def test_a_real_acl_is_read(folder: Path) -> None:
    """The usual mend by setfacl(1) is recognised: one named user may enter."""
    home = folder / "home"
    home.mkdir(mode=0o700)
    step = Step(str(home), home.lstat())
    assert not OTHER.may(step, ENTER)
    entries = [(1, 7, 2**32 - 1), (2, 1, 3000), (4, 0, 2**32 - 1), (16, 1, 2**32 - 1), (32, 0, 2**32 - 1)]
    raw = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(home, "system.posix_acl_access", raw)
    except OSError:
        return  # a file system without ACLs: nothing to promise
    step = Step(str(home), home.lstat())
    assert OTHER.may(step, ENTER)
    assert not OTHER.may(step, READ)
    assert not Person(3001, frozenset({3001})).may(step, ENTER)


def test_an_acl_of_another_form_is_none() -> None:
    """Cut, of another version, or with a rest: what is understood is used, the mode is the fallback."""
    assert _parse_acl(b"\2\0") == ()
    assert _parse_acl(struct.pack("<IHHI", 3, 1, 7, 0)) == ()
    assert _parse_acl(struct.pack("<IHHI", 2, 1, 7, 0) + b"rest") == ((1, 7, 0),)


def test_a_way_is_walked_through_its_links(folder: Path) -> None:
    """Relative and absolute links, dots, double slashes and parents lead where the kernel goes."""
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").touch()
    (folder / "absolute").symlink_to(folder / "a")
    (folder / "a" / "relative").symlink_to("../a/./b")
    (folder / "file").symlink_to("absolute/relative/file")
    root = names(folder)
    assert names(f"{folder}//absolute/./relative/file")[-1] == str(folder / "a" / "b" / "file")
    assert names(folder / "file")[: len(root)] == root
    assert names(folder / "file")[-2:] == [str(folder / "a" / "b"), str(folder / "a" / "b" / "file")]
    assert names(f"{folder}/a/b/..")[-1] == str(folder / "a")
    assert names("/..") == ["/", "/"]


def test_a_way_that_ends_early_names_the_component(folder: Path) -> None:
    """A missing component, a file in the middle and a loop are the errors of the kernel, with the name."""
    (folder / "file").touch()
    (folder / "loop").symlink_to("loop")
    for path, component, error in [
        ("no/way", "no", FileNotFoundError),
        ("file/x", "file/x", NotADirectoryError),
        ("loop/x", "loop", OSError),
    ]:
        with pytest.raises(error) as problem:
            names(folder / path)
        assert problem.value.filename == str(folder / component)


def test_the_first_refusal_is_found(folder: Path) -> None:
    """Directories need x, the end needs what is asked; a refusal comes before what lies behind it."""
    (folder / "open" / "shut" / "deep").mkdir(parents=True)
    (folder / "open" / "file").touch(mode=0o644)
    (folder / "open" / "shut").chmod(0o700)
    stranger = Person(3_000_000, frozenset({3_000_000}))

    def refusal(path: str, wanted: int) -> str | None:
        step = first_refusal(str(folder / path), stranger, wanted)
        return None if step is None else step.path

    assert refusal("open/file", READ) is None
    assert refusal("open/file", WRITE) == str(folder / "open" / "file")
    assert refusal("open/shut/deep", ENTER) == str(folder / "open" / "shut")
    assert refusal("open/shut/missing", ENTER) == str(folder / "open" / "shut")
    with pytest.raises(FileNotFoundError):
        refusal("open/missing", ENTER)


@pytest.mark.root
def test_the_kernel_agrees(folder: Path) -> None:
    """For every mode and three relations to the file, access(2) as nobody gives the same answer."""
    places = []
    for uid, gid in ((NOBODY, 0), (0, NOBODY), (0, 0)):
        for mode in range(0o1000):
            if len({mode >> 6, mode >> 3 & 7, mode & 7}) < 3:
                continue
            file = folder / f"{uid}-{gid}-{mode}"
            file.touch()
            os.chown(file, uid, gid)
            file.chmod(mode)
            places.append(file)
    script = (
        "for name in sorted(os.listdir(sys.argv[1])):\n"
        "    print(*(int(os.access(f'{sys.argv[1]}/{name}', wanted)) for wanted in (1, 2, 4)), sep='')"
    )
    kernel = run_apart(script, str(folder), user=NOBODY).splitlines()
    nobody = Person(NOBODY, frozenset({NOBODY}))
    ours = [
        "".join(str(int(nobody.may(Step(str(file), file.lstat()), wanted))) for wanted in (1, 2, 4))
        for file in sorted(places, key=lambda file: file.name)
    ]
    assert ours == kernel


@pytest.mark.parametrize(
    ("path", "whole"),
    [
        ("app.sock", "/srv/app.sock"),
        ("./app.sock", "/srv/app.sock"),
        ("././a/./app.sock", "/srv/a/app.sock"),
        ("../app.sock", "/srv/../app.sock"),
        ("a/.././.b/c./d", "/srv/a/../.b/c./d"),
        ("/run/./app.sock", "/run/app.sock"),
    ],
)
def test_absolute(path: str, whole: str) -> None:
    """Components that mean nothing go; those that lead up stay, for links."""
    assert absolute(path, "/srv") == whole
    assert absolute("x") == os.path.join(os.getcwd(), "x")


def test_absolute_without_a_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole path needs none: the one that a server was started in may be deleted."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert absolute("/run/./app.sock") == "/run/app.sock"
