"""Reading tar headers from hostile archives: bounded, and without reading what the members hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO, Optional

from h2k.base.errors import BadData

BLOCK = 512
MAX_HEADERS = 50_000
_NAME_LIMIT = 4096  # bytes of a long name
_PAX_LIMIT = 1024 * 1024  # bytes of one extended header
_REGULAR = (b"0", b"\0", b"7")
_PAX_RECORD = re.compile(rb"([0-9]{1,7}) ([^=\n]{1,200})=")


def entries(file: IO[bytes], name: str) -> Iterator[tuple[str, int, int]]:
    """(path, offset, size) of each regular file of a tar (POSIX ustar and pax, GNU), in bytes from its beginning.

    While an entry is looked at the stream is at its content, of which any part may be read. BadData names `name`.
    """
    at = 0
    long_name: Optional[str] = None
    pax: dict[str, str] = {}
    for _ in range(MAX_HEADERS):
        file.seek(at)
        header = file.read(BLOCK)
        if len(header) < BLOCK or not any(header):
            return
        _check(header, f"{name}: byte {at}")
        kind, size = header[156:157], _number(header[124:136], f"{name}: byte {at}")
        size = int(pax["size"]) if kind in _REGULAR and re.fullmatch("[0-9]{1,18}", pax.get("size", "")) else size
        content = at + BLOCK
        if kind == b"L":
            long_name = _text(_take(file, size, _NAME_LIMIT, name).split(b"\0")[0])
        elif kind == b"x":
            pax = _records(_take(file, size, _PAX_LIMIT, name), name)
        elif kind == b"S" or any(key.startswith("GNU.sparse") for key in pax):
            raise BadData(f"{name}: byte {at}: a sparse file", hint="make the archive without tar --sparse")
        elif kind != b"g":
            if kind in _REGULAR:
                yield pax.get("path") or long_name or _path(header), content, size
            long_name, pax = None, {}
        at = content + -(-size // BLOCK) * BLOCK
    raise BadData(f"{name}: more than {MAX_HEADERS} tar headers")


def _check(header: bytes, where: str) -> None:
    """The checksum: the sum of the header's bytes, with eight blanks in its own place."""
    wanted = _number(header[148:156], where)
    if wanted != sum(header[:148]) + sum(header[156:]) + 8 * ord(" "):
        raise BadData(f"{where}: no tar header", hint="copy it from the source again")


def _number(field: bytes, where: str) -> int:
    """Octal digits, or GNU's binary form for what they can't hold."""
    if field[0] == 0x80:
        value = int.from_bytes(field[1:], "big")
    else:
        digits = field.strip(b" \0") or b"0"
        if not re.fullmatch(rb"[0-7]{1,12}", digits):
            raise BadData(f"{where}: no tar header", hint="copy it from the source again")
        value = int(digits, 8)
    if value >= 1 << 60:
        raise BadData(f"{where}: a size of {value} bytes")
    return value


def _path(header: bytes) -> str:
    """The name, with POSIX's prefix; GNU's tar has other things in its place."""
    name, prefix = header[:100].split(b"\0")[0], header[345:500].split(b"\0")[0]
    posix = header[257:263] == b"ustar\0"
    return _text(prefix + b"/" + name if posix and prefix else name)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _take(file: IO[bytes], size: int, limit: int, name: str) -> bytes:
    data = file.read(size) if size <= limit else b""
    if len(data) != size:
        raise BadData(f"{name}: a tar header of {size} bytes", hint="copy it from the source again")
    return data


def _records(data: bytes, name: str) -> dict[str, str]:
    """pax records: "LENGTH KEY=VALUE\\n", the length that of the whole record in bytes."""
    found: dict[str, str] = {}
    at = 0
    while at < len(data):
        match: Optional[re.Match[bytes]] = _PAX_RECORD.match(data, at)
        length = int(match.group(1)) if match else 0
        if match is None or not match.end() < at + length <= len(data):
            raise BadData(f"{name}: a damaged pax header", hint="copy it from the source again")
        found[_text(match.group(2))] = _text(data[match.end() : at + length - 1])
        at += length
    return found
