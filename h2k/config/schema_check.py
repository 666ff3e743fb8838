"""Whether a document is as its JSON schema (draft 7) says; jsonschema is the judge, and is asked only where a fault is seen.

To load jsonschema takes longer than to look at a guest, and nearly every document is right. So the keywords that h2k's own
schemas use are checked here first; what is found wrong, and a schema with any other keyword, goes to jsonschema.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sized
from typing import Any, Callable, Optional

Schema = Any  # a mapping, or true or false


class _Unknown(Exception):
    """A keyword, or a value of one, that is not known here."""


def first_fault(content: Any, schema: Mapping[str, Any]) -> Optional[Any]:
    """jsonschema's error for what is most wrong with the content, None when it is as the schema says."""
    try:
        if _fits(content, schema, schema):
            return None
    except _Unknown:
        pass
    import jsonschema

    return jsonschema.exceptions.best_match(jsonschema.Draft7Validator(schema).iter_errors(content))


def _fits(content: Any, schema: Schema, root: Mapping[str, Any]) -> bool:
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema:  # draft 7: what stands beside it does not count
        return _fits(content, _referred(schema["$ref"], root), root)
    return all(_keyword(name)(content, schema, root) for name in schema)


def _referred(reference: str, root: Mapping[str, Any]) -> Schema:
    place, _, name = reference.rpartition("/")
    if place != "#/definitions" or name not in root.get("definitions", {}):
        raise _Unknown(reference)
    return root["definitions"][name]


_Keyword = Callable[[Any, Mapping[str, Any], Mapping[str, Any]], bool]


def _keyword(name: str) -> _Keyword:
    if name not in _KEYWORDS:
        raise _Unknown(name)
    return _KEYWORDS[name]


_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda c: isinstance(c, dict),
    "array": lambda c: isinstance(c, list),
    "string": lambda c: isinstance(c, str),
    "boolean": lambda c: isinstance(c, bool),
    "null": lambda c: c is None,
    "number": lambda c: isinstance(c, (int, float)) and not isinstance(c, bool),
    "integer": lambda c: not isinstance(c, bool) and (isinstance(c, int) or (isinstance(c, float) and c.is_integer())),
}


def _type(content: Any, schema: Mapping[str, Any], _: Mapping[str, Any]) -> bool:
    wanted = schema["type"]
    return any(_TYPES[name](content) for name in ([wanted] if isinstance(wanted, str) else wanted))


def _one_of_texts(content: Any, known: list[Any]) -> bool:
    if not all(isinstance(text, str) for text in known):
        raise _Unknown("an enum of more than texts")  # 1 and true are not equal there
    return isinstance(content, str) and content in known


def _properties(content: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    return not isinstance(content, dict) or all(_fits(content[n], s, root) for n, s in schema["properties"].items() if n in content)


def _additional(content: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    if "patternProperties" in schema:
        raise _Unknown("patternProperties")
    others = set(content) - set(schema.get("properties", {})) if isinstance(content, dict) else ()
    return all(_fits(content[name], schema["additionalProperties"], root) for name in others)


def _items(content: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    if not isinstance(content, list):
        return True
    each = schema["items"]
    pairs = zip(content, each) if isinstance(each, list) else ((item, each) for item in content)
    return all(_fits(item, one, root) for item, one in pairs)


def _if(content: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    return _fits(content, schema.get("then" if _fits(content, schema["if"], root) else "else", True), root)


def _sized(kind: type[Sized], name: str, most: bool) -> _Keyword:
    """Whether something of this kind has at most, or at least, as many parts as the keyword says."""

    def check(content: Any, schema: Mapping[str, Any], _: Mapping[str, Any]) -> bool:
        return not isinstance(content, kind) or (len(content) <= schema[name] if most else len(content) >= schema[name])

    return check


_KEYWORDS: dict[str, _Keyword] = {
    **dict.fromkeys(("$schema", "title", "definitions", "then", "else"), lambda c, s, r: True),
    "type": _type,
    "enum": lambda c, s, r: _one_of_texts(c, s["enum"]),
    "const": lambda c, s, r: _one_of_texts(c, [s["const"]]),
    "pattern": lambda c, s, r: not isinstance(c, str) or re.search(s["pattern"], c) is not None,
    "minimum": lambda c, s, r: not _TYPES["number"](c) or not c < s["minimum"],
    "maximum": lambda c, s, r: not _TYPES["number"](c) or not c > s["maximum"],
    "minLength": _sized(str, "minLength", most=False),
    "maxLength": _sized(str, "maxLength", most=True),
    "minItems": _sized(list, "minItems", most=False),
    "maxItems": _sized(list, "maxItems", most=True),
    "maxProperties": _sized(dict, "maxProperties", most=True),
    "required": lambda c, s, r: not isinstance(c, dict) or all(name in c for name in s["required"]),
    "properties": _properties,
    "additionalProperties": _additional,
    "propertyNames": lambda c, s, r: not isinstance(c, dict) or all(_fits(name, s["propertyNames"], r) for name in c),
    "items": _items,
    "anyOf": lambda c, s, r: any(_fits(c, one, r) for one in s["anyOf"]),
    "oneOf": lambda c, s, r: sum(_fits(c, one, r) for one in s["oneOf"]) == 1,
    "not": lambda c, s, r: not _fits(c, s["not"], r),
    "if": _if,
}
