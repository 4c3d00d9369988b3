"""The kernel's count of those it killed: found in every layout of cgroups, compared, and for once made to rise."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cgroups import limited_memory
from prefork.system.oom import OomWatch, find_counter


class Machine:
    """A /proc and mounted trees, made of files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.proc = folder / "proc"
        (self.proc / "self").mkdir(parents=True)

    def write(self, name: str, text: str) -> Path:
        """A file, by its path within the machine."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def counts(self, name: str, count: int) -> Path:
        """One of the kernel's files, with the lines around that it has."""
        return self.write(name, f"low 0\noom 5\noom_kill {count}\noom_group_kill 0\n")

    def membership(self, *lines: str) -> None:
        """What /proc/self/cgroup says."""
        self.write("proc/self/cgroup", "".join(f"{line}\n" for line in lines))

    def mounts(self, *lines: str) -> None:
        """What /proc/self/mountinfo says; FOLDER is the machine's."""
        text = "".join(f"{line}\n" for line in lines)
        self.write("proc/self/mountinfo", text.replace("FOLDER", str(self.folder)))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


V2 = "31 23 0:26 / FOLDER/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
V1_CPU = "32 31 0:29 / FOLDER/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct"
V1_MEMORY = "35 31 0:32 / FOLDER/cgroup/memory rw,relatime - cgroup cgroup rw,memory"


def test_version_2(machine: Machine) -> None:
    """A service of systemd: memory.events of its own cgroup."""
    machine.membership("0::/system.slice/shop.service")
    machine.mounts("22 1 8:1 / / rw - ext4 /dev/sda1 rw", V2)
    expected = machine.counts("cgroup/system.slice/shop.service/memory.events", 3)
    assert find_counter(machine.proc) == expected


def test_version_1(machine: Machine) -> None:
    """One tree a controller: only that of memory counts."""
    machine.membership("5:memory:/shop", "4:cpu,cpuacct:/other", "1:name=systemd:/shop", "0::/")
    machine.mounts(V1_CPU, V1_MEMORY)
    expected = machine.counts("cgroup/memory/shop/memory.oom_control", 0)
    machine.counts("cgroup/cpu/other/memory.oom_control", 0)
    assert find_counter(machine.proc) == expected


def test_both_versions(machine: Machine) -> None:
    """With both mounted, the memory controller is in one of them."""
    machine.membership("4:memory:/shop", "0::/shop")
    machine.mounts(V2.replace("cgroup rw", "cgroup/unified rw"), V1_MEMORY)
    (machine.folder / "cgroup/unified/shop").mkdir(parents=True)
    expected = machine.counts("cgroup/memory/shop/memory.oom_control", 0)
    assert find_counter(machine.proc) == expected


@pytest.mark.parametrize(
    ("path", "root"),
    [("/", "/"), ("/docker/7f", "/docker/7f"), ("/docker/7f/shop", "/docker/7f"), ("/a b", "/a\\040b")],
)
def test_container(machine: Machine, path: str, root: str) -> None:
    """In a container only its part of the tree is mounted; with a namespace it looks like a whole one."""
    machine.membership(f"0::{path}")
    machine.mounts(V2.replace(" / FOLDER", f" {root} FOLDER"))
    below = "shop/" if path.endswith("shop") else ""
    expected = machine.counts(f"cgroup/{below}memory.events", 0)
    assert find_counter(machine.proc) == expected


def test_a_mounted_part_that_is_not_ours(machine: Machine) -> None:
    """A tree that does not hold this process's cgroup has nothing to say of it; the machine has."""
    machine.membership("0::/system.slice")
    machine.mounts(V2.replace(" / FOLDER", " /docker/7f FOLDER"))
    machine.counts("cgroup/memory.events", 0)
    machine.counts("system.slice/memory.events", 0)
    expected = machine.counts("proc/vmstat", 7)
    assert find_counter(machine.proc) == expected


def test_root_cgroup(machine: Machine) -> None:
    """The root of the tree has no such file."""
    machine.membership("0::/")
    machine.mounts(V2)
    (machine.folder / "cgroup").mkdir()
    expected = machine.counts("proc/vmstat", 0)
    assert find_counter(machine.proc) == expected


def test_nothing(machine: Machine) -> None:
    """No cgroups, an old kernel, files that look different: nothing is counted, and nothing goes wrong."""
    assert find_counter(machine.proc) is None
    machine.membership("garbage", "", "0:", "0::", "7:memory")
    machine.mounts("garbage", "", "1 2 3 4 - cgroup2", "1 2 3 / FOLDER - cgroup2 x")
    machine.write("proc/vmstat", "oom_kill\noom_kill many\noom_kills 3\n")
    assert find_counter(machine.proc) is None
    assert OomWatch(None).explain() == ""


def test_explained_once(machine: Machine) -> None:
    """Each kill that was counted explains one death, and what was counted before explains none.

    The words are always the same: deaths are counted by their cause.
    """
    counter = machine.counts("memory.events", 7)
    watch = OomWatch(counter)
    assert watch.explain() == ""
    machine.counts("memory.events", 9)
    expected = f"out of memory, killed by the kernel (oom_kill in {counter})"
    assert [watch.explain(), watch.explain(), watch.explain()] == [expected, expected, ""]
    machine.counts("memory.events", 10)
    assert watch.explain() == expected
    counter.unlink()
    assert watch.explain() == ""


@pytest.fixture
def limited() -> Iterator[Path]:
    with limited_memory(64 * 1024**2) as folder:
        yield folder


def test_for_real(limited: Path) -> None:
    """A process that takes more than its cgroup has is killed, and its own count says so."""
    counter = limited / ("memory.events" if (limited / "memory.events").exists() else "memory.oom_control")
    watch = OomWatch(counter)
    script = (
        f"open({str(limited / 'cgroup.procs')!r}, 'w').write('0')\n"
        "from pathlib import Path\n"
        "from prefork.system.oom import find_counter\n"
        f"assert find_counter(Path('/proc')) == Path({str(counter)!r}), find_counter(Path('/proc'))\n"
        "hoard = [b'x' * 2**20 for _ in range(4096)]\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
    assert watch.explain().startswith("out of memory, killed by the kernel (oom_kill in ")
    assert watch.explain() == ""
