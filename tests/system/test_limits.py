"""Limits of the processes that run the application: checked before, set for good."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from apart import NOBODY, run_apart
from prefork.errors import ConfigurationError, PermissionProblem
from prefork.system.limits import UNLIMITED, ResourceLimits

APPLY = """
import resource
from prefork.system.limits import ResourceLimits
limits = ResourceLimits({})
limits.check()
limits.apply()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
found = resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CORE)
print(*found, status["NoNewPrivs"].strip())
"""


def applied(text: str, **options: int) -> str:
    return run_apart(APPLY.format(text), **options)  # type: ignore[arg-type]


def test_limits_are_set_soft_and_hard() -> None:
    """And the privilege bit, which nothing takes back."""
    assert applied("files=256, core=0, no_new_privs=True") == "(256, 256) (0, 0) 1"


def test_what_is_not_said_stays() -> None:
    """As it was inherited."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CORE)
    assert applied("").startswith(f"{before[0]} {before[1]} ")


@pytest.mark.root
def test_an_ordinary_user_stays_below_the_hard_limit() -> None:
    """Found before anything is started, with the numbers."""
    lower = "import resource\nresource.setrlimit(resource.RLIMIT_{0}, (10, 100))\n"
    user = f"os.setgid({NOBODY})\nos.setuid({NOBODY})\n"
    for kind, option in (("NOFILE", "files"), ("CORE", "core")):
        script = lower.format(kind) + user + APPLY.format(f"{option}=200")
        assert run_apart(script).startswith(
            f"PermissionProblem rlimit_{option} 200: nobody may not exceed the hard limit, 100: start as root"
        )
    assert "rlimit_core -1: nobody" in run_apart(lower.format("CORE") + user + APPLY.format("core=-1"))
    assert "(100, 100)" in run_apart(lower.format("NOFILE") + user + APPLY.format("files=100"))


@pytest.mark.root
@pytest.mark.parametrize(
    ("kind", "option", "raised"), [("NOFILE", "files=200", "(200, 200)"), ("CORE", "core=-1", "-1")]
)
def test_root_may_raise_it_if_the_kernel_agrees(kind: str, option: str, raised: str) -> None:
    """In a container it may lack the capability; then that is found before anything is started."""
    lower = f"import resource\nresource.setrlimit(resource.RLIMIT_{kind}, (100, 100))\n"
    found = applied(option) if kind == "CORE" else run_apart(lower + APPLY.format(option))
    assert raised in found or "PermissionProblem" in found


def test_more_than_the_kernel_has() -> None:
    """fs.nr_open bounds everybody."""
    most = int(Path("/proc/sys/fs/nr_open").read_text())
    with pytest.raises(ConfigurationError, match=f"rlimit_files {most + 1}: the kernel allows at most {most}"):
        ResourceLimits(files=most + 1).check()


def test_a_check_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel refuses is a problem; what it grants is given back."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    ResourceLimits(core=0).check()
    assert resource.getrlimit(resource.RLIMIT_CORE) == before

    def refuse(_kind: int, _limits: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (0, 10))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    with pytest.raises(PermissionProblem, match="may not exceed the hard limit, 10"):
        ResourceLimits(core=UNLIMITED).check()
    tries: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _kind, limits: tries.append(limits))
    ResourceLimits(core=11).check()
    assert tries == [(0, 11), (0, 10)]
