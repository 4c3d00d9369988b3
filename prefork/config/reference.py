"""The reference of options, docs/configuration.md, written from the table.

``python -m prefork.config.reference > docs/configuration.md`` renews it; a test holds that it is up to date.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final

from prefork.config.option import Option
from prefork.config.options import APP, GROUPS, OPTIONS, SERVER_KEYS, default_text, defaults

__all__ = ["document", "takes"]

_WIDTH: Final = 118

_HEAD: Final = """\
# Configuration

<!-- Written by `python -m prefork.config.reference` from the table of options. Change that, not this. -->

Every option has one name. `max_children` is `--max-children 8` on the command line, `PREFORK_MAX_CHILDREN=8` in the
environment, `max_children = 8` in a file and `max_children=8` in `prefork.serve()`. The command line (or the program)
wins over the environment, the environment over the file, the file over the default; option by option, and a list or
`env` as a whole. A value that lost is not looked at.

What cannot be understood is an error and never ignored: an unknown name is told with its nearest neighbour, a wrong
value with its file and table, what was expected and what was found. The exit status is 64 for a command line that
makes no sense, 78 for a configuration that cannot be.

* **Durations** are `250ms`, `30s`, `5m`, `1h` or plain seconds; **sizes** `64K`, `256M`, `1G` or plain bytes;
  **shares** `10%` or `0.1`. A limit that may be none is turned off by `off` or `0`.
* **Users and groups** are names or numbers; a number needs no entry in passwd or group.
* **Modes** are octal digits as chmod(1) takes them. In a file they are written `"0660"` or `0o660`: `660` is a
  decimal number there, and refused.
* **Switches** are `--daemonize` and `--no-daemonize`, `PREFORK_DAEMONIZE=on` or `off`, `daemonize = true` or `false`.
* **Numbers and switches** in a file may also be texts, as in the environment: `backlog = "4096"`, `daemonize = "on"`.
* **Lists** are said by repeating the option on the command line, as words quoted as in a shell (directories:
  separated by colons) in one variable, and as `["a", "b"]` in a file. `env` is a table there: `env = { NAME = "value"
  }`.
* **Paths** that are relative count from the directory in which the server is started, wherever they are said; only
  `include` counts from the file that it stands in.

An environment variable `PREFORK_…` that names no option is an error; one that is empty counts as not set. `SOCK_PATH`
is the socket when nothing else names one.

## The file

```toml
# the server's options come first
log_level = "info"
include = "pools/*.toml"

[pool.shop]
app = "shop.wsgi:application"
socket = "/run/shop/app.sock"
max_children = 8
env = { DJANGO_SETTINGS_MODULE = "shop.settings" }

[pool.admin]
app = "admin:create_app()"
socket = "/run/admin/app.sock"
```

`prefork-serve --config prefork.toml` serves it, and so does `PREFORK_CONFIG=prefork.toml prefork-serve`. Each table
`[pool.NAME]` is a pool: one socket, one application, its workers and their limits; one master looks after all of
them. What is marked *server* below stands at the top, everything else in the pools.

`include` takes a pattern or a list of them. The files are read in the order of the patterns, and by name within one.
A pattern may match nothing, a plain name must exist. Nothing may be said twice: a file that sets an option of the
server that another has set, or a pool that is there already, is an error, and so is a file that leads back to itself.

### The file and the command line together

What the command line and the environment say of a pool's options, they say of every pool of the file. `app`, `socket`
and `name`, which tell pools apart, can be said beside a file that describes one pool, whose own they replace, or
none, to which they add one. Beside several pools they are refused, because nobody could know which is meant.
`SOCK_PATH` counts for a single pool that has no `socket`.

### What cannot be meant

Combinations that contradict themselves are errors that name both sides:

* `workers` with `max_children`, another `pm` than static, or spares, in one source;
* `min_spare_servers`, `start_servers`, `max_spare_servers` and `max_children` out of this order, as far as they are
  said: those that are not make room;
* `pm = "ondemand"` with `preload = "never"`: every first request would wait for an import;
* a `request_terminate_timeout` that is not longer than the `request_timeout`;
* `socket_mode`, `socket_owner` or `socket_group` for a socket that is inherited or has no file;
* a `socket_mode` that lets nobody connect;
* `warmup` with `preload = "never"`;
* `daemonize` with an `error_log` on stderr (the default), or with an `access_log` on standard output;
* `allowed_addresses` for a Unix socket;
* `protocol = "fastcgi"` on an address that other machines can reach, without `allowed_addresses`;
* `none` in `forwarded_allow` beside others;
* one path as `status_path` and `ping_path`;
* one path for two pools, or for a socket and a pid file, a control socket or a log.

`access_log_format` or `access_log_suppress` without an `access_log` is a warning, and so are `forwarded_allow` where
no HTTP is spoken; spares and `start_servers` with another manager than dynamic, `max_spawn_rate` and
`process_idle_timeout` with static; `max_requests_jitter` without `max_requests`; `ping_response` without a `ping_path`;
a `request_slowlog_timeout` at or beyond another limit that ends the request; and a `slowlog` when slow requests are
not logged.

### Looking before serving

`prefork-serve --config prefork.toml --check` looks at all that a start would look at: every value, users, groups,
paths, the place of each socket, and the import of each application, in a process of its own, as the user it would run
as. It prints a line for each pool, leaves nothing behind, does not disturb a server that is running with that
configuration, and exits with 0 or 78 (64 where no application or socket is named). Only a socket that is passed
(`fd://N`, `systemd`, `starter`) is not looked at before it serves.

`--show-config` prints what is in effect, as a file that could be loaded again, and beside every value where it comes
from: the default, the table of the file, the variable, or the command line. Values in `env` are not shown, since
passwords live there.
"""


def document() -> str:
    """The whole text."""
    known = defaults()
    lines = [_HEAD, "## The application", "", *_entry(APP, known)]
    for group in GROUPS:
        lines += [f"## {group.capitalize()}", ""]
        for option in OPTIONS:
            if option.group == group:
                lines += _entry(option, known)
    return "\n".join(lines).rstrip("\n") + "\n"


def _entry(option: Option, known: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {option.key}"
    yield ""
    yield _filled(f"{option.help}.")
    yield ""
    yield _filled(f"{_names(option)} Takes {takes(option)}. {_default(option, known)}")
    yield ""


def _names(option: Option) -> str:
    if option is APP:
        command_line = f"`{option.metavar}`"
    elif option.switch:
        command_line = f"`{option.flag}`, `{option.off_flag}`"
    else:
        command_line = f"`{option.flag} {option.metavar}`"
    where = "server" if option.key in SERVER_KEYS else "pool"
    return f"*{where}* · {command_line} · `{option.variable}`."


def takes(option: Option) -> str:
    """What the option's reader says it expects: nothing that can be said has a NUL."""
    try:
        option.read("\0")
    except ValueError as expected:
        return str(expected)
    return "any text"


def _default(option: Option, known: Mapping[str, Any]) -> str:
    if option.key == "workers":
        return "It cannot be said beside `max_children`, spares or another manager."
    text = default_text(option, known)
    if not text:
        return "There is no default." if option.key in ("app", "socket") else "Default: none."
    plain = option.computed or (option.unset and text == option.unset and text != "off")
    return f"Default: {text}." if plain else f"Default: `{text}`."


def _filled(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    sys.stdout.write(document())
