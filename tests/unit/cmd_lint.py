"""A linter for the scripts that cmd.exe runs in the guest: what it finds would fail, or be misread, on Windows."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Commands of cmd.exe itself; everything else must be a program by its full path.
BUILT_IN = frozenset("@echo echo echo. rem set if if/i for call goto exit del mkdir rmdir move cd start setlocal".split())
PROGRAM = re.compile(r'"%SYS%\\[a-z]+\.(exe|com)"|"%SystemRoot%\\Sysnative\\cmd\.exe"|"%RUN%"|"%PNPUTIL%"')
# Variables that Windows sets, and ERRORLEVEL and their kind.
WINDOWS = frozenset({"SystemRoot", "SystemDrive", "PROCESSOR_ARCHITEW6432", "ERRORLEVEL"})
# Variables that may stand without quotes: numbers and words of ours, never a text of the guest's.
UNQUOTED = frozenset(
    """ERRORLEVEL STEP TRIES RETRIES LINE STATE RESULT LEFT STATUS COUNT SERVICE GIVEN CARDS NEEDED GIVEN_NEEDED INDEX FAMILY
    WORDS MAC WAIT FAILED BUDGET QUIET HUNG REGISTER REGISTERED NUMBER ARGUMENTS H2K PACKAGE DETAIL""".split()
)
_PERCENT = re.compile(
    r"%%[a-z]|%~[a-z]*[0-9]|%\*|%([A-Za-z_0-9]+)(?::~-?[0-9]+(?:,-?[0-9]+)?|:[^%=]+=[^%]*)?%|(%%([A-Z]+):[A-Z]+=%([A-Z]+)%%%)|(%)"
)


def lint(name: str, data: bytes, scripts: Mapping[str, bytes]) -> list[str]:
    """Every problem of one script, with its line; `scripts` are all, whose variables they share."""
    problems = []
    if not data.isascii():
        problems.append(f"{name}: not ASCII")
    if data.count(b"\n") != data.count(b"\r\n") or data.count(b"\r") != data.count(b"\r\n") or not data.endswith(b"\r\n"):
        problems.append(f"{name}: not CRLF throughout")
    text = data.decode("ascii", "replace")
    lines = text.split("\r\n")
    if lines[0] != "@echo off":
        problems.append(f"{name}:1: does not begin with @echo off")
    if len(lines) < 2 or not lines[1].startswith("rem "):
        problems.append(f"{name}:2: does not say what it is for")
    known = set(WINDOWS) | {v for s in scripts.values() for v in re.findall(r'set (?:/a )?"?([A-Za-z_0-9]+)[+=-]', s.decode("ascii", "replace"))}
    for number, line in enumerate(lines, 1):
        problems += [f"{name}:{number}: {what}" for what in _line(line, known, scripts)]
    return problems + _labels(name, lines) + _blocks(name, lines)


def _line(line: str, known: set[str], scripts: Mapping[str, bytes]) -> list[str]:
    problems = []
    code = line.strip()
    if not code or code.startswith(("rem ", ":", ")")):
        return []
    if "!" in code or "\t" in line or "^" in code:
        problems.append("! ^ or a tab")
    if len(line) > 1000:
        problems.append("a line of more than 1000 characters")
    if code.count('"') % 2:
        problems.append("quotes do not match")
    if " in ('" in code:
        problems.append("for /f over a command: its quoting differs from line to line; use a file")
    for match in _PERCENT.finditer(code):
        name = match[1] or match[4]
        if match[5]:
            problems.append(f"a lone % at {code[match.start() : match.start() + 12]!r}")
        elif name and name not in known:
            problems.append(f"%{name}% is never set")
        elif name and code[: match.start()].count('"') % 2 == 0 and name not in UNQUOTED:
            problems.append(f"%{name}% without quotes")
    problems += [f"calls {script}, which is not there" for script in re.findall(r"%H2K%([a-z-]+\.cmd)", code) if script not in scripts]
    return problems + _command(code)


def _command(code: str) -> list[str]:
    """What is left of a line after its conditions, loops and redirections is a built-in command or a full path."""
    rest = code
    while True:
        shorter = re.sub(
            r'^(if (/i )?(not )?(errorlevel \d+|exist "[^"]*"|defined [A-Z_a-z0-9]+|("[^"]*"|%[A-Z_]+%)(==| LSS | LEQ | GEQ | GTR )("[^"]*"|[%A-Z_0-9]+))'
            r'|for (/f "[^"]*" )?%%[a-z] in \([^)]*\) do|>>?("[^"]*"|\\\\\.\\COM[12])|\()\s*',
            "",
            rest,
        )
        if shorter == rest:
            break
        rest = shorter
    if not rest:
        return []
    word = rest.split(" ", 1)[0].lower()
    if PROGRAM.match(rest) or word in BUILT_IN:
        return []
    return [f"{rest[:40]!r} is neither built into cmd.exe nor a full path"]


def _labels(name: str, lines: list[str]) -> list[str]:
    labels = [line[1:].strip().lower() for line in lines if line.startswith(":")]
    used = {m.lower() for line in lines if not line.startswith("rem ") for m in re.findall(r"(?:goto|call) :?([A-Za-z_0-9]+)(?= |$)", line)}
    called = {m.lower() for line in lines for m in re.findall(r"call :([A-Za-z_0-9]+)", line)}
    problems = [f"{name}: no label :{label}" for label in sorted((used | called) - set(labels) - {"set"})]
    problems += [f"{name}: label :{label} twice" for label in sorted({x for x in labels if labels.count(x) > 1})]
    return problems + [f"{name}: nothing goes to :{label}" for label in sorted(set(labels) - used - called)]


def _blocks(name: str, lines: list[str]) -> list[str]:
    """Parentheses open at the end of a line only, close on a line of their own, and do not nest."""
    depth, problems = 0, []
    for number, line in enumerate(lines, 1):
        if line.startswith("rem "):
            continue
        if line.rstrip().endswith("("):
            depth += 1
        if line.strip() == ")":
            depth -= 1
        if depth and re.search(r"\bgoto\b|^:", line.strip()):
            problems.append(f"{name}:{number}: a label or goto inside a block ends the block")
        if depth not in (0, 1):
            problems.append(f"{name}:{number}: blocks do not match")
    return problems + ([f"{name}: a block is not closed"] if depth else [])
