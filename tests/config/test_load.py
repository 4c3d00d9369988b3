"""Loading: every option from every source, who wins, and every mistake with its message."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.said import SAID
from prefork.config.arguments import parse
from prefork.config.load import arguments_again, from_arguments, from_keywords, keywords_again
from prefork.config.model import Config, PoolConfig
from prefork.config.options import BY_KEY, OPTIONS, SERVER_KEYS
from prefork.errors import ConfigurationError, PreforkError, UsageError

APP = "mysite.wsgi:application"
SOCKET = "/run/mysite/app.sock"


def configured(words: Sequence[str], environ: Mapping[str, str]) -> Config:
    return from_arguments(parse(words), environ).config


def load(*words: str, **environ: str) -> Config:
    return configured([APP, "--socket", SOCKET, *words], environ)


def value(config: Config, key: str) -> Any:
    (pool,) = config.pools
    return getattr(config if key in SERVER_KEYS else pool, key)


def flag_of(switch: str) -> str:
    """The flag that says of a switch what the table says."""
    option = BY_KEY[switch]
    return option.flag if SAID[switch][1] else option.off_flag


def failure(kind: type[PreforkError], *words: str, **environ: str) -> str:
    with pytest.raises(kind) as caught:
        configured(words, environ)
    assert type(caught.value) is kind
    return str(caught.value)


# --- each option ------------------------------------------------------------------------------------------------------


_TESTED_APART = {"socket", "workers", "daemonize", "allowed_addresses", "status_listen"}


def test_table_is_whole() -> None:
    """The tests below see every option there is, but for those that have their own tests."""
    assert set(SAID) == {option.key for option in OPTIONS} - _TESTED_APART


def test_least() -> None:
    """An application and a socket are all that must be said; the model's defaults hold for the rest."""
    assert load() == Config(pools=(PoolConfig(app=APP, socket=SOCKET),))


@pytest.mark.parametrize("key", SAID)
def test_on_the_command_line(key: str) -> None:
    """Every option is taken from the command line, with a space or an equals sign, a switch by its name alone."""
    text, expected = SAID[key]
    flag = BY_KEY[key].flag
    if BY_KEY[key].switch:
        assert value(load(flag), key) is True
        assert value(load(flag, BY_KEY[key].off_flag), key) is False
        return
    assert expected == value(load(flag, text), key) == value(load(f"{flag}={text}"), key)


@pytest.mark.parametrize("key", SAID)
def test_in_the_environment(key: str) -> None:
    """Every option is taken from its variable."""
    text, expected = SAID[key]
    assert expected == value(load(**{BY_KEY[key].variable: text}), key)


@pytest.mark.parametrize("key", SAID)
def test_as_keyword(key: str) -> None:
    """Every option is taken as a keyword, as text and as the value itself."""
    text, expected = SAID[key]
    for said in (text, expected):
        assert expected == value(from_keywords(APP, {"socket": SOCKET, key: said}, {}), key)


@pytest.mark.parametrize("key", SAID)
def test_command_line_beats_environment(key: str) -> None:
    """What the command line says wins; the variable that lost is not even judged."""
    text, expected = SAID[key]
    words = [flag_of(key)] if BY_KEY[key].switch else [BY_KEY[key].flag, text]
    assert expected == value(load(*words, **{BY_KEY[key].variable: "'"}), key)


@pytest.mark.parametrize("key", SAID)
def test_keyword_beats_environment(key: str) -> None:
    """What the program says wins over the environment as well."""
    text, expected = SAID[key]
    source = {"socket": SOCKET, key: expected}
    assert expected == value(from_keywords(APP, source, {BY_KEY[key].variable: text}), key)


def test_a_switch_that_is_on() -> None:
    """What is on by default can be turned off in every source, and on again by a stronger one."""
    assert load("--no-skip-abandoned").pools[0].skip_abandoned is False
    assert load(PREFORK_SKIP_ABANDONED="off").pools[0].skip_abandoned is False
    assert load("--skip-abandoned", PREFORK_SKIP_ABANDONED="off").pools[0].skip_abandoned is True


@pytest.mark.parametrize(
    "key", ["queue_timeout", "request_slowlog_timeout", "request_timeout", "request_terminate_timeout", "max_memory"]
)
@pytest.mark.parametrize("text", ["off", "0", "0s"])
def test_off(key: str, text: str) -> None:
    """A limit is none when it is off or zero, wherever that is said."""
    text = text if key != "max_memory" else text.replace("s", "M")
    assert value(load(BY_KEY[key].flag, text), key) is None
    assert value(load(**{BY_KEY[key].variable: text}), key) is None
    assert value(from_keywords(APP, {"socket": SOCKET, key: text}, {}), key) is None


def test_last_use_wins() -> None:
    """An option that is no list may be said again, which is how wrappers of a command line override it."""
    assert load("--backlog", "1", "--backlog", "2").pools[0].backlog == 2


def test_empty_variable() -> None:
    """A variable that is set to nothing counts as not set."""
    assert load(PREFORK_BACKLOG="", PREFORK_NONSENSE="") == load()


def test_foreign_variables() -> None:
    """The build's own variable and those Kubernetes sets beside a service called prefork are no options."""
    foreign = {
        "PREFORK_COMPILE": "1",
        "PREFORK_SERVICE_HOST": "10.0.0.1",
        "PREFORK_SERVICE_PORT_HTTP": "80",
        "PREFORK_PORT": "tcp://10.0.0.1:80",
        "PREFORK_PORT_80_TCP_ADDR": "10.0.0.1",
        "OTHER_BACKLOG": "1",
    }
    assert load(**foreign) == load()


# --- lists ------------------------------------------------------------------------------------------------------------


def test_lists_on_the_command_line() -> None:
    """Repeatable options keep their order; of two values for one name the last stands."""
    pool = load(
        *("--warmup", "/b", "--warmup", "/a"),
        *("--env", "A=1", "--env", "B=x y", "--env", "A=2"),
        *("--pythonpath", "/a", "--pythonpath", "/b:/c"),
    ).pools[0]
    assert pool.warmup == ("/b", "/a")
    assert pool.env == {"A": "2", "B": "x y"}
    assert pool.pythonpath == ("/a", "/b", "/c")


def test_lists_in_the_environment() -> None:
    """One variable holds several, quoted as in a shell; directories are separated as in PATH."""
    pool = load(PREFORK_WARMUP="/a  /b", PREFORK_ENV="A=1 'B=x y' C=", PREFORK_PYTHONPATH="/a::/b").pools[0]
    assert pool.warmup == ("/a", "/b")
    assert pool.env == {"A": "1", "B": "x y", "C": ""}
    assert pool.pythonpath == ("/a", "/b")


def test_lists_as_keywords() -> None:
    """A program says lists as lists or tuples and variables as a mapping; one text is a list of one."""
    pool = from_keywords(
        APP, {"socket": SOCKET, "warmup": ["/a", "/b"], "env": {"A": 1}, "pythonpath": ("/a", Path("/b"))}, {}
    ).pools[0]
    assert (pool.warmup, pool.env, pool.pythonpath) == (("/a", "/b"), {"A": "1"}, ("/a", "/b"))


# --- application, socket and workers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("app", ["app", "a.b.c", "a:b", "a.b:c.d", "a:b()", "_a1.b_2:C3()", "größe:länge"])
def test_app(app: str) -> None:
    """An application is a module, a callable in one, or a factory in one."""
    assert app == configured([app, "--socket", SOCKET], {}).pools[0].app


@pytest.mark.parametrize(
    "app", ["", ":", "a:", ":b", "a:b(", "a:b(1)", "a.py", "a.py:b", "dir/a.py", "a b", "1a", "a..b"]
)
def test_no_app(app: str) -> None:
    """Anything else is refused before any process exists, files with the hint that they are meant dotted."""
    message = failure(ConfigurationError, app, "--socket", SOCKET)
    assert message == (
        "APP: expected module:callable, module:factory() or module, dotted as in an import and without .py, "
        f"found {app!r}"
    )


def test_app_from_the_environment() -> None:
    """The application has a variable too, and the command line wins."""
    assert configured([], {"PREFORK_APP": "a", "SOCK_PATH": "/s"}).pools[0].app == "a"
    assert configured(["b"], {"PREFORK_APP": "a", "SOCK_PATH": "/s"}).pools[0].app == "b"


def test_callable() -> None:
    """A program may hand the application over as it is; a variable that names another is no matter."""
    assert from_keywords(load, {"socket": SOCKET}, {"PREFORK_APP": "a"}).pools[0].app is load


def test_order_of_words() -> None:
    """The application may stand anywhere among the options."""
    assert load("--backlog", "3") == configured(["--backlog", "3", APP, "--socket", SOCKET], {})
    assert load("--backlog", "3") == configured(["--socket", SOCKET, "--backlog", "3", APP], {})


def test_sockets() -> None:
    """Every socket makes a pool with the same options and a name of its own, the first with the plain one."""
    config = load("--socket", "@other", "--socket", "fd://3", "--name", "shop", "--workers", "3")
    assert [(pool.socket, pool.name) for pool in config.pools] == [
        (SOCKET, "shop"),
        ("@other", "shop-2"),
        ("fd://3", "shop-3"),
    ]
    assert {3} == {pool.max_children for pool in config.pools}


def test_default_name_of_second_pool() -> None:
    """The default name is numbered like any other."""
    assert [pool.name for pool in load("--socket", "@b").pools] == ["www", "www-2"]


@pytest.mark.parametrize(
    ("words", "environ", "socket"),
    [
        ((), {"SOCK_PATH": "/from/sock_path"}, "/from/sock_path"),
        ((), {"SOCK_PATH": "/from/sock_path", "PREFORK_SOCKET": "/from/prefork socket"}, "/from/prefork socket"),
        (("--socket", "/from/line"), {"SOCK_PATH": "/b", "PREFORK_SOCKET": "/c"}, "/from/line"),
        ((), {"SOCK_PATH": "/b", "PREFORK_SOCKET": ""}, "/b"),
    ],
)
def test_socket_from(words: tuple[str, ...], environ: dict[str, str], socket: str) -> None:
    """Command line, then PREFORK_SOCKET, then SOCK_PATH; a path in a variable may have blanks."""
    assert [socket] == [pool.socket for pool in configured([APP, *words], environ).pools]


def test_workers() -> None:
    """Workers are short for static and max_children, in whatever source."""
    expected = load("--pm", "static", "--max-children", "3")
    assert expected == load("--workers", "3") == load(PREFORK_WORKERS="3")
    assert expected == from_keywords(APP, {"socket": SOCKET, "workers": 3}, {})


def test_daemonize() -> None:
    """The background is a switch like others, and wants a log that is no terminal."""
    assert load("--daemonize", "--error-log", "l").daemonize is True
    assert load("--daemonize", "--no-daemonize").daemonize is False
    assert load(PREFORK_DAEMONIZE="YES", PREFORK_ERROR_LOG="syslog").daemonize is True
    assert from_keywords(APP, {"socket": SOCKET, "daemonize": True, "error_log": "l"}, {}).daemonize is True
    assert from_keywords(APP, {"socket": SOCKET, "daemonize": False}, {}).daemonize is False


def test_allowed_addresses() -> None:
    """Who may connect is for TCP alone; several are separated by commas or spaces."""
    tcp = "127.0.0.1:8000"
    expected = ("10.0.0.7", "fd00::/8")
    words = ["--allowed-addresses", "10.0.0.7,fd00::/8"]
    assert configured([APP, "--socket", tcp, *words], {}).pools[0].allowed_addresses == expected
    environ = {"PREFORK_SOCKET": tcp, "PREFORK_ALLOWED_ADDRESSES": "10.0.0.7 fd00::/8"}
    assert configured([APP], environ).pools[0].allowed_addresses == expected
    keywords = {"socket": tcp, "allowed_addresses": expected}
    assert from_keywords(APP, keywords, {}).pools[0].allowed_addresses == expected


def test_workers_beat_the_weaker_source() -> None:
    """Both in different sources are no contradiction: the stronger source wins, either way round."""
    assert load("--workers", "3", PREFORK_MAX_CHILDREN="9", PREFORK_PM="dynamic").pools[0].max_children == 3
    assert load("--max-children", "9", PREFORK_WORKERS="3").pools[0].max_children == 9
    assert load("--pm", "dynamic", PREFORK_WORKERS="3").pools[0].pm == "dynamic"
    assert load("--workers", "3", PREFORK_PM="ondemand").pools[0].pm == "static"
    assert load("--workers", "3", "--pm", "static").pools[0].max_children == 3


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no application: expected APP as module:callable"),
        ((APP,), "no socket: expected one of\n  --socket /run/mysite/app.sock"),
        ((APP, "other", "--socket", "a"), f"expected one APP, found {APP!r} and 'other'; see prefork-serve --help"),
        ((APP, "--socket"), "--socket: expected one argument; see prefork-serve --help"),
        (("--max-childern", "4", APP), "unknown option --max-childern; did you mean --max-children?"),
        ((APP, "--max_children=4"), "unknown option --max_children; did you mean --max-children?"),
        ((APP, "--max-child", "4"), "unknown option --max-child; did you mean --max-children?"),
        ((APP, "--vesion"), "unknown option --vesion; did you mean --version?"),
        ((APP, "-b", "a"), "unknown option -b; did you mean --socket?"),
        ((APP, "-w", "4"), "unknown option -w; did you mean --workers?"),
        ((APP, "--reload"), "unknown option --reload: this version does not watch files: `preforkctl reload` serves"),
        ((APP, "--timeout", "3"), "unknown option --timeout; did you mean --request-terminate-timeout?"),
        ((APP, "-D"), "unknown option -D; did you mean --daemonize?"),
        ((APP, "-t"), "unknown option -t; did you mean --check?"),
        ((APP, "--preload-app"), "unknown option --preload-app; did you mean --preload?"),
        ((APP, "--module", "a"), "unknown option --module; did you mean APP?"),
        ((APP, "--check-config"), "unknown option --check-config; did you mean --check?"),
        ((APP, "--print-config"), "unknown option --print-config; did you mean --show-config?"),
        ((APP, "--mount", "/a=b"), "unknown option --mount: this version serves one application a pool; nginx can"),
        ((APP, "--vacuum"), "unknown option --vacuum: leave it out: it is always so"),
        ((APP, "--lazy-apps"), 'unknown option --lazy-apps: say preload = "never"'),
        ((APP, "--threads", "2"), "unknown option --threads: a worker serves one request at a time, on purpose"),
        ((APP, "--reader"), "unknown option --reader (see prefork-serve --help)"),
        ((APP, "--xyzzy"), "unknown option --xyzzy (see prefork-serve --help)"),
        ((APP, "--version=1"), "--version takes no value, found '1'; see prefork-serve --help"),
        ((APP, "--daemonize=yes"), "--daemonize takes no value, found 'yes'; see prefork-serve --help"),
        ((APP, "--", "--check"), "--check behind -- is no option: expected the options before it, and at most APP"),
        ((APP, "--allowed-peers", "root"), "unknown option --allowed-peers: on a Unix socket its mode and group say"),
        ((APP, "--chroot", "/srv"), "unknown option --chroot: this version has none: a container"),
        ((APP, "--proxy-protocol"), "unknown option --proxy-protocol: this version does not read it: "),
    ],
)
def test_usage(words: tuple[str, ...], message: str) -> None:
    """A command line that cannot be understood is 64, and says what would be."""
    assert message in failure(UsageError, *words)


@pytest.mark.parametrize("flag", ["--reload-on-change", "--threads"])
def test_options_of_other_versions(flag: str) -> None:
    """An option that does nothing is not accepted."""
    assert f"unknown option {flag}" in failure(UsageError, APP, "--socket", SOCKET, flag)


def test_the_status_pages_are_a_pool_of_their_own() -> None:
    """Behind the others, as the first one's user, and never with a name that is taken."""
    www, status = load("--status-listen", "127.0.0.1:9000", "--name", "status", "--user", "app").pools
    assert (www.name, www.internal) == ("status", False)
    assert (status.name, status.internal) == ("prefork-status", True)
    assert (status.socket, status.protocol, status.user) == ("127.0.0.1:9000", "http", "app")
    assert len(load("--status-listen", "off").pools) == 1


def test_the_status_pages_have_a_socket_of_their_own() -> None:
    assert "is said twice" in failure(ConfigurationError, APP, "--socket", SOCKET, "--status-listen", SOCKET)


@pytest.mark.parametrize(
    ("address", "group"),
    [("/run/s", "www-data"), ("./s", "www-data"), ("s", "www-data"), ("@s", None), ("[::]:9", None)],
)
def test_who_may_see_the_status(address: str, group: str | None) -> None:
    """Who may connect to the first pool may see it, where it is shown at a path, however that is written."""
    assert load("--status-listen", address, "--socket-group", "www-data").pools[1].socket_group == group


# option → what cannot be, what is expected
WRONG: Mapping[str, tuple[str, str]] = {
    "socket": ("", "a path, @name, host:port, fd://N, systemd or starter"),
    "socket_mode": ("0680", "octal digits from 0 to 0777, as chmod(1) takes them"),
    "socket_owner": ("", "a name or a number"),
    "socket_group": ("a\nb", "a name or a number"),
    "backlog": ("2147483648", "a number from 1 to 2147483647"),
    "protocol": ("scgi", "auto, fastcgi or http"),
    "allowed_addresses": ("10.0.0.1/8", "an address or a network, as 10.0.0.7, 10.0.0.0/8 or fd00::/8"),
    "forwarded_allow": (
        "localhost",
        "an address or a network, as 10.0.0.7, 10.0.0.0/8 or fd00::/8, or unix, or none",
    ),
    "pm": ("on-demand", "dynamic, static or ondemand"),
    "min_spare_servers": ("0", "a number from 1 to 10000"),
    "max_spare_servers": ("off", "a number from 1 to 10000"),
    "start_servers": ("half", "a number from 1 to 10000"),
    "max_spawn_rate": ("0", "a number from 1 to 10000"),
    "process_idle_timeout": ("0", "a duration such as 250ms, 30s, 5m or plain seconds, from 100ms to 24 days"),
    "max_requests": ("1K", "a number from 0 to 1000000000"),
    "max_requests_jitter": ("50", "a share such as 10% or 0.1, from 0% to 100%"),
    "max_memory": ("1K", "a size such as 64K, 256M or plain bytes, from 1M to 1T, or off"),
    "max_worker_lifetime": ("1ms", "a duration such as 250ms, 30s, 5m or plain seconds, from 1s to 24 days, or off"),
    "max_children": ("0", "a number from 1 to 10000"),
    "workers": ("many", "a number from 1 to 10000"),
    "preload": ("yes", "auto, always or never"),
    "warmup": ("index", "a path that begins with / and has no spaces"),
    "canary": ("healthz", "a path that begins with / and has no spaces, or off"),
    "reload_surge": ("0", "a number from 1 to 10000"),
    "header_timeout": ("off", "a duration such as 250ms, 30s, 5m or plain seconds, from 100ms to 24 days"),
    "body_timeout": ("0s", "a duration such as 250ms, 30s, 5m or plain seconds, from 100ms to 24 days"),
    "body_min_rate": ("500/s", "a size such as 64K, 256M or plain bytes, from 0 to 1G"),
    "write_timeout": ("-1", "a duration such as 250ms, 30s, 5m or plain seconds, from 100ms to 24 days"),
    "write_min_rate": ("2G", "a size such as 64K, 256M or plain bytes, from 0 to 1G"),
    "queue_timeout": ("1ms", "a duration such as 250ms, 30s, 5m or plain seconds, from 10ms to 24 days, or off"),
    "skip_abandoned": ("often", "on or off"),
    "request_slowlog_timeout": (
        "1ms",
        "a duration such as 250ms, 30s, 5m or plain seconds, from 10ms to 24 days, or off",
    ),
    "request_timeout": ("never", "a duration such as 250ms, 30s, 5m or plain seconds, from 10ms to 24 days, or off"),
    "request_terminate_timeout": (
        "1d",
        "a duration such as 250ms, 30s, 5m or plain seconds, from 10ms to 24 days, or off",
    ),
    "graceful_timeout": ("1w", "a duration such as 250ms, 30s, 5m or plain seconds, from 0s to 24 days"),
    "boot_timeout": ("0", "a duration such as 250ms, 30s, 5m or plain seconds, from 100ms to 24 days"),
    "max_header_size": ("64MB", "a size such as 64K, 256M or plain bytes, from 1K to 64M"),
    "max_header_count": ("-1", "a number from 1 to 100000"),
    "max_body_size": ("0", "a size such as 64K, 256M or plain bytes, from 1 to 1T, or off"),
    "user": ("", "a name or a number"),
    "group": ("", "a name or a number"),
    "chdir": ("", "a directory"),
    "umask": ("1777", "octal digits from 0 to 0777, as chmod(1) takes them"),
    "rlimit_files": ("1", "a number from 64 to 1073741824"),
    "rlimit_core": ("-2", "a size such as 64K, 256M or plain bytes, from 0 to 1T, or unlimited"),
    "no_new_privs": ("maybe", "on or off"),
    "clear_env": ("", "on or off"),
    "env": ("NAME", "NAME=VALUE"),
    "hooks": ("hooks.py", "a module, dotted as in an import and without .py"),
    "name": ("a b", "letters, digits, dots, dashes or underscores, at most 64"),
    "daemonize": ("2", "on or off"),
    "pid_file": ("", "a path"),
    "error_log": ("", "stderr, syslog or a path"),
    "access_log": ("", "a path, - for standard output, or syslog, or off"),
    "access_log_format": (
        "jsn",
        "combined, common, json, or a template with tokens like %h or %R (did you mean json?)",
    ),
    "access_log_suppress": ("ping", "a path that begins with / and has no spaces"),
    "slowlog": ("syslog", "a path"),
    "catch_output": ("", "on or off"),
    "control_socket": ("", "a path, or off"),
    "status_listen": ("", "a path or host:port, or off"),
    "status_path": ("status", "a path that begins with / and has no spaces, or off"),
    "ping_path": ("ping", "a path that begins with / and has no spaces, or off"),
    "ping_response": ("", "a text"),
    "log_level": ("trace", "debug, info, warning or error"),
    "log_format": ("xml", "auto, console or json"),
}


def test_every_option_has_something_wrong() -> None:
    """The table of wrong values is whole; what pythonpath takes cannot be wrong as text."""
    assert {option.key for option in OPTIONS} - set(WRONG) == {"pythonpath"}


@pytest.mark.parametrize("key", [key for key in WRONG if not BY_KEY[key].switch])
def test_wrong_on_the_command_line(key: str) -> None:
    """A value that cannot be is 78 and named with its option, what was expected, and itself."""
    text, expected = WRONG[key]
    flag = BY_KEY[key].flag
    message = failure(ConfigurationError, APP, "--socket", SOCKET, f"{flag}={text}")
    assert message == f"{flag}: expected {expected}, found {text!r}"


@pytest.mark.parametrize("key", [key for key, (text, _) in WRONG.items() if text])
def test_wrong_in_the_environment(key: str) -> None:
    """In the environment it is named with its variable."""
    text, expected = WRONG[key]
    text = text.replace("\n", "\t")
    message = failure(ConfigurationError, APP, **{"SOCK_PATH": SOCKET, BY_KEY[key].variable: text})
    assert message == f"{BY_KEY[key].variable}: expected {expected}, found {text!r}"


@pytest.mark.parametrize("key", WRONG)
def test_wrong_keyword(key: str) -> None:
    """In a program it is named with its keyword."""
    text, expected = WRONG[key]
    with pytest.raises(ConfigurationError) as caught:
        from_keywords(APP, {"socket": SOCKET, key: text}, {})
    assert str(caught.value) == f"{key}=: expected {expected}, found {text!r}"


@pytest.mark.parametrize(
    ("words", "environ", "message"),
    [
        (
            ("--workers", "2", "--max-children", "3"),
            {},
            "--workers 2 and --max-children 3 both set the number of workers: expected one of them",
        ),
        (
            (),
            {"PREFORK_WORKERS": "2", "PREFORK_MAX_CHILDREN": "3"},
            "PREFORK_WORKERS 2 and PREFORK_MAX_CHILDREN 3 both set",
        ),
        (
            ("--workers", "2", "--max-children=3"),
            {},
            "expected one of them, leave out --max-children",
        ),
        (
            ("--socket", "/run/mysite//app.sock"),
            {},
            "--socket: /run/mysite//app.sock is said twice, here and by --socket",
        ),
        (
            ("--socket-mode", "0555"),
            {},
            "--socket-mode: expected a mode with write permission for somebody, found 0555",
        ),
        ((), {"PREFORK_SOCKET_MODE": "0"}, "PREFORK_SOCKET_MODE: expected a mode with write permission"),
        ((), {"PREFORK_ENV": "'A=1"}, 'PREFORK_ENV: expected words, with every quote closed, found "\'A=1"'),
        (
            (),
            {"PREFORK_MAX_CHILDERN": "3"},
            "PREFORK_MAX_CHILDERN in the environment names no option; did you mean PREFORK_MAX_CHILDREN?",
        ),
        ((), {"PREFORK_QQQ": "3"}, "PREFORK_QQQ in the environment names no option (unset it, or see"),
        ((), {"PREFORK_THREADS": "2"}, "PREFORK_THREADS in the environment names no option: a worker serves one"),
        (
            (),
            {"PREFORK_TIMEOUT": "1"},
            "PREFORK_TIMEOUT in the environment names no option; did you mean PREFORK_REQUEST_TERMINATE_TIMEOUT?",
        ),
        (("--socket", ":8000"), {}, "socket :8000: expected host and port, as 127.0.0.1:8000"),
        (
            ("--warmup", "/a"),
            {"PREFORK_PRELOAD": "never"},
            "--warmup /a cannot go with PREFORK_PRELOAD never: nothing is imported before the workers are forked",
        ),
        (("--warmup", ""), {}, "--warmup: expected a path that begins with / and has no spaces, found ''"),
    ],
)
def test_contradictions(words: tuple[str, ...], environ: dict[str, str], message: str) -> None:
    """Values and combinations that cannot be are 78, named as somebody wrote them."""
    assert message in failure(ConfigurationError, APP, "--socket", SOCKET, *words, **environ)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"max_childern": 3}, "unknown option max_childern; did you mean max_children?"),
        ({"app": "a"}, "unknown option app"),
        ({"timeout": 30}, "unknown option timeout; did you mean request_terminate_timeout?"),
        ({"reload_on_change": True}, "unknown option reload_on_change"),
        ({"backlog": True}, "backlog=: expected a number from 1 to 2147483647, found 'True'"),
        ({"umask": 0o1000}, "umask=: expected octal digits from 0 to 0777, as chmod(1) takes them, found '1000'"),
        ({"workers": 2, "max_children": 2}, "workers= 2 and max_children= 2 both set the number of workers"),
    ],
)
def test_wrong_keywords(keywords: dict[str, object], message: str) -> None:
    """A program's mistakes are named as the program wrote them."""
    with pytest.raises(ConfigurationError) as caught:
        from_keywords(APP, {"socket": SOCKET, **keywords}, {})
    assert message in str(caught.value)


@pytest.mark.parametrize("keywords", [{}, {"socket": None}, {"socket": []}, {"socket": ()}])
def test_keywords_without_socket(keywords: dict[str, object]) -> None:
    """A program has to name a socket like everybody else; None counts as not said."""
    with pytest.raises(UsageError, match="no socket"):
        from_keywords(APP, keywords, {})


def test_keywords_without_app() -> None:
    """No application anywhere is the usual message."""
    with pytest.raises(UsageError, match="no application"):
        from_keywords(None, {"socket": SOCKET}, {})


def test_an_app_that_is_neither_a_name_nor_callable() -> None:
    """Is told as what it is."""
    with pytest.raises(ConfigurationError, match=r'^app: expected "module:callable" or a callable, found 3$'):
        from_keywords(3, {"socket": SOCKET}, {})  # type: ignore[arg-type]


# --- files ------------------------------------------------------------------------------------------------------------

FILE = """
log_level = "debug"
[pool.shop]
app = "shop"
socket = "/run/shop.sock"
backlog = 7
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "prefork.toml"
    path.write_text(FILE)
    return path


def test_file(file: Path) -> None:
    """A file alone is a configuration, named on the command line, in the environment or by a program."""
    expected = Config(
        pools=(PoolConfig(app="shop", socket="/run/shop.sock", name="shop", backlog=7),), log_level="debug"
    )
    assert configured(["--config", str(file)], {}) == expected
    assert configured([], {"PREFORK_CONFIG": str(file)}) == expected
    assert from_keywords(None, {"config": file}, {}) == expected


@pytest.mark.parametrize(
    ("words", "environ", "backlog"),
    [
        ((), {}, 7),
        ((), {"PREFORK_BACKLOG": "8"}, 8),
        (("--backlog", "9"), {"PREFORK_BACKLOG": "8"}, 9),
        ((), {"PREFORK_BACKLOG": ""}, 7),
    ],
)
def test_precedence(file: Path, words: tuple[str, ...], environ: dict[str, str], backlog: int) -> None:
    """The command line wins over the environment, that over the file."""
    assert configured(["--config", str(file), *words], environ).pools[0].backlog == backlog


def test_what_loses_is_not_judged(file: Path) -> None:
    """A value in the file that another source replaces may be anything."""
    file.write_text(FILE.replace("= 7", '= "many"').replace('"debug"', '"loud"'))
    config = configured(["--config", str(file), "--backlog", "9"], {"PREFORK_LOG_LEVEL": "error"})
    assert (config.pools[0].backlog, config.log_level) == (9, "error")


def test_wrong_in_a_file(file: Path) -> None:
    """A wrong value is named with file, table and key."""
    file.write_text(FILE.replace("= 7", "= 0"))
    message = failure(ConfigurationError, "--config", str(file))
    assert message == f"{file}: [pool.shop] backlog: expected a number from 1 to 2147483647, found 0"


def test_command_line_names_another_file(file: Path) -> None:
    """The file that the command line names is read, and not that of the environment."""
    assert configured(["--config", str(file)], {"PREFORK_CONFIG": "/nonexistent"}).log_level == "debug"
    assert configured(["--config", str(file)], {"PREFORK_CONFIG": ""}).log_level == "debug"


def test_one_pool_and_the_command_line(file: Path) -> None:
    """Application, sockets and name of the only pool of a file can be said beside it."""
    words = ["other:app", "--config", str(file), "--socket", "a", "--socket", "b", "--name", "n"]
    pools = configured(words, {"SOCK_PATH": "c"}).pools
    assert [(pool.app, pool.socket, pool.name, pool.backlog) for pool in pools] == [
        ("other:app", "a", "n", 7),
        ("other:app", "b", "n-2", 7),
    ]


def test_sock_path_for_one_pool(file: Path) -> None:
    """SOCK_PATH is the socket of the only pool, if that has none."""
    assert configured(["--config", str(file)], {"SOCK_PATH": "c"}).pools[0].socket == "/run/shop.sock"
    file.write_text(FILE.replace("socket", "# socket"))
    assert configured(["--config", str(file)], {"SOCK_PATH": "c"}).pools[0].socket == "c"


def test_several_pools(file: Path) -> None:
    """What the command line and the environment say, they say of every pool."""
    file.write_text(FILE + '[pool.admin]\napp = "admin"\nsocket = "@admin"\nuser = "www"\n')
    pools = configured(["--config", str(file), "--backlog", "3"], {"PREFORK_UMASK": "077", "SOCK_PATH": "x"}).pools
    assert [(pool.name, pool.socket, pool.backlog, pool.umask, pool.user) for pool in pools] == [
        ("shop", "/run/shop.sock", 3, 0o077, None),
        ("admin", "@admin", 3, 0o077, "www"),
    ]


def test_file_without_pools(file: Path) -> None:
    """A file may be about the server alone; the pool is then the command line's."""
    file.write_text('log_level = "debug"\n')
    config = configured([APP, "--config", str(file), "--socket", SOCKET], {})
    assert config == Config(pools=(PoolConfig(app=APP, socket=SOCKET),), log_level="debug")
    message = failure(UsageError, "--config", str(file))
    assert message.startswith("no application: ")
    assert message.endswith(f"\n(--config {file} describes no pool; one begins with [pool.NAME])")


def test_callable_and_file(file: Path) -> None:
    """A program may hand over the application of the one pool that its file describes."""
    assert from_keywords(load, {"config": file}, {}).pools[0].app is load


def test_two_files() -> None:
    """One file is the configuration; it may include others."""
    message = failure(UsageError, "--config", "a", "--config", "b")
    assert message == '--config is said twice, a and b: expected one file; it may include the other (include = "NAME")'


def test_check_or_show() -> None:
    """Two tasks at once are refused."""
    assert failure(UsageError, "--check", "--show-config") == (
        "--show-config: not allowed with argument --check; see prefork-serve --help"
    )


# --- anything at all --------------------------------------------------------------------------------------------------

WORDS = st.one_of(
    st.sampled_from([option.flag for option in OPTIONS]),
    st.sampled_from(["a:b", "--", "-", "-h", "--version", "--socket=/s", "--workers=2", "never", "30s", "64K", "@x"]),
    st.text(max_size=12),
)
VARIABLES = st.dictionaries(
    st.sampled_from([option.variable for option in OPTIONS] + ["SOCK_PATH", "PREFORK_APP", "PREFORK_X", "OTHER"]),
    st.text(st.characters(exclude_characters="\0"), max_size=12),
    max_size=4,
)


def outcome(words: list[str], environ: dict[str, str]) -> Config | str | int | None:
    """The configuration, the promised error's message, or the status of --help and --version."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            return configured(words, environ)
        except (UsageError, ConfigurationError) as problem:
            return str(problem)
        except SystemExit as end:
            return end.code


@settings(deadline=None)
@given(words=st.lists(WORDS, max_size=8), environ=VARIABLES)
def test_nothing_else_is_raised(words: list[str], environ: dict[str, str]) -> None:
    """Whatever stands on the command line and in the environment: a configuration, or one of the errors promised."""
    found = outcome(words, environ)
    if isinstance(found, Config):
        assert len({pool.name for pool in found.pools}) == len(found.pools) > 0
    else:
        assert found not in ("", None, 1, 2)


def test_the_same_again(tmp_path: Path) -> None:
    """Arguments, keywords and environment are those of the start; the file is as it is now, behind whatever link."""
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "p.toml").write_text(
            f'[pool.www]\napp = "a"\nsocket = "@x"\nmax_children = {number}\n'
        )
    current = tmp_path / "current"
    current.symlink_to("1")
    environ = {"PREFORK_BACKLOG": "7"}
    by_variable = {"PREFORK_CONFIG": "p.toml"}
    ways = [
        arguments_again(parse(["--config", "p.toml", "--umask", "027"]), environ, str(current)),
        arguments_again(parse(["--umask", "027"]), {**environ, **by_variable}, str(current)),
        keywords_again(None, {"config": "p.toml", "umask": 0o27}, environ, str(current)),
        keywords_again(None, {"umask": 0o27}, {**environ, **by_variable}, str(current)),
    ]
    environ["PREFORK_BACKLOG"] = "8"

    def found() -> list[tuple[int, int, int | None]]:
        pools = [way().pools[0] for way in ways]
        return [(pool.max_children, pool.backlog, pool.umask) for pool in pools]

    assert found() == [(1, 7, 0o27)] * 4
    current.unlink()
    current.symlink_to("2")
    assert found() == [(2, 7, 0o27)] * 4
    (tmp_path / "2" / "p.toml").unlink()
    with pytest.raises(ConfigurationError, match=r"p\.toml"):
        ways[0]()
    alone = keywords_again("a", {"socket": "@x"}, {}, "/nowhere")
    assert alone().pools[0].app == "a"
    assert arguments_again(parse(["a", "--socket", "@x"]), {}, "/nowhere")().pools[0].socket == "@x"
