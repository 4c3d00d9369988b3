"""The command line's own affairs: help and version. What the words mean is tested with loading."""

from __future__ import annotations

import platform

import pytest

import prefork
from prefork.config.arguments import parse
from prefork.config.options import OPTIONS


@pytest.fixture
def text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The help as a terminal of 80 columns shows it."""
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        parse(["--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_help_fits(text: str) -> None:
    """No line of the help is wider than the terminal everybody has."""
    assert [line for line in text.splitlines() if len(line) > 80] == []


def test_help_is_whole(text: str) -> None:
    """Every option is there, with the word for its value."""
    assert [option.flag for option in OPTIONS if f"  {option.flag} {option.metavar}".rstrip() not in text] == []


@pytest.mark.parametrize("default", ["(0660)", "(4096)", "(25s)", "(1m)", "(64K)", "(200)", "(off)", "(www)", "(info)"])
def test_help_tells_defaults(text: str, default: str) -> None:
    """Defaults stand in the help in the words in which one would say them."""
    assert default in " ".join(text.split())


def test_help_has_no_defaults_of_python(text: str) -> None:
    """What has no default has no Python value for one."""
    assert [word for word in ("None", "()", "({})", "MISSING") if word in text.replace("factory()", "")] == []


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """The version is that of the package, with the Python it runs on."""
    with pytest.raises(SystemExit) as caught:
        parse(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"prefork {prefork.__version__}, Python {platform.python_version()}\n"


def test_uses() -> None:
    """Lists keep all uses, other options the last."""
    assert parse(["a", "--socket", "x", "--socket=y", "--backlog", "1", "--backlog", "2"]).uses == {
        "app": ["a"],
        "socket": ["x", "y"],
        "backlog": ["2"],
    }
