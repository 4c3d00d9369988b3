"""The same small site in Flask: a session, a form, an upload, a streamed download."""

import hashlib
import os
from collections.abc import Iterator

from flask import Flask, Response, abort, jsonify, redirect, render_template_string, request, session, url_for
from werkzeug.wrappers import Response as AnyResponse

MEGABYTE = 1_048_576
LARGEST_DOWNLOAD = 1024

app = Flask(__name__)
# Give a real application one of its own, in its environment (systemd: EnvironmentFile=), not on a command line.
app.secret_key = os.environ.get("SECRET_KEY", "insecure: good enough for a demonstration on one's own machine")

HOME = """<!doctype html><title>flask_app</title>
<h1>It works</h1>
<p>{% if name %}Hello, <b>{{ name }}</b>. {% endif %}Visits of yours: <b id="visits">{{ visits }}</b></p>
<form method="post" action="{{ url_for('greet') }}"><input name="name" required> <button>That is me</button></form>
"""


@app.get("/")
def home() -> str:
    session["visits"] = session.get("visits", 0) + 1
    return render_template_string(HOME, visits=session["visits"], name=session.get("name"))


@app.post("/greet")
def greet() -> AnyResponse:
    session["name"] = request.form["name"]
    return redirect(url_for("home"))


@app.put("/upload")
def upload() -> Response:
    """The whole body is the file: ``curl -T FILE``. It is hashed as it arrives."""
    digest, size = hashlib.sha256(), 0
    while chunk := request.stream.read(65_536):
        digest.update(chunk)
        size += len(chunk)
    return jsonify(size=size, sha256=digest.hexdigest())


@app.get("/download")
def download() -> Response:
    count = request.args.get("mb", 50, type=int)
    if not 0 <= count <= LARGEST_DOWNLOAD:
        abort(400, f"mb must be a number up to {LARGEST_DOWNLOAD}")

    def megabytes() -> Iterator[bytes]:
        for number in range(count):
            yield bytes([number % 256]) * MEGABYTE

    return Response(megabytes(), mimetype="application/octet-stream")
