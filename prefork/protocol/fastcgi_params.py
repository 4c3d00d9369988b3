"""The PARAMS stream of a FastCGI request as text, in one pass. Everything a stranger may do to it is bounded here.

`decode_parameters` is the whole truth: what it makes of a stream, and what it refuses. A `Decoder` says the same,
sooner, by what it remembers of the requests before: a proxy sends the same parameters in the same order, and most have
the same values.
"""

from __future__ import annotations

from typing import Any, Final, final

from prefork.errors import ProtocolError
from prefork.protocol.fastcgi_records import decode_pairs
from prefork.protocol.request import merge_duplicate

__all__ = ["CGI_VARIABLES", "MAX_NAME", "Decoder", "decode_parameters"]

# nginx's default for a whole header field is 8 KiB (large_client_header_buffers).
MAX_NAME: Final = 4_096

# Parameters that are no headers, on top of max_header_count. nginx's stock file sends 24.
CGI_VARIABLES: Final = 100

# What a `Decoder` remembers is made of heads up to this size. A head with a few long cookies has 4 KiB.
_LARGEST_KNOWN: Final = 16_384
# Comparing a run of pairs costs as much as decoding one or two.
_SHORTEST_RUN: Final = 3
# Requests after which everything is learned anew: what was an exception once is not to cost time for ever.
_MEMORY: Final = 16_384
# What a client must prove to know is not compared with what another one sent.
_SECRET: Final = (b"HTTP_COOKIE", b"HTTP_AUTHORIZATION")
_TO_THE_END: Final = 1 << 30


def decode_parameters(data: bytes, max_count: int) -> dict[str, Any]:
    """The parameters of a request as latin-1 text; raises `ProtocolError`.

    One pass: the bytes become text once, lengths are read from the bytes and values sliced from the text. A NUL in a
    name or value is found by counting (every zero byte must be part of a length), a repeated name by the dict's size.
    """
    text = data.decode("latin-1")
    environ: dict[str, Any] = {}
    size = len(data)
    offset = count = zeros = 0
    try:
        while offset < size:
            name_length = data[offset]
            value_length = data[offset + 1]
            if name_length < 128 and value_length < 128:
                offset += 2
                if not value_length:
                    zeros += 1
                if not name_length:
                    zeros += 1
            else:
                name_length, offset, found = _length(data, offset)
                zeros += found
                value_length, offset, found = _length(data, offset)
                zeros += found
                if name_length > MAX_NAME:
                    raise ProtocolError(f"a parameter's name has {name_length} bytes, {MAX_NAME} are allowed", 431)
            middle = offset + name_length
            stop = middle + value_length
            environ[text[offset:middle]] = text[middle:stop]
            offset = stop
            count += 1
    except IndexError:
        offset = size + 1
    if offset > size:
        raise ProtocolError("a parameter goes on after the end of its stream")
    if count > max_count:
        raise ProtocolError(f"the request has {count} parameters, {max_count} are allowed", 431)
    if data.count(0) != zeros:
        raise ProtocolError("a parameter contains a NUL byte")
    return environ if len(environ) == count else _merged(data)


def _length(data: bytes, offset: int) -> tuple[int, int, int]:
    """A length of one or four bytes, the offset behind it, and how many of its bytes are zero."""
    first = data[offset]
    if first < 128:
        return first, offset + 1, 0 if first else 1
    last = data[offset + 3]
    length = (first & 0x7F) << 24 | data[offset + 1] << 16 | data[offset + 2] << 8 | last
    return length, offset + 4, data.count(0, offset, offset + 4)


def _merged(data: bytes) -> dict[str, Any]:
    """The parameters when a name occurs more than once."""
    environ: dict[str, Any] = {}
    for raw_name, raw_value in decode_pairs(data):
        name = raw_name.decode("latin-1")
        value = raw_value.decode("latin-1")
        environ[name] = merge_duplicate(name, environ[name], value) if name in environ else value
    return environ


@final
class Decoder:
    """Decodes the parameters of one request after another, and adds ``base`` to each, which wins.

    Of the parameters, ``max_headers`` may be headers of the client (``HTTP_``).

    The result is that of `decode_parameters`, whatever came before. What is remembered: *runs* of pairs that stood at
    the same place in several requests, byte for byte, and a dict that holds what they mean. A request whose runs stand
    where they are expected starts with a copy of that dict, and only what is between and behind them is decoded. Any
    other, and whatever is not plain (repeated names, NUL, limits), is decoded from its beginning.

    The memory is that of one request of `_LARGEST_KNOWN` bytes at most, whoever sends what: it learns by the first
    request that it does not know, the second, fourth, eighth and so on, and forgets everything from time to time.
    ``known`` is the number of pairs in all runs; with 0 there is no plan.
    """

    def __init__(self, max_count: int, base: dict[str, Any] | None = None, max_headers: int = _TO_THE_END) -> None:
        self.known = 0
        self._max_count = max_count
        self._max_headers = max_headers
        self._base = {} if base is None else base
        self._places: list[bytes] = []  # the pairs of the known request, in their order; empty where they have differed
        # How many pairs to decode, then the size of the run that follows, and the run.
        self._plan: list[tuple[int, int, str]] = []
        self._template: dict[str, Any] = {}
        self._fixed = 0  # the size of the template
        self._spare = 0  # pairs that the limits allow besides the runs, were they all headers
        self._unknown = 0  # requests that the plan did not fit
        self._left = _MEMORY

    def decode(self, data: bytes) -> dict[str, Any]:
        """The parameters of a request as latin-1 text, in a new dict; raises `ProtocolError`."""
        self._left -= 1
        if not self.known:
            return self._decode_whole(data)
        text = data.decode("latin-1")
        environ = self._template.copy()
        size = len(data)
        offset = single = 0
        try:
            for count, length, run in self._plan:
                left = count
                while left and offset < size:
                    name_length = data[offset]
                    value_length = data[offset + 1]
                    if name_length < 128 and value_length < 128:
                        offset += 2
                    else:
                        name_length, offset, _ = _length(data, offset)
                        value_length, offset, _ = _length(data, offset)
                        if name_length > MAX_NAME:
                            return self._decode_whole(data)
                    middle = offset + name_length
                    stop = middle + value_length
                    name = text[offset:middle]
                    value = text[middle:stop]
                    if "\0" in name or "\0" in value:
                        return self._decode_whole(data)
                    environ[name] = value
                    offset = stop
                    single += 1
                    left -= 1
                if not length:
                    break
                stop = offset + length
                if text[offset:stop] != run:
                    return self._decode_whole(data)
                offset = stop
        except IndexError:
            return self._decode_whole(data)
        if offset != size or single > self._spare or len(environ) != self._fixed + single or not self._left:
            return self._decode_whole(data)
        return environ

    def _decode_whole(self, data: bytes) -> dict[str, Any]:
        """Decode what the plan does not fit, and learn from it now and then."""
        environ = decode_parameters(data, self._max_count)
        if len(environ) > self._max_headers:
            headers = sum([name.startswith("HTTP_") for name in environ])
            if headers > self._max_headers:
                raise ProtocolError(
                    f"the request has {headers} headers, {self._max_headers} are allowed (max_header_count)", 431
                )
        environ.update(self._base)
        if self._left <= 0:
            self._left = _MEMORY
            self._unknown = 0
            self._places = []
        self._unknown += 1
        if self._unknown.bit_count() == 1:
            self._learn(data)
        return environ

    def _learn(self, data: bytes) -> None:
        """See what this request, which is a good one, has in common with the known ones; else begin with it."""
        places = _split(data) if len(data) <= _LARGEST_KNOWN else []
        common = [pair if pair == other else b"" for pair, other in zip(places, self._places, strict=False)]
        # Of another kind (another proxy, a probe): then this is as good as what was known.
        if 2 * sum(map(bool, common)) >= sum(map(bool, self._places)) > 0:
            places = common
        self._places = places
        self._plan = []
        self.known = 0
        single = 0
        run: list[bytes] = []
        fixed: list[bytes] = []
        for pair in [*places, b""]:
            if pair:
                run.append(pair)
                continue
            if len(run) >= _SHORTEST_RUN:
                known = b"".join(run)
                self._plan.append((single, len(known), known.decode("latin-1")))
                fixed += run
                single = 0
            else:
                single += len(run)
            single += 1
            run = []
        self._plan.append((_TO_THE_END, 0, ""))
        self.known = len(fixed)
        template = decode_parameters(b"".join(fixed), self._max_count)
        headers = sum([name.startswith("HTTP_") for name in template])
        template.update(self._base)
        self._template = template
        self._fixed = len(template)
        self._spare = min(self._max_count - self.known, self._max_headers - headers)


def _split(data: bytes) -> list[bytes]:
    """The pairs of a well-formed stream with their lengths, each whole; empty for what is not to be remembered."""
    places: list[bytes] = []
    offset = 0
    while offset < len(data):
        start = offset
        name_length, offset, _ = _length(data, offset)
        value_length, offset, _ = _length(data, offset)
        secret = data[offset : offset + name_length] in _SECRET
        offset += name_length + value_length
        places.append(b"" if secret else data[start:offset])
    return places
