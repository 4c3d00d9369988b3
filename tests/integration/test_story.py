"""The story of examples/listen-queue-overflow, played: an overload, and the line of the application that caused it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness import environment, stretch

STORY = Path(__file__).parents[2] / "examples" / "listen-queue-overflow"

_ENDED = (
    r"when it was over: connections waited for ([\d.]+) s, at most 21 at once; "
    r"the queue was full for at least ([\d.]+) s"
)


def line_that_waits() -> int:
    lines = (STORY / "shop" / "db.py").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if "return _connection.recv" in line)


@pytest.mark.nginx
@pytest.mark.tool("ss")
@pytest.mark.once
@pytest.mark.timeout(220)
def test_from_the_symptom_to_the_culprit(folder: Path) -> None:
    """Fifty workers, a backlog of twenty, a hundred visitors a second; one makes the database stall for five seconds.

    nginx is refused with 11; ss shows the queue beyond its limit, and so does the status; the first line of the episode
    names the application's function and line, how many stood there, and the end says for how long the queue was full;
    from nginx's log explain finds that episode.

    A machine that has hardly time for a hundred visitors a second has one try more.
    """
    try:
        assert_told(folder)
    except AssertionError:
        if stretch() < 2.0:
            raise
        assert_told(folder)


def assert_told(folder: Path) -> None:
    """Play it."""
    command = [sys.executable, str(STORY / "story.py"), "--short"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment({}), timeout=100, check=False, cwd=folder
    )
    told = done.stdout
    assert done.returncode == 0, done.stderr

    assert re.search(r"u_str +LISTEN 2[01] +20 ", told), told
    assert re.search(r"listen queue: +2[01]$", told, re.MULTILINE), told
    assert re.search(r"active processes: +50$", told, re.MULTILINE), told
    answers = dict(reversed(pair.split(" × ")) for pair in re.search(r"visitors: (.*)", told)[1].split(", "))  # type: ignore[index, misc]
    assert answers.keys() == {"200", "502"}
    assert int(answers["502"]) > 100
    assert "(11: Resource temporarily unavailable)" in told
    episode = told.partition("prefork's log, while it happened:\n")[2].splitlines()
    found = re.fullmatch(
        rf" +(\d+) of 50 in shop/db\.py:{line_that_waits()} fetch_user, [\d.–]+ s, e\.g\. GET /\w*", episode[0]
    )
    assert found is not None, told
    assert int(found[1]) >= 45
    assert "shop/db.py" in episode[1]
    assert "yearly_report" in episode[1]
    ended = re.search(_ENDED, told)
    assert ended is not None, told
    assert 3.0 < float(ended[2]) <= float(ended[1]) < 6.0
    assert f"{answers['502']} × the listen queue was full" in told
    assert re.search(r"matches +the saturation of .*: \d+ of 50 in shop/db\.py", told), told
