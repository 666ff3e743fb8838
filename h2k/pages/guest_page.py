"""The page of one guest: what h2k found, changed and saw, in one file without scripts and without a network."""

from __future__ import annotations

import base64
import difflib
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

from h2k.base.errors import UsageError
from h2k.base.files import PRIVATE, write_text
from h2k.base.finding import Finding
from h2k.base.text import shown
from h2k.engine.records import command_line, read_json
from h2k.engine.report import by_weight
from h2k.engine.standing import standing
from h2k.pages.chain import boxes, chain_of

TEMPLATES = Path(__file__).with_name("templates")
MAX_PICTURES = 8
PICTURE_LIMIT = 2 * 1024 * 1024  # bytes of one screenshot
DOMAIN_LIMIT = 1024 * 1024  # bytes of a domain that is compared
MAX_CHANGES = 2000  # shown one by one; the rest is counted


def write_page(path: Path, report_dir: Path, history: Sequence[dict[str, Any]]) -> None:
    """Write the page of the guest whose records (oldest first) these are. H2kError when the file can't be written."""
    write_text(path, page(report_dir, history), PRIVATE)


def page(report_dir: Path, history: Sequence[dict[str, Any]]) -> str:
    """The HTML of the page."""
    record = next((r for r in reversed(history) if r.get("findings")), history[-1])
    now = standing(history)
    return str(
        _template("guest.html.j2").render(
            record=_clean(record),
            newest=_clean(history[-1]),
            name=shown(str(record.get("guest", {}).get("name") or report_dir.stem)),
            standing=now,
            chain=boxes(chain_of(_clean(record))),
            findings=by_weight(Finding(**f) for f in _clean(record).get("findings", [])),
            groups=list(_groups(_clean(record).get("changes", []))),
            network=_document(report_dir, "network.json"),
            machine=list(_machine(report_dir)),
            boot=_clean(next((r["boot"] for r in reversed(history) if isinstance(r.get("boot"), dict)), {})),
            pictures=list(_pictures(report_dir / "boot")),
            runs=[(_clean(r), shown(command_line(r))) for r in history],
            directory=shown(str(report_dir)),
        )
    )


@functools.lru_cache(maxsize=1)
def _environment() -> Any:
    try:
        import jinja2
    except ImportError as e:
        raise UsageError("pages need python3-jinja2", hint="apt install python3-jinja2 (dnf install python3-jinja2)") from e
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(TEMPLATES)), autoescape=True, undefined=jinja2.ChainableUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


def _template(name: str) -> Any:
    return _environment().get_template(name)


def _clean(value: Any) -> Any:
    """The same with every text fit to be shown: what a guest says has no control characters and no secrets."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {shown(str(key)): _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list) else value


def _groups(changes: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """(what is changed, its lines), in the order of their first change."""
    groups: dict[str, list[str]] = {}
    for change in changes[:MAX_CHANGES]:
        line = str(change.get("diff", ""))
        groups.setdefault(_subject(line), []).append(line)
    yield from groups.items()
    if len(changes) > MAX_CHANGES:
        yield "and more", [f"{len(changes) - MAX_CHANGES} changes, in plan.json"]


def _subject(line: str) -> str:
    """What a change is about: the service or key, else the kind of the change."""
    parts = line.split(" ", 2)
    path = parts[1] if len(parts) > 1 else line
    keys = path.split("\\")
    if "Services" in keys and keys.index("Services") + 1 < len(keys):
        return f"service {keys[keys.index('Services') + 1]}"
    return keys[0] if len(keys) > 1 else "files"


def _document(report_dir: Path, name: str) -> dict[str, Any]:
    try:
        content = read_json(report_dir / name, "document")
    except UsageError:
        return {}
    found: dict[str, Any] = _clean(content) if isinstance(content, dict) else {}
    return found


def _machine(report_dir: Path) -> Iterator[tuple[str, str, str]]:
    """(mark, line of the bootstrap, line of final) of both domains side by side; the mark is "" where they agree."""
    texts = [_text(report_dir / f"{phase}.xml") for phase in ("bootstrap", "final")]
    if not all(texts):
        return
    left, right = (text.splitlines() for text in texts)
    for kind, a, b, c, d in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        pairs = max(b - a, d - c)
        for number in range(pairs):
            one = left[a + number] if a + number < b else ""
            other = right[c + number] if c + number < d else ""
            yield "" if kind == "equal" else "differs", one, other


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > DOMAIN_LIMIT:
            return ""
        return "\n".join(shown(line) if line.strip() else "" for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    except OSError:
        return ""


def _pictures(directory: Path) -> Iterator[tuple[str, str]]:
    """(name, the picture as a data address) of the boots' screenshots."""
    found = sorted(directory.glob("*.png")) if directory.is_dir() else []
    for path in found[:MAX_PICTURES]:
        data = _picture(path)
        if data is not None:
            yield path.stem, "data:image/png;base64," + base64.b64encode(data).decode()


def _picture(path: Path) -> Optional[bytes]:
    try:
        if path.is_symlink() or path.stat().st_size > PICTURE_LIMIT:
            return None
        data = path.read_bytes()
    except OSError:
        return None
    return data if data.startswith(b"\x89PNG\r\n\x1a\n") else None
