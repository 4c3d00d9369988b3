"""Configuration files: tables, includes, and every mistake with its file, its key and its mend."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefork.config.arguments import CommandLine, Task
from prefork.config.file import Written, read_files
from prefork.config.load import from_arguments
from prefork.config.options import BY_KEY
from prefork.errors import ConfigurationError, PermissionProblem, UsageError

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Make files below an empty current directory; the name of the last is returned."""
    monkeypatch.chdir(tmp_path)

    def write(**texts: str) -> str:
        name = ""
        for key, text in texts.items():
            name = key.replace("__", "/")
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_text(text)
        return name

    return write


def read(path: str = "a") -> Written:
    return read_files(path, "--config")


def failure(path: str = "a", kind: type[Exception] = ConfigurationError) -> str:
    with pytest.raises(kind) as caught:
        read(path)
    return str(caught.value)


def texts(written: Written, pool: str | None = None) -> dict[str, tuple[str, ...]]:
    source = written.server if pool is None else written.pools[pool]
    return {key: said.texts for key, said in source.items()}


# --- what is read -----------------------------------------------------------------------------------------------------


def test_server_and_pools(write: Write) -> None:
    """Keys at the top are the server's, each table is a pool, and everything knows where it stands."""
    write(a='log_level = "debug"\n[pool.shop]\napp = "shop"\nbacklog = 7\n[pool."b.c"]\nsocket = "@b"\n')
    written = read()
    assert texts(written) == {"log_level": ("debug",)}
    assert texts(written, "shop") == {"name": ("shop",), "app": ("shop",), "backlog": ("7",)}
    assert texts(written, "b.c") == {"name": ("b.c",), "socket": ("@b",)}
    assert (written.server["log_level"].name, written.server["log_level"].origin) == ("a: log_level", "a")
    backlog = written.pools["shop"]["backlog"]
    assert (backlog.name, backlog.origin) == ("a: [pool.shop] backlog", "a: [pool.shop]")


@pytest.mark.parametrize(
    ("line", "key", "expected"),
    [
        ("backlog = 1_000", "backlog", ("1000",)),
        ('backlog = "1000"', "backlog", ("1000",)),
        ("boot_timeout = 1.5", "boot_timeout", ("1.5",)),
        ('boot_timeout = "5m"', "boot_timeout", ("5m",)),
        ("socket_mode = 0o660", "socket_mode", ("660",)),
        ('socket_mode = "0660"', "socket_mode", ("0660",)),
        ("umask = 0", "umask", ("0",)),
        ("user = 33", "user", ("33",)),
        ('warmup = "/a"', "warmup", ("/a",)),
        ('warmup = ["/a", "/b c"]', "warmup", ("/a", "/b c")),
        ("warmup = []", "warmup", ()),
        ('pythonpath = "/a:/b"', "pythonpath", ("/a:/b",)),
        ('pythonpath = ["/a:b"]', "pythonpath", ("/a:b",)),
        ('env = { A = "1 2", B = 3, C = 1.5 }', "env", ("A=1 2", "B=3", "C=1.5")),
        ('[pool.p.env]\nA = "1"', "env", ("A=1",)),
    ],
)
def test_values(line: str, key: str, expected: tuple[str, ...], write: Write) -> None:
    """Texts, numbers, lists and tables become what the command line would say."""
    write(a=f"[pool.p]\n{line}\n")
    if key == "umask":
        assert "expected octal digits" in failure()
        write(a="[pool.p]\n# umask = 22\numask = 0o0\n")
    assert texts(read(), "p")[key] == expected


def test_workers(write: Write) -> None:
    """Workers are short for two options here, too."""
    write(a="[pool.p]\nworkers = 3\n")
    assert texts(read(), "p") == {"name": ("p",), "pm": ("static",), "max_children": ("3",)}


@pytest.mark.parametrize("text", ["", "# nothing\n", "\ufeff[pool]\n", "\r\n[pool]\r\n"])
def test_nothing_said(text: str, write: Write) -> None:
    """A file may say nothing, begin with a byte order mark and have any line ends."""
    write(a=text)
    assert read() == Written()


# --- includes ---------------------------------------------------------------------------------------------------------


def test_includes(write: Write) -> None:
    """Patterns count from the file they stand in, are read in their order, and by name within one."""
    write(
        a='include = ["sub/z", "sub/*.toml"]\nlog_level = "info"\n[pool.a]\n',
        sub__z='include = "deeper/*"\n[pool.z]\n',
        **{"sub__2.toml": "[pool.two]\n", "sub__10.toml": "[pool.ten]\n", "sub/deeper__x": "[pool.x]\n"},
    )
    assert list(read().pools) == ["a", "z", "x", "ten", "two"]


def test_include_from_elsewhere(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current directory is no matter, and neither are characters of a pattern in the directory's own name."""
    write(**{"[x]__a": 'include = "*.toml"\n', "[x]__b.toml": "[pool.b]\n"})
    path = os.path.abspath("[x]/a")
    monkeypatch.chdir("/")
    assert list(read(path).pools) == ["b"]
    assert read(path).pools["b"]["name"].name == f"{os.path.dirname(path)}/b.toml: [pool.b]"


def test_empty_pattern(write: Write) -> None:
    """A pattern that matches nothing is a directory that is still empty."""
    write(a='include = "conf.d/*.toml"\n')
    assert read() == Written()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": 'include = "b"'}, "a: include b: expected a TOML file, found: No such file or directory"),
        ({"a": 'include = "b"', "b": 'include = "a"'}, "b: include a leads back to itself: {0}/a → {0}/b → {0}/a"),
        ({"a": 'include = "a"'}, "a: include a leads back to itself: {0}/a → {0}/a; take one of them out"),
        ({"a": 'include = ["b", "*"]', "b": ""}, "a: include a leads back to itself"),
        ({"a": 'include = ["b", "./b"]', "b": ""}, "a: include ./b: that file is read already, by a: include; include"),
        ({"a": "include = 3"}, "a: include: expected a path, a pattern or a list of them, found 3"),
        ({"a": 'include = [""]'}, "a: include: expected a path, a pattern or a list of them, found ['']"),
        ({"a": 'include = "\\u0000"'}, "a: include: expected a path"),
        (
            {"a": 'include = "b"\nlog_level = "info"', "b": 'log_level = "debug"'},
            "b: log_level is set already, by a: log_level: expected it in one file only",
        ),
        (
            {"a": 'include = "b"\n[pool.p]', "b": "[pool.p]"},
            "b: [pool.p] is there already, as a: [pool.p]: expected each pool in one file only",
        ),
    ],
)
def test_wrong_includes(files: dict[str, str], message: str, write: Write) -> None:
    """Nothing is read twice, nothing is redefined, nothing that is named is missing."""
    write(**files)
    assert message.format(os.getcwd()) in failure()


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backlog = 3", "a: backlog: this is an option of a pool: expected it below a line [pool.NAME]"),
        ('app = "x"', "a: app: this is an option of a pool"),
        ('name = "x"', "a: name: this is an option of a pool"),
        ('log_levle = "info"', "a: log_levle: unknown option; did you mean log_level?"),
        ("inclde = 1", "a: inclde: unknown option; did you mean include?"),
        ("xyzzy = 1", "a: xyzzy: unknown option; see prefork-serve --help"),
        ("[pools.shop]", "a: pools: unknown table; a pool is written [pool.shop]"),
        ("[shop]\nbacklog = 3", "a: shop: unknown table; a pool is written [pool.shop]"),
        ("pool = 3", "a: pool: expected tables [pool.NAME], found 3"),
        ("[pool]\nbacklog = 3", "a: [pool] backlog: expected a table for every pool, as [pool.www], found 3"),
        (
            '[pool.p]\nlog_level = "info"',
            "a: [pool.p] log_level: this is an option of the whole server: expected it at",
        ),
        ('[pool.p]\ninclude = "x"', "a: [pool.p] include: this is an option of the whole server"),
        ('[pool.p]\nname = "q"', "a: [pool.p] name: a pool has its name from its table; write [pool.q] instead"),
        ("[pool.p]\nmax-children = 3", "a: [pool.p] max-children: unknown option; did you mean max_children?"),
        ('[pool.p]\nlisten = "x"', "a: [pool.p] listen: unknown option; did you mean socket?"),
        ("[pool.p]\nxyzzy = 3", "a: [pool.p] xyzzy: unknown option; see prefork-serve --help"),
        ("[pool.p]\npm.max_children = 3", "a: [pool.p] pm.max_children: unknown option; did you mean max_children?"),
        ("[pool.p]\npm.max_request = 3", "a: [pool.p] pm.max_request: unknown option; did you mean max_requests?"),
        ("[pool.p]\n[pool.p.pm]\nx = 1\nmax_requests = 3", "a: [pool.p] pm.max_requests: unknown option; did you mea"),
        ("[pool.p]\nlisten.mode = '0660'", "a: [pool.p] listen.mode: unknown option; did you mean socket_mode?"),
        ("[pool.p]\naccess.log = 'a'", "a: [pool.p] access.log: unknown option; did you mean access_log?"),
        ("[pool.p]\npm.status_path = '/s'", "a: [pool.p] pm.status_path: unknown option; did you mean status_path?"),
        ("[pool.p]\nfoo.bar = 1", "a: [pool.p] foo: unknown option; see prefork-serve --help"),
        ("[pool.p]\npm.x = 3", "a: [pool.p] pm: expected a text or a number, found a table"),
        ("[pool.p]\nmax_children = true", "a: [pool.p] max_children: expected a number from 1 to 10000, found true"),
        ("[pool.p]\nuser = true", "a: [pool.p] user: expected a text or a number, found true"),
        ("[pool.p]\nbacklog = 2020-01-01", "a: [pool.p] backlog: expected a number from 1 to 2147483647, found "),
        ("[pool.p]\nbacklog = [3]", "a: [pool.p] backlog: expected a number from 1 to 2147483647, found [3]"),
        ("[pool.p]\nharakiri = 3", "a: [pool.p] harakiri: unknown option; did you mean request_terminate_timeout?"),
        (
            '[pool.p]\nsocket = ["a", "b"]',
            "a: [pool.p] socket: expected one address (every other one has a pool of its",
        ),
        ("[pool.p]\nwarmup = false", "a: [pool.p] warmup: expected a text or a list of texts, found false"),
        ("[pool.p]\nwarmup = [[1]]", "a: [pool.p] warmup: expected a text or a list of texts, found [[1]]"),
        ('[pool.p]\nenv = "A=1"', "a: [pool.p] env: expected a table of texts, as { NAME = \"value\" }, found 'A=1'"),
        ("[pool.p]\nenv = { A = true }", "a: [pool.p] env: expected a table of texts, as { NAME"),
        (
            "[pool.p]\numask = 22",
            'a: [pool.p] umask: expected octal digits, found a decimal number; write "022" (in quotes) or 0o22',
        ),
        ("pool.p = {backlog = 3, umask= 27}", "a: [pool.p] umask: expected octal digits, found a decimal number"),
        (
            "[pool.p]\nworkers = 2\nmax_children = 3",
            "a: [pool.p] workers 2 and a: [pool.p] max_children 3 both set the number of workers: expected one of",
        ),
        ("socket = /run/x", "a: expected TOML, found: Invalid value (at line 1, column 10). A text stands in quotes"),
        ("[pool.p]\n[pool.p]", "a: expected TOML, found: Cannot declare ('pool', 'p') twice (at line 2"),
        ("a = " + "[" * 5_000, "a: expected TOML, found: "),
    ],
)
def test_mistakes(text: str, message: str, write: Write) -> None:
    """Every mistake is named with its file, its table, its key, what was expected and what was found."""
    write(a=text)
    assert message in failure()


def test_missing_file(write: Write) -> None:
    """A file that is not there is named with who asked for it."""
    write()
    assert failure("b") == "--config b: expected a TOML file, found: No such file or directory"
    assert failure(".") == "--config .: expected a TOML file, found: Is a directory"


def test_no_text(write: Write) -> None:
    """Bytes that are no UTF-8 are told with where they stand."""
    Path(write(a="")).write_bytes(b"# ok\nname = '\xff'\n")
    assert failure() == "a: expected UTF-8, found a byte that is none at offset 13"


def test_forbidden_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that may not be read is a matter of permissions."""
    write(a="")

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert failure(kind=PermissionProblem) == (
        "--config a: Permission denied; let the user who starts the server read it"
    )


def test_switches_take_only_true_and_false(write: Write) -> None:
    """A number is no switch."""
    write(a="daemonize = 1\n")
    assert "a: daemonize: " in failure()


# --- anything at all --------------------------------------------------------------------------------------------------

LITERALS = st.sampled_from(
    [
        "1",
        "-1",
        "0o22",
        "22",
        "1.5",
        "nan",
        "true",
        "[]",
        "[1, 'a']",
        "[[]]",
        "{}",
        "{ a = 1 }",
        "'a'",
        "'30s'",
        "1979-05-27",
    ]
)
KEYS = st.sampled_from([*BY_KEY, "include", "pool", "name", "pm.max_children", "x", "pool.q.backlog", "env.A"])
LINES = st.one_of(
    st.sampled_from(["[pool.a]", "[pool.b]", "[pool]", "[x]", "[pool.a.env]", "[[pool]]", "# x", "["]),
    st.tuples(KEYS, LITERALS).map(" = ".join),
    st.text(max_size=8),
)


@settings(deadline=None)
@given(lines=st.lists(LINES, max_size=8))
def test_nothing_else_is_raised(lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever a file says: a configuration, or one of the errors promised, which names the file."""
    path = tmp_path_factory.getbasetemp() / "anything.toml"
    path.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass", newline="")
    try:
        found = len(from_arguments(CommandLine(Task.SERVE, str(path), {}), {}).config.pools) * str(path)
    except (ConfigurationError, UsageError) as problem:
        found = str(problem)
    assert str(path) in found
