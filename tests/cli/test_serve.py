"""prefork-serve as a command: what it says and with which status it ends before anything serves."""

from __future__ import annotations

import pwd
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from harness import Server, environment, run
from prefork.cli.serve import check_python, check_system, main
from prefork.errors import ConfigurationError


def serve(*words: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "prefork", *words, folder=folder, env=environ)


def test_help(folder: Path) -> None:
    """--help is 0, on standard output, and does not load the server."""
    program = (
        "import sys; from prefork.cli.serve import main\n"
        "try: main(['--help'])\n"
        "finally: print([name for name in sys.modules if name in ('prefork.server', 'structlog', 'asyncio')])"
    )
    done = run(sys.executable, "-c", program, folder=folder)
    assert done.stdout.startswith("usage: prefork-serve APP --socket ADDRESS [options]\n")
    assert done.stdout.endswith("\n[]\n")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "environ", "status", "message"),
    [
        ((), {}, 64, "no application: expected APP as module:callable"),
        (("prefork.demo",), {}, 64, "no socket: expected one of\n  --socket"),
        (("prefork.demo", "--sokcet", "a"), {}, 64, "unknown option --sokcet; did you mean --socket?"),
        (("prefork.demo", "--backlog", "many"), {"SOCK_PATH": "a"}, 78, "--backlog: expected a number from 1 to"),
        (("prefork.demo",), {"SOCK_PATH": "a", "PREFORK_BACKLOG": "-1"}, 78, "PREFORK_BACKLOG: expected a number"),
        (("demo.py",), {"SOCK_PATH": "a"}, 78, "APP: expected module:callable, module:factory() or module"),
        (("prefork.demo", "--socket", ":8000"), {}, 78, "127.0.0.1:8000"),
    ],
)
def test_mistakes(words: tuple[str, ...], environ: dict[str, str], status: int, message: str, folder: Path) -> None:
    """A mistake is one message under the command's name, the right status, no traceback, and leaves nothing behind."""
    done = serve(*words, folder=folder, **environ)
    assert done.returncode == status
    assert done.stderr.startswith("prefork-serve: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(folder.iterdir()) == []


def test_which_pool(folder: Path) -> None:
    """What is wrong with one of several pools is told with its name, and the others let go."""
    pool = '[pool.{0}]\napp = "prefork.demo"\nsocket = "{0}"\n'
    (folder / "f").write_text(pool.format("a") + pool.format("b") + 'socket_group = "nonesuch"\n')
    done = serve("--config", "f", folder=folder)
    assert done.returncode == 78
    assert f"prefork-serve: pool b: socket {folder}/b: socket_group: there is no group 'nonesuch'" in done.stderr
    (folder / "f").write_text(pool.format("a") + pool.format("b") + 'user = "nonesuch"\n')
    assert "prefork-serve: pool b: there is no user 'nonesuch'" in serve("--config", "f", folder=folder).stderr


# --- --check and --show-config ----------------------------------------------------------------------------------------


def test_check(folder: Path) -> None:
    """--check of what would serve is 0, with a line for each pool, and leaves nothing behind."""
    done = serve("prefork.demo", "--socket", "a.sock", "--socket", f"@{folder}", "--check", folder=folder)
    assert (done.returncode, done.stdout) == (0, "pool www: ok\npool www-2: ok\n")
    assert list(folder.iterdir()) == []


def test_check_tells_what_is_odd(folder: Path) -> None:
    """Warnings are on standard error, and no reason to fail."""
    done = serve("prefork.demo", "--socket", "a.sock", "--check", "--backlog", "2147483647", folder=folder)
    assert done.returncode == 0
    assert "prefork-serve: pool www: warning: backlog 2147483647 is more than the kernel allows" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("prefork.demo", "--socket", "missing/a.sock"),
            "the socket's directory {0}/missing does not exist: create it",
        ),
        (
            ("prefork.demo", "--socket", "file"),
            "{0}/file is a file, not a socket: move it away, or choose another path",
        ),
        (("prefork.demo", "--socket", "x" * 120), "bytes long, and a Unix socket's may have at most 107"),
        (("prefork.demo", "--socket", "@" + "x" * 120), "bytes long, and a Unix socket's may have at most 107"),
        (
            ("prefork.demo", "--socket", "a", "--socket-group", "nonesuch"),
            "socket {0}/a: socket_group: there is no group 'nonesuch': create it",
        ),
        (
            ("prefork.demo", "--socket", "a", "--socket-owner", "nonesuch"),
            "socket {0}/a: socket_owner: there is no user 'nonesuch': create it",
        ),
        (("prefork.demo", "--socket", "a", "--user", "nonesuch"), "there is no user 'nonesuch': create it"),
        (("prefork.demo", "--socket", "a", "--chdir", "elsewhere"), "the application's directory {0}/elsewhere cannot"),
        (
            ("prefork.demo", "--socket", "a", "--rlimit-files", "1073741824"),
            "rlimit_files 1073741824: the kernel allows",
        ),
        (("nonesuch", "--socket", "a"), "nonesuch: there is no module 'nonesuch' in {0}"),
        (("prefork.demo:nonesuch", "--socket", "a"), "prefork.demo:nonesuch: prefork.demo has no 'nonesuch'"),
    ],
)
def test_check_fails(words: tuple[str, ...], message: str, folder: Path) -> None:
    """Whatever would keep a start from serving is 78, says which pool and why, and leaves nothing behind."""
    (folder / "file").touch()
    done = serve(*words, "--check", folder=folder)
    assert (done.returncode, done.stdout) == (78, "")
    assert "prefork-serve: pool www: " in done.stderr
    assert message.format(folder) in done.stderr
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_check_shows_the_traceback(folder: Path) -> None:
    """The application's own traceback is there, and the other pools are looked at all the same."""
    (folder / "broken.py").write_text("raise LookupError('the reason')\n")
    (folder / "two.toml").write_text(
        '[pool.bad]\napp = "broken"\nsocket = "a"\n[pool.good]\napp = "prefork.demo"\nsocket = "b"\n'
    )
    done = serve("--config", "two.toml", "--check", folder=folder)
    assert (done.returncode, done.stdout) == (78, "pool good: ok\n")
    assert 'broken.py", line 1, in <module>' in done.stderr
    assert "prefork-serve: pool bad: broken: importing it raised LookupError: the reason\n" in done.stderr
    assert not (folder / "__pycache__").exists()


def test_check_beside_a_running_server(folder: Path) -> None:
    """A server that serves this configuration is no obstacle and notices nothing."""
    with Server("prefork.demo", folder=folder) as server:
        done = serve("prefork.demo", "--socket", server.address, "--check", folder=folder)
        assert (done.returncode, done.stdout) == (0, "pool www: ok\n")
        assert server.ask().status == 200


def test_check_of_the_server_itself(folder: Path) -> None:
    """What belongs to no pool has a line of its own, if it is wrong."""
    done = serve("prefork.demo", "--socket", "a", "--check", "--pid-file", "missing/pid", folder=folder)
    assert (done.returncode, done.stdout) == (78, "pool www: ok\n")
    assert f"prefork-serve: server: the pid file's directory {folder}/missing does not exist" in done.stderr


def test_check_tells_the_warnings_of_loading(folder: Path) -> None:
    """What was found odd in the configuration is said once."""
    done = serve("prefork.demo", "--socket", "a", "--check", "--access-log-format", "json", folder=folder)
    assert done.returncode == 0
    assert done.stderr.count("prefork-serve: warning: --access-log-format json means nothing for the pool www") == 1


def test_check_of_a_port(folder: Path) -> None:
    """A port is looked at like a path: one that is free or serves is fine, one that cannot be had is not."""
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        port = somebody.getsockname()[1]
        done = serve("prefork.demo", "--socket", f"127.0.0.1:{port}", "--check", folder=folder)
        assert (done.returncode, done.stdout) == (0, "pool www: ok\n")
    done = serve("prefork.demo", "--socket", f"127.0.0.1:{port}", "--check", folder=folder)
    assert (done.returncode, done.stdout) == (0, "pool www: ok\n")
    done = serve("prefork.demo", "--socket", "192.0.2.1:8000", "--check", folder=folder)
    assert done.returncode == 78
    assert "this machine has no address 192.0.2.1" in done.stderr
    done = serve("prefork.demo", "--socket", f"0.0.0.0:{port}", "--protocol", "fastcgi", "--check", folder=folder)
    assert done.returncode == 78
    assert "expected allowed_addresses (the proxy's address)" in done.stderr


@pytest.mark.root
def test_check_warns_of_root_once(folder: Path) -> None:
    """As a start does: the pool of the status pages runs as the first one, of which it is said."""
    done = serve("prefork.demo", "--socket", "a", "--status-listen", "b", "--check", folder=folder)
    assert (done.returncode, done.stderr.count("will run as root")) == (0, 1)


@pytest.mark.root
def test_check_imports_as_the_right_user(folder: Path) -> None:
    """The application is imported as the user it will run as; what that user may not read is told."""
    (folder / "who.py").write_text("import os\nraise LookupError(os.getuid())\n")
    done = serve("who", "--socket", "a", "--user", "nobody", "--check", folder=folder)
    assert f"importing it raised LookupError: {pwd.getpwnam('nobody').pw_uid}" in done.stderr
    folder.chmod(0o700)
    done = serve("who", "--socket", "a", "--user", "nobody", "--check", folder=folder)
    assert done.returncode == 78
    assert "is out of reach for user nobody" in done.stderr


@pytest.mark.root
@pytest.mark.parametrize("where", ["", "lib"])
@pytest.mark.parametrize(
    ("shut", "mode", "verb"),
    [("shop/wsgi.py", 0o600, "read"), ("shop/__init__.py", 0o600, "read"), ("shop", 0o700, "enter")],
)
def test_an_application_that_its_user_cannot_read(folder: Path, where: str, shut: str, mode: int, verb: str) -> None:
    """77 at a start, naming the component, be it in the application's directory or another to import from."""
    package = folder / where / "shop"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "wsgi.py").write_text("def application(environ, start_response): ...\n")
    (folder / where / shut).chmod(mode)
    words = ["shop.wsgi", "--socket", "a", "--user", "nobody", *(["--pythonpath", where] if where else [])]
    done = serve(*words, folder=folder)
    assert done.returncode == 77
    assert f"is out of reach for user nobody: it may not {verb} {folder / where / shut} (mode {mode:04o}" in done.stderr
    assert "Traceback" not in done.stderr
    assert serve(*words, "--check", folder=folder).returncode == 78


@pytest.mark.root
def test_a_module_in_the_shadow_of_a_package(folder: Path) -> None:
    """Python imports the package: a file of the same name beside it is nothing that its user must read."""
    (folder / "shop").mkdir()
    (folder / "shop" / "__init__.py").write_text("def application(environ, start_response): ...\n")
    (folder / "shop.py").touch(0o600)
    done = serve("shop", "--socket", "a", "--user", "nobody", "--check", folder=folder)
    assert (done.returncode, done.stdout) == (0, "pool www: ok\n")


def test_show(folder: Path) -> None:
    """--show-config is 0 and TOML on standard output, and starts nothing; the application need not exist."""
    (folder / "f.toml").write_text('[pool.shop]\napp = "nonesuch"\nsocket = "a"\n')
    done = serve("--show-config", "--backlog", "3", folder=folder, PREFORK_CONFIG="f.toml")
    assert (done.returncode, done.stderr) == (0, "")
    shown = tomllib.loads(done.stdout)["pool"]["shop"]
    assert (shown["app"], shown["backlog"]) == ("nonesuch", 3)
    assert 'app = "nonesuch"                          # f.toml: [pool.shop]\n' in done.stdout
    assert "backlog = 3                               # command line\n" in done.stdout


def test_show_what_is_no_text(folder: Path) -> None:
    """A path that is no UTF-8 is shown as the bytes it has."""
    command: list[str | bytes] = [
        sys.executable,
        "-m",
        "prefork",
        "prefork.demo",
        "--socket",
        b"a\xff",
        "--show-config",
    ]
    done = subprocess.run(command, cwd=folder, env=environment({}), capture_output=True, check=True)
    assert b'socket = "a\xff"' in done.stdout


def test_undecodable_argument(folder: Path) -> None:
    """Bytes that are no text are shown in a message like anything else."""
    done = serve("prefork.demo", "--socket", "a", "--backlog", "\udcff", folder=folder)
    assert done.returncode == 78
    assert "found '\\udcff'" in done.stderr


def test_own_arguments(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without arguments it takes the process's own."""
    monkeypatch.setattr(sys, "argv", ["prefork-serve", "--nonsense"])
    assert main() == 64
    assert "unknown option --nonsense" in capsys.readouterr().err


@pytest.mark.parametrize("release", ["5.10.0", "5.10-rc1", "6.1.0-18-amd64", "10.0"])
def test_system(release: str) -> None:
    """Linux from 5.10 on is what is needed."""
    check_system("Linux", release)


@pytest.mark.parametrize(
    ("name", "release"), [("Linux", "5.9.16"), ("Linux", "4.19"), ("Linux", "x"), ("Darwin", "23.1")]
)
def test_other_system(name: str, release: str) -> None:
    """Anything else is refused by name."""
    with pytest.raises(ConfigurationError, match=f"expected Linux 5.10 or later, found {name} {release}: "):
        check_system(name, release)


@pytest.mark.parametrize(("name", "version"), [("cpython", (3, 11, 0)), ("cpython", (3, 14, 1))])
def test_python(name: str, version: tuple[int, int, int]) -> None:
    """CPython from 3.11 on is what is needed."""
    check_python(name, version)


@pytest.mark.parametrize(
    ("name", "version", "found"), [("cpython", (3, 10, 13), "cpython 3.10.13"), ("pypy", (3, 11, 1), "pypy 3.11.1")]
)
def test_other_python(name: str, version: tuple[int, int, int], found: str) -> None:
    """Anything else is refused by name, and not by what it cannot import."""
    with pytest.raises(ConfigurationError, match=f"expected CPython 3.11 or later, found {found}: "):
        check_python(name, version)


def test_an_interpreter_without_what_prefork_needs(folder: Path) -> None:
    """A Python that has prefork but not its dependencies is told what is missing and what to do; no bug of ours."""
    program = (
        "import sys; sys.modules['structlog'] = None\n"
        "from prefork.cli.serve import main; sys.exit(main(['prefork.demo', '--socket', 'a']))"
    )
    done = run(sys.executable, "-c", program, folder=folder)
    assert done.returncode == 78
    assert "has no structlog, which prefork needs: " in done.stderr
    assert "Traceback" not in done.stderr
