"""Text that came from elsewhere, made fit to be shown: printable, and without secrets; in terminals, pipes and files alike."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Optional

HIDDEN = "***"
_NAMED = r"[\w.-]{0,60}(?:passw(?:or)?d|passphrase|secret|token|cookie|api[_-]?key|access[_-]?key|private[_-]?key)[\w.-]{0,60}"
_LONGEST = 1000  # characters of one secret; the bound keeps the search linear
# user:PASSWORD@ of a URI: as RFC 3986 has it, and as people write it, with a slash in the password.
# A path that was made of an address has one slash.
_USER = re.compile(rf"(:/{{1,2}}[^/\s:@'\"]{{0,{_LONGEST}}}):[^/\s'\"]{{0,{_LONGEST}}}@")
_USER_WITH_SLASH = re.compile(rf"(:/{{1,2}}[^/\s:@'\"]{{1,{_LONGEST}}}):(?!\d{{1,5}}/)[^\s@'\"]{{0,{_LONGEST}}}@")
# password=…, "token": "…" in options, queries and JSON; one of QEMU's secret objects; virt-v2v's --key ID:key:PASSPHRASE.
_VALUE = re.compile(rf"(?i)\b({_NAMED}(?:=|[\"']\s?:\s?))(\"[^\"]*\"|'[^']*'|[^\s&,;'\"]+)")
_OBJECT = re.compile(r"(?i)(\bsecret,[^\s]{0,300}?\bdata=)[^\s,]+")
_KEY = re.compile(r"(:key:)[^\s'\"]+")
_WHOLE = re.compile(rf"(?is)(?:--)?({_NAMED}=).*")


def printable(text: str) -> str:
    """One line without control characters: what a guest or an archive says must not steer a terminal nor forge a line.

    White space becomes blanks; what else can't be printed (ESC, the marks that turn the direction of writing, halves
    of surrogate pairs) becomes U+FFFD.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)


def mask_secrets(text: str) -> str:
    """The text with the passwords of URIs, the values of options that hold secrets, and passphrases as ***."""
    if "=" not in text and ":" not in text:
        return text  # each of the patterns needs one of them
    if ":/" in text and "@" in text:
        text = _USER_WITH_SLASH.sub(rf"\1:{HIDDEN}@", _USER.sub(rf"\1:{HIDDEN}@", text))
    text = _VALUE.sub(rf"\1{HIDDEN}", text)
    return _KEY.sub(rf"\1{HIDDEN}", _OBJECT.sub(rf"\1{HIDDEN}", text))


def mask_argv(argv: Sequence[str]) -> list[str]:
    """A command line for people and records: a word that sets a secret is masked to its end, whatever it holds."""
    masked: list[str] = []
    for word in argv:
        if masked and re.fullmatch(rf"(?i)--?{_NAMED}", argv[len(masked) - 1]) and not word.startswith("-"):
            masked.append(HIDDEN)
        else:
            whole = _WHOLE.fullmatch(word)
            masked.append(word[: whole.end(1)] + HIDDEN if whole else mask_secrets(word))
    return masked


def shown(text: str) -> str:
    """Text fit for people: printable, in one line, its secrets masked."""
    return printable(mask_secrets(text))


def size_text(size: float) -> str:
    """Bytes for people: 4.0 GiB."""
    number = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def time_text(seconds: Optional[float]) -> str:
    """Seconds for people: 1 h 05 min; "?" for what is not known."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
