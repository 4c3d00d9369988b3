"""One view for each thing a server can get wrong: sessions, forms, uploads, downloads, slowness."""

import hashlib
import time
from collections.abc import Iterator

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect, render

MEGABYTE = 1_048_576
LARGEST_DOWNLOAD = 1024
LONGEST_SLEEP = 60.0


class EntryForm(forms.Form):
    name = forms.CharField(max_length=80)
    text = forms.CharField(max_length=500, widget=forms.Textarea)


class UploadForm(forms.Form):
    file = forms.FileField()


def home(request: HttpRequest) -> HttpResponse:
    """Count this visitor's visits."""
    request.session["visits"] = request.session.get("visits", 0) + 1
    return render(request, "mysite/home.html", {"visits": request.session["visits"]})


def guestbook(request: HttpRequest) -> HttpResponse:
    """Show the visitor's own entries; a valid form adds one and redirects."""
    form = EntryForm(request.POST or None)
    if form.is_valid():
        entries = [*request.session.get("entries", []), form.cleaned_data]
        request.session["entries"] = entries[-5:]
        messages.success(request, f"Thank you, {form.cleaned_data['name']}.")
        return redirect("guestbook")
    return render(request, "mysite/guestbook.html", {"form": form, "entries": request.session.get("entries", [])})


def upload(request: HttpRequest) -> HttpResponse:
    """Answer an uploaded file with its size and SHA-256."""
    form = UploadForm(request.POST or None, request.FILES or None)
    if not form.is_valid():
        return render(request, "mysite/upload.html", {"form": form})
    digest = hashlib.sha256()
    for chunk in form.cleaned_data["file"].chunks():
        digest.update(chunk)
    return JsonResponse({"size": form.cleaned_data["file"].size, "sha256": digest.hexdigest()})


def download(request: HttpRequest) -> HttpResponse | StreamingHttpResponse:
    """Stream ``?mb=`` megabytes without ever holding more than one of them."""
    count = request.GET.get("mb", "50")
    if not count.isdecimal() or int(count) > LARGEST_DOWNLOAD:
        return HttpResponseBadRequest(f"mb must be a number up to {LARGEST_DOWNLOAD}\n")

    def megabytes() -> Iterator[bytes]:
        for number in range(int(count)):
            yield bytes([number % 256]) * MEGABYTE

    return StreamingHttpResponse(megabytes(), content_type="application/octet-stream")


def slow(request: HttpRequest) -> HttpResponse:
    """Take ``?s=`` seconds."""
    try:
        seconds = float(request.GET.get("s", "1"))
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= LONGEST_SLEEP:
        return HttpResponseBadRequest(f"s must be a number of seconds up to {LONGEST_SLEEP:g}\n")
    time.sleep(seconds)
    return HttpResponse(f"That took {seconds:g} s.\n", content_type="text/plain")
