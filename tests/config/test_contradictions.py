"""Combinations that cannot be meant, each named as somebody said it; and those that are only odd."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefork.config.arguments import parse
from prefork.config.load import from_arguments, from_keywords
from prefork.errors import ConfigurationError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(*words: str, file: str = "", **environ: str) -> str:
    if file:
        Path("f").write_text(file)
        words = ("--config", "f", *words)
    else:
        words = ("a", "--socket", "s", *words)
    with pytest.raises(ConfigurationError) as caught:
        from_arguments(parse(words), environ)
    return str(caught.value)


def warnings(*words: str, **environ: str) -> tuple[str, ...]:
    return from_arguments(parse(["a", "--socket", "s", *words]), environ).config.warnings


TWO = '[pool.x]\napp = "a"\nsocket = "s"\n[pool.y]\napp = "a"\nsocket = "t"\n'


@pytest.mark.parametrize(
    ("words", "environ", "message"),
    [
        # two ways to say one thing
        (
            ("--workers", "2", "--max-children", "3"),
            {},
            "--workers 2 and --max-children 3 both set the number of workers: expected one of them, leave out --max",
        ),
        (
            ("--workers", "2", "--pm", "dynamic"),
            {},
            (
                "--workers 2 cannot go with --pm dynamic: it means a number that never changes (pm static); leave out "
                "--pm, or say max_children instead of workers"
            ),
        ),
        (("--workers", "2", "--pm", "ondemand"), {}, "--workers 2 cannot go with --pm ondemand"),
        (
            (),
            {"PREFORK_WORKERS": "2", "PREFORK_MIN_SPARE_SERVERS": "1"},
            "PREFORK_WORKERS 2 cannot go with PREFORK_MIN_SPARE_SERVERS 1",
        ),
        (("--workers", "2", "--max-spare-servers", "1"), {}, "--workers 2 cannot go with --max-spare-servers 1"),
        (("--workers", "2", "--start-servers", "1"), {}, "--workers 2 cannot go with --start-servers 1"),
        # spares out of order
        (
            ("--max-children", "8", "--min-spare-servers", "5", "--max-spare-servers", "4"),
            {},
            (
                "--min-spare-servers 5 cannot go with --max-spare-servers 4: expected min_spare_servers ≤ "
                "start_servers ≤ max_spare_servers ≤ max_children"
            ),
        ),
        (
            ("--max-children", "8", "--max-spare-servers", "9"),
            {},
            "--max-spare-servers 9 cannot go with --max-children 8",
        ),
        (
            ("--max-children", "8"),
            {"PREFORK_MIN_SPARE_SERVERS": "9"},
            "PREFORK_MIN_SPARE_SERVERS 9 cannot go with --max-children 8",
        ),
        (("--min-spare-servers", "9000"), {}, "--min-spare-servers 9000 cannot go with max_children "),
        (
            ("--max-children", "8", "--start-servers", "1", "--min-spare-servers", "2"),
            {},
            "--min-spare-servers 2 cannot go with --start-servers 1",
        ),
        (
            ("--max-children", "8", "--start-servers", "5", "--max-spare-servers", "4"),
            {},
            "--start-servers 5 cannot go with --max-spare-servers 4",
        ),
        (("--max-children", "8", "--start-servers", "9"), {}, "--start-servers 9 cannot go with --max-children 8"),
        # nobody to answer, and an import first
        (
            ("--pm", "ondemand", "--preload", "never"),
            {},
            (
                "--pm ondemand cannot go with --preload never: every first request would wait for an import; expected "
                "preload auto or always, or pm dynamic"
            ),
        ),
        # killed before it is asked
        (
            ("--request-timeout", "30s", "--request-terminate-timeout", "30s"),
            {},
            "--request-terminate-timeout 30s cannot go with --request-timeout 30s: the worker would be killed before",
        ),
        (
            ("--request-timeout", "30s", "--request-terminate-timeout", "20s"),
            {},
            "expected request_terminate_timeout to be longer, with time to clean up",
        ),
        # a socket that takes no mode
        (
            ("--socket", "fd://3", "--socket-mode", "0600"),
            {},
            "--socket-mode 0600 means nothing for the socket fd://3, which belongs to its giver: leave it out",
        ),
        (
            ("--socket", "@x"),
            {"PREFORK_SOCKET_OWNER": "me"},
            "PREFORK_SOCKET_OWNER me means nothing for the socket @x, which has no file: leave it out",
        ),
        (("--socket", "@x", "--socket-group", "g"), {}, "--socket-group g means nothing for the socket @x"),
        (
            ("--allowed-addresses", "10.0.0.1"),
            {},
            "--allowed-addresses 10.0.0.1 means nothing for the socket s, to which nobody connects by TCP",
        ),
        (("--forwarded-allow", "unix,none"), {}, "--forwarded-allow unix,none believes nobody and somebody: leave out"),
        (("--socket", "127.0.0.1:1", "--socket-mode", "0600"), {}, "--socket-mode 0600 means nothing for the socket"),
        # a mode that lets nobody in
        (
            ("--socket-mode", "0555"),
            {},
            "--socket-mode: expected a mode with write permission for somebody, found 0555",
        ),
        # nothing to warm
        (
            ("--preload", "never"),
            {"PREFORK_WARMUP": "/a /b"},
            "PREFORK_WARMUP /a /b cannot go with --preload never: nothing is imported before the workers are forked",
        ),
        # nobody to read it
        (
            ("--daemonize",),
            {},
            "--daemonize cannot go with error_log stderr, the default: in the background there is no terminal to",
        ),
        (
            ("--error-log", "-"),
            {"PREFORK_DAEMONIZE": "1"},
            "PREFORK_DAEMONIZE cannot go with --error-log -: in the back",
        ),
        (
            ("--daemonize", "--error-log", "l", "--access-log", "-"),
            {},
            "--daemonize cannot go with --access-log -: in the background there is no standard output",
        ),
        (
            ("--status-listen", "9000"),
            {},
            "--status-listen: socket 9000: a number names no socket",
        ),
        # one path for two things
        (
            ("--status-path", "/-/me", "--ping-path", "/-/me"),
            {},
            "--ping-path /-/me cannot go with --status-path /-/me: one of them would never be answered",
        ),
        (("--pid-file", "s"), {}, "--pid-file: s is said twice, here and by --socket: expected a path of its own for"),
        (
            ("--pid-file", "p", "--control-socket", "./p"),
            {},
            "--control-socket: ./p is said twice, here and by --pid-fil",
        ),
        (("--pid-file", "p", "--error-log", "p"), {}, "--error-log: p is said twice, here and by --pid-file"),
        (
            ("--control-socket", "p", "--access-log", "p"),
            {},
            "--access-log: p is said twice, here and by --control-sock",
        ),
        (("--socket", "./s"), {}, "--socket: ./s is said twice, here and by --socket: expected a path of its own"),
    ],
)
def test_refused(words: tuple[str, ...], environ: dict[str, str], message: str) -> None:
    """What contradicts itself is an error that says which two things do, and what to leave out."""
    assert message in refusal(*words, **environ)


def test_one_path_in_two_spellings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the root and from here; where "here" is no more, the words are compared."""
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    message = f"--status-listen: {folder}/s is said twice, here and by --socket: expected a path of its own"
    assert message in refusal("--status-listen", f"{folder}/s")
    folder.rmdir()
    assert warnings("--status-listen", f"{folder}/s") == ()
    assert "--pid-file: ./s is said twice" in refusal("--pid-file", "./s")


@pytest.mark.parametrize(
    ("file", "words", "environ", "message"),
    [
        (TWO, ("b",), {}, "APP b is said beside --config f, which describes 2 pools (x, y): expected app in the file"),
        (TWO, (), {"PREFORK_APP": "b"}, "PREFORK_APP b is said beside --config f, which describes 2 pools (x, y)"),
        (TWO, ("--socket", "u"), {}, "--socket u is said beside --config f, which describes 2 pools (x, y): expected"),
        (TWO, ("--name", "u"), {}, "--name u is said beside --config f, which describes 2 pools"),
        (
            TWO.replace('"t"', '"./s"'),
            (),
            {},
            "f: [pool.y] socket: ./s is said twice, here and by f: [pool.x] socket: expected a path of its own",
        ),
        (
            TWO.replace('"t"', '"fd://3"\nsocket_mode = "0600"'),
            (),
            {},
            "f: [pool.y] socket_mode 0600 means nothing for the socket fd://3",
        ),
        (
            TWO,
            ("--socket-mode", "0440"),
            {},
            "--socket-mode: expected a mode with write permission for somebody, found 0440",
        ),
        ("[pool.x]\napp = 'a'\n", (), {}, 'f: [pool.x]: expected socket, found none; add a line socket = "/run/mysite'),
        ("[pool.x]\nsocket = 's'\n", (), {}, 'f: [pool.x]: expected app, found none; add a line app = "mysite.wsgi'),
        (
            TWO.replace('socket = "t"', ""),
            (),
            {"SOCK_PATH": "u"},
            "f: [pool.y]: expected socket, found none; add a line socket",
        ),
        ("[pool.'a b']\napp = 'a'\nsocket = 's'\n", (), {}, "f: [pool.a b]: expected letters, digits, dots, dashes"),
    ],
)
def test_refused_of_a_file(file: str, words: tuple[str, ...], environ: dict[str, str], message: str) -> None:
    """The same for a file, by itself and with what is said beside it."""
    assert message in refusal(*words, file=file, **environ)


def test_nothing_odd() -> None:
    """A plain configuration warns of nothing, and neither do logs that share a file."""
    assert warnings() == ()
    assert warnings("--access-log", "l", "--error-log", "l", "--access-log-format", "json") == ()
    assert warnings("--access-log", "syslog", "--control-socket", "off", "--daemonize", "--error-log", "syslog") == ()
    assert warnings("--access-log-format", "combined") == ()
    assert warnings("--slowlog", "l", "--error-log", "l", "--request-terminate-timeout", "5s") == ()
    ondemand = ("--pm", "ondemand", "--process-idle-timeout", "5s", "--preload", "always", "--max-spawn-rate", "4")
    assert warnings(*ondemand) == ()
    assert warnings("--max-requests", "500", "--max-requests-jitter", "0", "--canary", "/", "--reload-surge", "1") == ()
    assert warnings("--max-children", "1") == warnings("--workers", "1", "--pm", "static") == ()
    assert warnings("--request-slowlog-timeout", "1s", "--request-timeout", "2s") == ()


def test_a_callable_may_have_a_canary() -> None:
    """Its first worker is asked like any other."""
    config = from_keywords(refusal, {"socket": "s", "canary": "/healthz"}, {})
    assert (config.pools[0].canary, config.warnings) == ("/healthz", ())


@pytest.mark.parametrize(
    ("words", "environ", "warning"),
    [
        (
            ("--access-log-format", "json"),
            {},
            "--access-log-format json means nothing for the pool www, which has no access_log",
        ),
        (
            (),
            {"PREFORK_ACCESS_LOG_SUPPRESS": "/ping"},
            "PREFORK_ACCESS_LOG_SUPPRESS /ping means nothing for the pool www, which has no access_log",
        ),
        (
            ("--protocol", "fastcgi", "--forwarded-allow", "none"),
            {},
            "--forwarded-allow none means nothing for the pool www, which speaks no HTTP",
        ),
        (
            ("--pm", "static", "--min-spare-servers", "1"),
            {},
            "--min-spare-servers 1 means nothing for the pool www, which has pm static",
        ),
        (
            ("--workers", "4"),
            {"PREFORK_PROCESS_IDLE_TIMEOUT": "1s"},
            "PREFORK_PROCESS_IDLE_TIMEOUT 1s means nothing for the pool www, which has pm static",
        ),
        (
            ("--pm", "static", "--start-servers", "900"),
            {},
            "--start-servers 900 means nothing for the pool www, which has pm static",
        ),
        (
            ("--pm", "static", "--max-spawn-rate", "4"),
            {},
            "--max-spawn-rate 4 means nothing for the pool www, which has pm static",
        ),
        (
            ("--pm", "ondemand", "--max-spare-servers", "1"),
            {},
            "--max-spare-servers 1 means nothing for the pool www, which has pm ondemand",
        ),
        (
            ("--max-requests-jitter", "20%"),
            {},
            "--max-requests-jitter 20% means nothing for the pool www, which has no max_requests",
        ),
        (
            ("--ping-response", "alive"),
            {},
            "--ping-response alive means nothing for the pool www, which has no ping_path",
        ),
        (
            ("--slowlog", "l", "--request-slowlog-timeout", "0"),
            {},
            "--slowlog l means nothing for the pool www, which has no request_slowlog_timeout",
        ),
        (
            ("--request-slowlog-timeout", "30s", "--request-terminate-timeout", "30s"),
            {},
            (
                "--request-slowlog-timeout 30s means nothing for the pool www: --request-terminate-timeout 30s ends a "
                "request before it is slow"
            ),
        ),
        (
            ("--request-slowlog-timeout", "30s", "--request-timeout", "20s", "--request-terminate-timeout", "25s"),
            {},
            (
                "--request-slowlog-timeout 30s means nothing for the pool www: --request-timeout 20s ends a request "
                "before it is slow"
            ),
        ),
    ],
)
def test_odd(words: tuple[str, ...], environ: dict[str, str], warning: str) -> None:
    """What has no effect is one warning."""
    assert warnings(*words, **environ) == (warning,)
