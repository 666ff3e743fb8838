"""Driver plans: which driver, directory and device ids for which Windows. Data from YAML, merged, checked by schema."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import jsonschema
import yaml

from h2k.errors import UsageError
from h2k.windows.version import WindowsVersion

PLAN_DIRECTORIES = (Path(__file__).resolve().parent.parent / "driver-plans", Path("/usr/share/h2k/driver-plans"))
MAX_SIZE = 1024 * 1024
Device = tuple[int, int, int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Bucket:
    """The Windows releases that share driver directories; builds are inclusive."""

    name: str
    version: tuple[int, int]
    product: str
    directories: tuple[str, ...]
    min_build: int = 0
    max_build: int = 1 << 31


@dataclasses.dataclass(frozen=True)
class Role:
    """A driver by its purpose; devices as (vendor, device, subsystem vendor, subsystem, revision, class code)."""

    name: str
    kind: str
    driver: str
    inf: str
    service: str
    class_guid: str
    devices: tuple[Device, ...]
    bus: str = ""


@dataclasses.dataclass(frozen=True)
class Controller:
    """A controller that the bootstrap domain can offer, and the services that belong to it beside its own."""

    bus: str
    device: Device
    companions: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class StackEntry:
    """A driver that every boot needs, and the Start values that are right for it (the first repairs it)."""

    name: str
    starts: tuple[int, ...] = (0,)
    min_version: tuple[int, int] = (0, 0)
    optional: bool = False
    has_file: bool = True


@dataclasses.dataclass(frozen=True)
class Plan:
    """The merged plan."""

    buckets: tuple[Bucket, ...]
    architectures: dict[str, tuple[str, ...]]
    layouts: tuple[str, ...]
    skip: tuple[str, ...]
    roles: tuple[Role, ...]
    controllers: tuple[Controller, ...]
    boot_stack: tuple[StackEntry, ...]

    def bucket(self, windows: WindowsVersion) -> Optional[Bucket]:
        """The bucket of this Windows, or None when the plan knows none."""
        product = "server" if windows.server else "client"
        return next(
            (
                b
                for b in self.buckets
                if b.version == windows.version and b.product == product and b.min_build <= windows.build <= b.max_build
            ),
            None,
        )

    def storage(self, bus: str) -> Optional[Role]:
        """The boot driver of a bus, or None for a bus that Windows drives by itself (sata)."""
        return next((r for r in self.roles if r.kind == "storage" and r.bus == bus), None)

    def boot_stack_for(self, windows: WindowsVersion) -> tuple[StackEntry, ...]:
        """The boot stack of this version."""
        return tuple(e for e in self.boot_stack if e.min_version <= windows.version)


def load_plan(extra: Sequence[Path] = ()) -> Plan:
    """The packaged plan with `extra` merged over it: lists of named things by name, everything else replaced.

    UsageError names the file and the line of a fault.
    """
    directory = next((d for d in PLAN_DIRECTORIES if (d / "virtio-win.yaml").exists()), PLAN_DIRECTORIES[0])
    schema = json.loads((directory / "schema.json").read_text(encoding="utf-8"))
    merged: dict[str, Any] = {}
    for path in (directory / "virtio-win.yaml", *extra):
        merged = _merge(merged, _read(path, schema))
    return _plan(merged)


def _read(path: Path, schema: dict[str, Any]) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_SIZE:
            raise UsageError(f"{path}: larger than {MAX_SIZE} bytes; not a driver plan")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"{path}: can't read this driver plan: {e}") from e
    try:
        for token in yaml.scan(text):
            if isinstance(token, (yaml.AliasToken, yaml.AnchorToken)):
                raise UsageError(f"{path}, line {token.start_mark.line + 1}: a driver plan has no anchors and aliases")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as e:
        mark = getattr(e, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise UsageError(f"{path}{line}: not YAML: {getattr(e, 'problem', None) or e}") from e
    fault = jsonschema.exceptions.best_match(jsonschema.Draft7Validator(schema).iter_errors(content))
    if fault is not None:
        place = "/".join(map(str, fault.absolute_path)) or "the top"
        line_number = _line(tree, list(fault.absolute_path), fault)
        raise UsageError(f"{path}, line {line_number}: {place}: {fault.message[:200]}", hint="see docs/driver-plans.md")
    return dict(content)


def _line(tree: Any, path: list[Any], fault: Any) -> int:
    """The line of the node that the schema refuses; of the unknown key itself where that is the fault."""
    node = tree
    for step in path:
        if isinstance(node, yaml.MappingNode):
            node = next((v for k, v in node.value if k.value == str(step)), node)
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
    if fault.validator == "additionalProperties" and isinstance(node, yaml.MappingNode):
        known = fault.schema.get("properties", {})
        return next((int(k.start_mark.line) + 1 for k, _ in node.value if k.value not in known), 1)
    return int(node.start_mark.line) + 1 if node is not None else 1


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict):
            merged[key] = {**old, **value}
        elif isinstance(old, list) and value and isinstance(value[0], dict):
            # A bus has one driver and a name one meaning: what comes later stands in place of the earlier.
            names = {entry.get("bus") or entry.get("name") for entry in value}
            merged[key] = [*value, *(e for e in old if (e.get("bus") or e.get("name")) not in names)]
        else:
            merged[key] = value
    return merged


def _version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)


def _plan(content: dict[str, Any]) -> Plan:
    def frozen(entry: dict[str, Any]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in entry.items():
            if key in ("version", "min_version"):
                out[key] = _version(value)
            elif key == "devices":
                out[key] = tuple(tuple(device) for device in value)
            else:
                out[key] = tuple(value) if isinstance(value, list) else value
        return out

    return Plan(
        buckets=tuple(Bucket(**frozen(e)) for e in content.get("buckets", [])),
        architectures={k: tuple(v) for k, v in content.get("architectures", {}).items()},
        layouts=tuple(content.get("layouts", [])),
        skip=tuple(content.get("skip", [])),
        roles=tuple(Role(**frozen(e)) for e in content.get("roles", [])),
        controllers=tuple(Controller(**frozen(e)) for e in content.get("controllers", [])),
        boot_stack=tuple(StackEntry(**frozen(e)) for e in content.get("boot_stack", [])),
    )
