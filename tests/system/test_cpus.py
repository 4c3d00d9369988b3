"""How many CPUs there are for us: affinity, both versions of control groups, and whatever may be missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prefork.system.cpus import Cpus, usable_cpus


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def quota(folder: Path, membership: str, **files: str) -> float | None:
    """The quota found for a membership and a mount that holds these files (``__`` for a slash)."""
    write(folder / "membership", membership)
    for name, text in files.items():
        write(folder / "mount" / name.replace("__", "/").replace("cpu_", "cpu."), text)
    return usable_cpus(folder / "membership", folder / "mount").quota


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"cpu_max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu_max": "max 100000\n"}, None),
        ("0::/a/b\n", {"a__b__cpu_max": "max 100000\n", "a__cpu_max": "50000 100000\n"}, 0.5),
        ("0::/a/b\n", {"a__b__cpu_max": "100000 100000\n", "a__cpu_max": "50000 100000\n"}, 0.5),
        ("0::/of/the/host\n", {"cpu_max": "200000 100000\n"}, 2.0),
        ("0::/../sideways\n", {"cpu_max": "200000 100000\n"}, 2.0),
        (
            "3:cpuset:/\n1:cpu,cpuacct:/a\n0::/\n",
            {"cpu,cpuacct__a__cpu_cfs_quota_us": "25000\n", "cpu,cpuacct__a__cpu_cfs_period_us": "50000\n"},
            0.5,
        ),
        ("1:cpu:/\n", {"cpu__cpu_cfs_quota_us": "-1\n", "cpu__cpu_cfs_period_us": "100000\n"}, None),
        ("1:cpuacct:/\n", {"cpu__cpu_cfs_quota_us": "1000\n", "cpu__cpu_cfs_period_us": "100000\n"}, None),
        ("1:cpu:/x\n0::/x\n", {"unified__x__cpu_max": "100000 100000\n"}, 1.0),
    ],
)
def test_quota(folder: Path, membership: str, files: dict[str, str], expected: float | None) -> None:
    """The smallest quota from our group up to the root, in CPUs; none where none is set."""
    assert quota(folder, membership, **files) == expected


@pytest.mark.parametrize("text", ["", "nonsense\n", "1 2 3\n", "100000 0\n", "-", "1.5 100000"])
def test_nonsense_is_no_limit(folder: Path, text: str) -> None:
    """What is not understood does not make the machine smaller."""
    assert quota(folder, "0::/\nnonsense\n", cpu_max=text) is None
    assert quota(folder, "1:cpu:/\n", cpu__cpu_cfs_quota_us=text, cpu__cpu_cfs_period_us="0") is None


def test_nothing_to_read(folder: Path) -> None:
    """Without control groups the affinity is what counts."""
    found = usable_cpus(folder / "none", folder / "none")
    assert (found.quota, found.usable) == (None, len(os.sched_getaffinity(0)))


def test_this_machine() -> None:
    """The real files are read, whatever they say here."""
    assert 1 <= usable_cpus().usable <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("cpus", "usable", "text"),
    [
        (Cpus(1, 1), 1, "1 usable CPU"),
        (Cpus(8, 8), 8, "8 usable CPUs"),
        (Cpus(2, 8), 2, "2 usable CPUs (affinity: 2 of 8)"),
        (Cpus(8, 8, 1.5), 2, "2 usable CPUs (cgroup quota: 1.5 of 8)"),
        (Cpus(4, 8, 0.1), 1, "1 usable CPU (affinity: 4 of 8, cgroup quota: 0.1 of 4)"),
        (Cpus(4, 4, 64.0), 4, "4 usable CPUs"),
    ],
)
def test_in_words(cpus: Cpus, usable: int, text: str) -> None:
    """A part of a CPU counts as one, and only what limits is mentioned."""
    assert (cpus.usable, str(cpus)) == (usable, text)
