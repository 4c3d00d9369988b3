"""The example Django project through the real nginx: pages, sessions, forms, uploads, downloads."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import urlencode

import pytest

from harness import REPOSITORY, Nginx, Response, Server, control, memory

pytestmark = pytest.mark.nginx

SITE = str(REPOSITORY / "examples" / "django_site")
MEGABYTE = 1_048_576


class Browser:
    """A client with cookies."""

    def __init__(self, nginx: Nginx) -> None:
        self._nginx = nginx
        self.cookies: dict[str, str] = {}

    def request(self, method: str, path: str, body: object = None, kind: str = "") -> Response:
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        if kind:
            headers["Content-Type"] = kind
        response = self._nginx.fetch(method, path, body=body, headers=headers)
        for line in response.headers.get_all("Set-Cookie", []):
            self.cookies |= {name: morsel.value for name, morsel in SimpleCookie(line).items()}
        return response

    def post(self, path: str, **fields: str) -> Response:
        return self.request("POST", path, urlencode(fields), "application/x-www-form-urlencoded")

    def token(self, path: str) -> str:
        """The CSRF token in a page's form."""
        found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', self.request("GET", path).text)
        assert found
        return found[1]


@pytest.fixture(scope="module")
def server(module_folder: Path) -> Iterator[Server]:
    options = ("--chdir", SITE, "--max-children", "1")
    with Server("validated:django_site()", *options, folder=module_folder) as running:
        yield running


@pytest.fixture(scope="module", params=["fastcgi", "http"])
def served(request: pytest.FixtureRequest, server: Server) -> Iterator[tuple[Server, Nginx]]:
    """One server behind both of nginx's ways to it."""
    with Nginx(server.address, folder=server.folder, protocol=request.param) as nginx:
        yield server, nginx
        assert nginx.errors() == []


@pytest.fixture
def browser(served: tuple[Server, Nginx]) -> Browser:
    return Browser(served[1])


def visits(response: Response) -> int:
    found = re.search(r'id="visits">(\d+)<', response.text)
    assert found
    return int(found[1])


def test_session(browser: Browser) -> None:
    """A session lives on from request to request."""
    assert [visits(browser.request("GET", "/")) for _ in range(3)] == [1, 2, 3]


def test_form(browser: Browser) -> None:
    """A form with its CSRF token is taken, redirects, and its text comes back as it was, beyond ASCII."""
    token = browser.token("/guestbook")
    answer = browser.post("/guestbook", csrfmiddlewaretoken=token, name="Zoë", text="日本 & <b>")
    assert (answer.status, answer.headers["Location"]) == (302, "/guestbook")
    page = browser.request("GET", "/guestbook").text
    assert "Thank you, Zoë." in page
    assert "<b>Zoë</b>: 日本 &amp; &lt;b&gt;" in page


def test_form_without_token(browser: Browser) -> None:
    """Without the token Django refuses the form."""
    assert browser.post("/guestbook", name="x", text="y").status == 403


def test_not_found(browser: Browser) -> None:
    """An unknown page is Django's 404."""
    assert browser.request("GET", "/nowhere").status == 404


def multipart(fields: dict[str, str], content: bytes) -> tuple[str, bytes]:
    parts = [
        f'--frontier\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}' for key, value in fields.items()
    ]
    parts += ['--frontier\r\nContent-Disposition: form-data; name="file"; filename="big"\r\n\r\n']
    return "multipart/form-data; boundary=frontier", "\r\n".join(parts).encode() + content + b"\r\n--frontier--\r\n"


def test_upload_in_flat_memory(served: tuple[Server, Nginx], browser: Browser) -> None:
    """A file of 50 MB arrives whole through a form, and the worker's memory does not grow with it."""
    server, _ = served
    kind, small = multipart({"csrfmiddlewaretoken": browser.token("/upload")}, b"small")
    assert browser.request("POST", "/upload", small, kind).status == 200  # what is loaded once is loaded
    content = bytes(range(256)) * (50 * MEGABYTE // 256)
    kind, body = multipart({"csrfmiddlewaretoken": browser.token("/upload")}, content)
    (worker,) = server.workers()
    Path(f"/proc/{worker}/clear_refs").write_text("5")  # VmHWM begins anew, proc(5)
    before = memory(worker)
    answer = browser.request("POST", "/upload", body, kind)
    assert answer.status == 200
    assert json.loads(answer.text) == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert server.workers() == [worker]
    assert memory(worker, "VmHWM") - before < 8 * MEGABYTE


def test_download(served: tuple[Server, Nginx]) -> None:
    """A streamed download of 50 MB arrives whole, in order, and the worker's memory does not grow with it."""
    server, nginx = served
    assert nginx.fetch("GET", "/download?mb=1").status == 200
    (worker,) = server.workers()
    Path(f"/proc/{worker}/clear_refs").write_text("5")
    before = memory(worker)
    digest, size = hashlib.sha256(), 0
    with nginx.open("GET", "/download?mb=50") as response:
        while chunk := response.read(65_536):
            digest.update(chunk)
            size += len(chunk)
    expected = hashlib.sha256(b"".join(bytes([number]) * MEGABYTE for number in range(50)))
    assert (size, digest.hexdigest()) == (50 * MEGABYTE, expected.hexdigest())
    assert memory(worker, "VmHWM") - before < 8 * MEGABYTE


def test_as_the_readme_says(folder: Path) -> None:
    """``mysite.wsgi:application`` itself is served from the project's folder, found there without an option."""
    with (
        Server("mysite.wsgi:application", "--workers", "2", folder=folder, chdir=Path(SITE)) as server,
        Nginx(server.address, folder=folder) as nginx,
    ):
        assert visits(nginx.fetch()) == 1


@pytest.mark.parametrize(("options", "reason"), [((), ""), (("--canary", "/"), "views.py, line ")])
def test_a_view_that_cannot_be_imported(folder: Path, options: tuple[str, ...], reason: str) -> None:
    """The import loads no views: a reload takes what is wrong there, unless a canary asks for a page."""
    site = folder / "site"
    shutil.copytree(SITE, site, ignore=shutil.ignore_patterns("__pycache__"))
    options = ("--workers", "1", "--control-socket", str(folder / "c.sock"), *options)
    with Server("mysite.wsgi:application", *options, folder=folder, chdir=site) as server:
        with (site / "mysite" / "views.py").open("a") as views:
            views.write("\ndef (:\n")
        done = control(folder, "--control", str(folder / "c.sock"), "reload", status=1 if reason else 0)
        assert reason in done.stderr
        with Nginx(server.address, folder=folder) as nginx:
            assert nginx.fetch().status == (200 if reason else 500)
