"""What the pages and examples tell people to copy: links, nginx's lines, units, configuration files."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness import PATIENCE, REPOSITORY, environment, run

pytestmark = pytest.mark.once

PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("examples/**/*.md")])
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")

_AROUND = """\
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {servers}
}}
"""


def named(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def blocks(page: Path, language: str) -> list[str]:
    return [text for tag, text in _BLOCK.findall(page.read_text()) if tag == language]


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", _BLOCK.sub("", page.read_text()), re.MULTILINE)
    words = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", each).strip().replace(" ", "-") for each in words}


def with_block(language: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, language)]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    """The file that a link names exists, and the heading in it."""
    lost = []
    for link in _LINK.findall(_BLOCK.sub("", page.read_text())):
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        if "://" not in link and (not target.exists() or (heading and heading not in anchors(target))):
            lost.append(link)
    assert lost == []


def test_every_page_is_found_from_the_readme() -> None:
    """Each page of docs/ is linked there."""
    readme = (REPOSITORY / "README.md").read_text()
    assert [page.name for page in REPOSITORY.glob("docs/*.md") if f"(docs/{page.name})" not in readme] == []


def accepted(folder: Path, servers: str) -> subprocess.CompletedProcess[str]:
    """What nginx says of server blocks."""
    for name in ("fastcgi_params", "uwsgi_params"):
        shutil.copy(f"/etc/nginx/{name}", folder / name)
    (folder / "nginx.conf").write_text(_AROUND.format(folder=folder, servers=servers))
    return subprocess.run(
        ["nginx", "-t", "-q", "-e", "stderr", "-c", str(folder / "nginx.conf")],
        env=environment({"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.nginx
@pytest.mark.parametrize("page", with_block("nginx"), ids=named)
def test_nginx_takes_what_the_page_says(folder: Path, page: Path) -> None:
    """Each block of nginx's lines stands in a server; those that take turns may stand for the same location."""
    servers = "".join(
        f"server {{ listen unix:{folder}/{number}.sock;\n{text}}}\n"
        for number, text in enumerate(blocks(page, "nginx"))
    )
    done = accepted(folder, servers)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.nginx
def test_nginx_takes_the_example(folder: Path) -> None:
    """The site's file, but for the port."""
    site = (REPOSITORY / "examples" / "nginx" / "site.conf").read_text()
    assert "listen 80;" in site
    done = accepted(folder, site.replace("listen 80;", f"listen unix:{folder}/site.sock;"))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("page", with_block("toml"), ids=named)
def test_configuration_files_are_understood(folder: Path, page: Path) -> None:
    """Each one is a file that prefork-serve takes."""
    for text in blocks(page, "toml"):
        (folder / "prefork.toml").write_text(text)
        done = run(sys.executable, "-m", "prefork", "--config", "prefork.toml", "--show-config", folder=folder)
        assert done.returncode == 0, done.stderr


@pytest.mark.tool("systemd-analyze")
def test_systemd_has_nothing_against_the_unit_of_the_readme(folder: Path) -> None:
    """No unknown key, no value that it does not take, and it can be enabled."""
    (unit,) = blocks(REPOSITORY / "README.md", "ini")
    assert "[Install]" in unit
    text = re.sub(r"(?m)^User=.*$", "User=daemon", re.sub(r"/srv/mysite/\.venv/bin/\S+", "/bin/true", unit))
    (folder / "mysite.service").write_text(text.replace("/srv/mysite", str(folder)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "./mysite.service"],
        cwd=folder,
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout + done.stderr == ""
