"""The text of an INF file: its encoding, sections, lines, fields and %strings%; every size is bounded.

Rules: Microsoft's "General syntax rules for INF files" and "INF Strings section".
"""

from __future__ import annotations

import re

from h2k.base.errors import BadData

MAX_SIZE = 4 * 1024 * 1024  # bytes; the largest INF files, of display drivers, have about 2 MiB
MAX_LINES = 100_000
MAX_LINE = 65_536  # characters of a line with its continuations; Windows stops at 4096
MAX_EXPANDED = 16 * 1024 * 1024  # characters that %strings% may add up to

Line = tuple[str, tuple[str, ...]]
Sections = dict[str, list[Line]]

_NEWLINE = re.compile(r"\r\n?|\n")
_PIECE = re.compile(r'"(?:[^"]|"")*"?|,|[^",]+')
_CODE = re.compile(r'"[^"]*"?|[^";]+')
_TOKEN = re.compile(r"%([^%]*)%")


def read_sections(data: bytes, name: str) -> Sections:
    """The sections by lower-case name, equal names merged, each a list of (key, fields); the key is '' where the
    line has none. Strings are replaced, dirids such as `%12%` stay. BadData names the file and the line."""
    if not data or len(data) > MAX_SIZE:
        raise BadData(f"{name}: {len(data)} bytes are no INF file")
    raw = _lines(_decode(data), name)
    strings = _Strings(raw, name)
    sections: Sections = {}
    for section, lines in raw.items():
        expanded = [(strings.expand(key), tuple(map(strings.expand, fields))) for key, fields in lines]
        sections.setdefault(strings.expand(section).lower(), []).extend(expanded)
    return sections


def _decode(data: bytes) -> str:
    """UTF-16 with or without its mark, UTF-8, or else the Western code page of old INF files."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    if data[1:2] == b"\0" and data[3:4] == b"\0":
        return data.decode("utf-16-le", "replace")
    if data[0:1] == b"\0" and data[2:3] == b"\0":
        return data.decode("utf-16-be", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _lines(text: str, name: str) -> Sections:
    if text.count("\n") + text.count("\r") > 2 * MAX_LINES:
        raise BadData(f"{name}: too many lines for an INF file")
    lines, number = _NEWLINE.split(text.rstrip("\0\x1a")), 0
    sections: Sections = {}
    current: list[Line] = []  # what stands before the first section is nobody's
    while number < len(lines):
        line, number = _logical_line(lines, number, name)
        if line.startswith("["):
            end = line.find("]")
            if end < 0:
                raise BadData(f"{name}, line {number}: a section name without its end")
            current = sections.setdefault(line[1:end].strip().lower(), [])
        elif line:
            key, rest = _key(line)
            current.append((key, _fields(rest)))
    return sections


def _logical_line(lines: list[str], number: int, name: str) -> tuple[str, int]:
    """The line at an index with its continuations, without comments; and the index after it."""
    parts, length = [_uncomment(lines[number])], len(lines[number])
    number += 1
    while parts[-1].endswith("\\") and number < len(lines):
        parts[-1] = parts[-1][:-1]
        parts.append(_uncomment(lines[number]))
        length += len(lines[number])
        number += 1
        if length > MAX_LINE:
            break
    if length > MAX_LINE:
        raise BadData(f"{name}, line {number}: longer than {MAX_LINE} characters")
    return "".join(parts), number


def _uncomment(line: str) -> str:
    if ";" not in line:
        return line.strip()
    at = 0
    while at < len(line):
        found = _CODE.match(line, at)
        if found is None:
            return line[:at].strip()
        at = found.end()
    return line.strip()


def _key(line: str) -> tuple[str, str]:
    """The key before the first `=` outside quotes ('' without one), and the rest."""
    begin, quotes = 0, 0
    while True:
        at = line.find("=", begin)
        if at < 0:
            return "", line
        quotes += line.count('"', begin, at)
        if quotes % 2 == 0:
            return line[:at].strip().strip('"'), line[at + 1 :]
        begin = at + 1


def _fields(text: str) -> tuple[str, ...]:
    """The fields between commas: blanks around them go, quotes keep commas and blanks, `""` in quotes is `"`."""
    if not text.strip():
        return ()
    fields: list[str] = []
    pieces: list[str] = []
    for piece in _PIECE.findall(text):
        if piece == ",":
            fields.append("".join(pieces))
            pieces = []
        elif piece.startswith('"'):
            inner = piece[1:-1] if len(piece) > 1 and piece.endswith('"') else piece[1:]
            pieces.append(inner.replace('""', '"'))
        else:
            pieces.append(piece.strip())
    return (*fields, "".join(pieces))


class _Strings:
    """[Strings], and what only its localized forms have: of [Strings.0409] and its kind English first."""

    def __init__(self, sections: Sections, name: str) -> None:
        self.name, self._left = name, MAX_EXPANDED
        self._known: dict[str, str] = {}
        localized = sorted(s for s in sections if s.startswith("strings."))
        for section in ("strings", "strings.0409", *localized):
            for key, fields in sections.get(section, []):
                self._known.setdefault(key.lower(), fields[0] if fields else "")

    def expand(self, text: str) -> str:
        """`%key%` becomes its string and `%%` a percent sign; what no string is named after stays."""
        return _TOKEN.sub(self._string, text) if "%" in text else text

    def _string(self, match: re.Match[str]) -> str:
        found = self._known.get(match[1].strip().lower(), match[0]) if match[1] else "%"
        self._left -= len(found)
        if self._left < 0:
            raise BadData(f"{self.name}: its strings expand to more than {MAX_EXPANDED} characters")
        return found
