"""Configuration in YAML or JSON, bounded and checked by a schema: every fault is named with its file and line."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union

import yaml

from h2k.base.errors import UsageError
from h2k.base.files import require_trusted
from h2k.base.option_table import near
from h2k.config.schema_check import first_fault

MAX_SIZE = 128 * 1024  # bytes; hand-written files have a few KiB
Step = Union[str, int]


class _Composer(yaml.composer.Composer):  # type: ignore[misc] # PyYAML has no types
    """YAML without anchors and aliases, which can make much of little, and with plain, unique keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if getattr(event, "anchor", None) is not None:
            raise yaml.MarkedYAMLError(problem="anchors and aliases are not allowed", problem_mark=event.start_mark)
        node = super().compose_node(parent, index)
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag != "tag:yaml.org,2002:str" or key.value in seen:
                what = "a key that is there twice" if key.tag.endswith(":str") else "a key that is no plain name"
                raise yaml.MarkedYAMLError(problem=f"{what}: {str(key.value)[:60]!r}", problem_mark=key.start_mark)
            seen.add(key.value)
        return node


class _Loader(_Composer, yaml.SafeLoader):  # type: ignore[misc]
    """PyYAML's own parser, whose errors are told."""


_Loaders: tuple[Any, ...] = (_Loader,)
if yaml.__with_libyaml__:  # PyYAML may have been built without

    class _QuickLoader(_Composer, yaml.cyaml.CParser, yaml.constructor.SafeConstructor, yaml.resolver.Resolver):  # type: ignore[misc]
        """libyaml's parser, several times faster; what it refuses the other one reads again, and words the error."""

        def __init__(self, text: str) -> None:
            yaml.cyaml.CParser.__init__(self, text)
            _Composer.__init__(self)
            yaml.constructor.SafeConstructor.__init__(self)
            yaml.resolver.Resolver.__init__(self)

    _Loaders = (_QuickLoader, _Loader)


@dataclasses.dataclass(frozen=True)
class Document:
    """A file that was read: its content, and the tree of nodes that knows the lines."""

    path: Path
    content: Any
    tree: Any = dataclasses.field(repr=False)

    def line(self, path: Sequence[Step], fault: Any = None) -> int:
        """The line (from 1) of the node at a path; of the unknown key itself where that is the schema's fault."""
        node = self.tree
        for step in path:
            if isinstance(node, yaml.MappingNode):
                node = next((v for k, v in node.value if k.value == str(step)), node)
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
        if fault is not None and fault.validator == "additionalProperties" and isinstance(node, yaml.MappingNode):
            known = fault.schema.get("properties", {})
            return next((int(k.start_mark.line) + 1 for k, _ in node.value if k.value not in known), 1)
        return int(node.start_mark.line) + 1 if node is not None else 1

    def error(self, path: Sequence[Step], what: str, hint: str = "", fault: Any = None) -> UsageError:
        """The error for a fault at a path below the top."""
        place = "/".join(map(str, path)) or "the top"
        return UsageError(f"{self.path}, line {self.line(path, fault)}: {place}: {what}", hint=hint)


def read_document(path: Path, what: str, limit: int = MAX_SIZE) -> Document:
    """Read YAML, or JSON by the file's name; `what` says what it should be ("a policy"), for the messages.

    UsageError for a file that is missing, above `limit` bytes, no YAML, or that has anchors or a key twice; Refused as root for one that others could
    have written.
    """
    if path.exists():
        require_trusted(path, what)
    try:
        if path.stat().st_size > limit:
            raise UsageError(f"{path}: larger than {limit} bytes; not {what}")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        why = e.strerror if isinstance(e, OSError) else "it is no text"
        raise UsageError(f"{path}: can't be read as {what}: {why}") from e
    try:
        if path.suffix.lower() == ".json":
            json.loads(text)
            text = text.replace("\t", " ")  # the one thing that JSON allows between tokens and YAML does not
        return _loaded(path, text)
    except json.JSONDecodeError as e:
        raise UsageError(f"{path}, line {e.lineno}: not JSON: {e.msg}") from e
    except yaml.reader.ReaderError as e:
        line_number = text.count("\n", 0, e.position) + 1
        raise UsageError(f"{path}, line {line_number}: not {what}: {e.reason}") from e
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as e:
        mark = getattr(e, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        why = " ".join(str(getattr(e, "problem", None) or e).split())
        raise UsageError(f"{path}{line}: not {what}: {why[:200]}") from e


def _loaded(path: Path, text: str) -> Document:
    *quick, told = _Loaders
    for kind in quick:
        with contextlib.suppress(yaml.YAMLError, RecursionError, ValueError, OverflowError):
            return _read_by(kind, path, text)
    return _read_by(told, path, text)


def _read_by(kind: Any, path: Path, text: str) -> Document:
    loader = kind(text)
    try:
        tree = loader.get_single_node()
        return Document(path, loader.construct_document(tree) if tree is not None else None, tree)
    finally:
        loader.dispose()


def check(document: Document, schema: dict[str, Any], hint: str) -> None:
    """UsageError with the line of what the schema (draft 7) refuses."""
    fault = first_fault(document.content, schema)
    if fault is not None:
        meant = _meant(fault)
        raise document.error(list(fault.absolute_path), _told(fault)[:200], f"did you mean {meant}? {hint}" if meant else hint, fault)


def _told(fault: Any) -> str:
    """What is wrong, in our words where jsonschema's are its own."""
    if fault.validator_value == {}:  # what a schema never allows is {"not": {}} and not false, of which newer versions of jsonschema lose the path
        return f"{fault.instance!r} is not allowed here"
    if fault.validator == "additionalProperties" and isinstance(fault.instance, dict):
        return f"no such key: {', '.join(str(key) for key in fault.instance if key not in fault.schema.get('properties', {}))}"
    if fault.validator == "enum":
        return f"{fault.instance!r} is not one of {', '.join(map(str, fault.validator_value))}"
    return str(fault.message)


def _meant(fault: Any) -> str:
    """The key, or the word, that was probably meant."""
    if fault.validator == "additionalProperties" and isinstance(fault.instance, dict):
        known = fault.schema.get("properties", {})
        return next(filter(None, (near(str(key), known) for key in fault.instance if key not in known)), "")
    if fault.validator == "enum" and isinstance(fault.instance, str):
        return near(fault.instance, [word for word in fault.validator_value if isinstance(word, str)])
    if fault.validator in ("anyOf", "oneOf"):
        return next(filter(None, map(_meant, fault.context or ())), "")
    return ""
