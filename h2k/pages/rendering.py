"""How every page is made: templates with all text escaped, one file, and a policy in it by which nothing but its own script runs.

What a guest says is hostile. It is shown as text (autoescape), without control characters and secrets (`clean`), and the
page's Content-Security-Policy forbids every script but the one whose digest it names, and every address but data: ones.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

from h2k.base.errors import UsageError
from h2k.base.text import shown, size_text, time_text

TEMPLATES = Path(__file__).with_name("templates")
SCRIPT = "table.js.j2"


def render(template: str, **values: Any) -> str:
    """The HTML of a template. UsageError where jinja2 is missing."""
    return str(_environment().get_template(template).render(**values))


def clean(value: Any) -> Any:
    """The same with every text fit to be shown: what a guest says has no control characters and no secrets."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {shown(str(key)): clean(item) for key, item in value.items()}
    return [clean(item) for item in value] if isinstance(value, (list, tuple)) else value


def mapping(value: Any) -> dict[str, Any]:
    """The value where it is an object of JSON, else an empty one: what lies in a directory may be of any version."""
    return value if isinstance(value, dict) else {}


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list of JSON; nothing for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def link(text: str) -> str:
    """A relative path as an address: nothing in it is taken for a scheme, a query or a fragment."""
    return "./" + quote(text)


@functools.lru_cache(maxsize=1)
def _environment() -> Any:
    try:
        import jinja2
    except ImportError as e:
        raise UsageError("pages need python3-jinja2", hint="apt install python3-jinja2 (dnf install python3-jinja2)") from e
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(TEMPLATES)), autoescape=True, undefined=jinja2.ChainableUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    script = found.get_template(SCRIPT).render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    found.globals.update(script=script, script_digest=f"sha256-{digest}", size_text=_size, time_text=_time, link=link)
    found.filters["state_class"] = state_class
    return found


# How a state is coloured: its word is always there too.
_CLASSES = {
    "good": ("ok", "repaired", "passed", "ready to convert", "repairs itself", "done", "holds"),
    "bad": ("refused", "broken", "failed", "stops"),
    "warn": ("warning", "unknown", "interrupted", "look", "skipped"),
    "run": ("running",),
}


def state_class(state: object) -> str:
    """The class of a state in the style sheet: good, bad, warn, run or rest."""
    return next((name for name, states in _CLASSES.items() if state in states), "rest")


def _size(value: object) -> str:
    return size_text(value) if isinstance(value, (int, float)) else ""


def _time(value: object) -> str:
    return time_text(value) if isinstance(value, (int, float)) else ""
