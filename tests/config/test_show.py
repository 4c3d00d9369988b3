"""--show-config: what is in effect, where it comes from, and that it can be loaded again."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from config.said import SAID
from prefork.config.arguments import CommandLine, Task, parse
from prefork.config.load import Loaded, from_arguments
from prefork.config.show import render


def show(*words: str, **environ: str) -> str:
    return render(from_arguments(parse(words), environ))


def line_of(text: str, key: str) -> str:
    (found,) = (line for line in text.splitlines() if line.split(" ")[0] == key or line.startswith(f"# {key}:"))
    return found


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_origins() -> None:
    """Every value has its origin beside it: default, file and table, variable, command line."""
    Path("a.toml").write_text('log_level = "debug"\n[pool.shop]\napp = "shop"\numask = "027"\nworkers = 3\n')
    text = show("--config", "a.toml", "--backlog", "5", PREFORK_PRELOAD="never", SOCK_PATH="./x y.sock")
    assert line_of(text, "log_level").split(None, 3) == ["log_level", "=", '"debug"', "# a.toml"]
    assert line_of(text, "log_format").endswith('"auto"                       # default')
    assert line_of(text, "app").split(None, 3) == ["app", "=", '"shop"', "# a.toml: [pool.shop]"]
    assert line_of(text, "umask").split(None, 3) == ["umask", "=", '"0027"', "# a.toml: [pool.shop]"]
    assert line_of(text, "max_children").split(None, 3) == ["max_children", "=", "3", "# a.toml: [pool.shop]"]
    assert line_of(text, "backlog").split(None, 3) == ["backlog", "=", "5", "# command line"]
    assert line_of(text, "preload").split(None, 3) == ["preload", "=", '"never"', "# PREFORK_PRELOAD"]
    assert line_of(text, "socket") == 'socket = "./x y.sock"                     # SOCK_PATH'
    assert line_of(text, "user") == "# user: unchanged                         # default"
    assert line_of(text, "clear_env").split(None, 3) == ["clear_env", "=", "false", "# default"]


def test_environment_is_not_shown() -> None:
    """Variables of the application are named; what they hold stays where it is."""
    text = show("a", "--socket", "s", "--env", "PASSWORD=hunter2")
    assert line_of(text, "env").split(None, 5) == ["#", "env:", "PASSWORD", "is", "set", "# command line"]
    assert "hunter2" not in text


def again(loaded: Loaded) -> Loaded:
    Path("again.toml").write_text(render(loaded))
    return from_arguments(CommandLine(Task.SERVE, "again.toml", {}), {})


def test_loads_again() -> None:
    """What is shown, loaded as a file, is the same configuration, but for env."""
    words = [f"--{key.replace('_', '-')}={text}" for key, (text, value) in SAID.items() if value is not True]
    words = [word for word in words if not word.endswith("=off") or word.startswith("--control-socket")]
    words += [f"--{key.replace('_', '-')}" for key, (_, value) in SAID.items() if value is True]
    words += [f"--no-{key.replace('_', '-')}" for key, (_, value) in SAID.items() if value is False]
    left_out = ("--env", "--warmup", "--pm")  # no warmup without preload, no spares with static
    words = [word for word in words if not word.startswith(left_out)]
    loaded = from_arguments(parse(["a:b()", "--socket", 'odd "path" \x7f'.replace("\x7f", "é"), *words]), {})
    assert again(loaded).config == loaded.config


def test_what_follows_from_others() -> None:
    """What nobody said and other numbers decide is shown as it will be."""
    text = show("a", "--socket", "s", "--max-children", "40", "--min-spare-servers", "10")
    assert line_of(text, "min_spare_servers").split(None, 3) == ["min_spare_servers", "=", "10", "# command line"]
    assert line_of(text, "max_spare_servers").split() == ["#", "max_spare_servers:", "20", "#", "default"]
    assert line_of(text, "start_servers").split() == ["#", "start_servers:", "15", "#", "default"]
    assert line_of(text, "reload_surge").split() == ["#", "reload_surge:", "40", "#", "default"]
    text = show("a", "--socket", "s", "--workers", "4")
    assert line_of(text, "start_servers").startswith("# start_servers: not with pm static  ")


def test_off_loads_again() -> None:
    """What is off is shown as that, also where it is not by default."""
    loaded = from_arguments(parse(["a", "--socket", "s", "--request-slowlog-timeout", "0"]), {})
    assert line_of(render(loaded), "request_slowlog_timeout").startswith('request_slowlog_timeout = "off" ')
    assert again(loaded).config == loaded.config


def test_several_pools_load_again() -> None:
    """Two sockets on the command line are two tables, quoted where their names need it."""
    loaded = from_arguments(parse(["a", "--socket", "s", "--socket", "@t", "--name", "b.c", "--warmup", "/x"]), {})
    text = render(loaded)
    assert '\n[pool."b.c"]\n' in text
    assert '\n[pool."b.c-2"]\n' in text
    assert again(loaded).config == loaded.config


def test_the_pool_of_the_status_pages_is_not_shown() -> None:
    """What the server adds by itself is not the operator's to load: the option that asks for it says it all."""
    loaded = from_arguments(parse(["a", "--socket", "s", "--status-listen", "127.0.0.1:9000"]), {})
    text = render(loaded)
    assert line_of(text, "status_listen").split(None, 3) == ["status_listen", "=", '"127.0.0.1:9000"', "# command line"]
    assert [line for line in text.splitlines() if line.startswith("[")] == ["[pool.www]"]
    assert again(loaded).config == loaded.config


def test_delete_is_escaped() -> None:
    """What TOML does not allow within quotes is escaped."""
    loaded = from_arguments(parse(["a", "--socket", "s", "--chdir", "/a\x7f\n"]), {})
    assert tomllib.loads(render(loaded))["pool"]["www"]["chdir"] == "/a\x7f\n"


def test_callable() -> None:
    """An application that was given as it is has its name shown."""
    loaded = from_arguments(parse(["a", "--socket", "s"]), {})
    pool = replace(loaded.config.pools[0], app=test_callable)
    text = render(replace(loaded, config=replace(loaded.config, pools=(pool,))))
    assert line_of(text, "app").startswith(f'app = "{__name__}:test_callable"')
