"""Driver plans: which driver, directory and device ids for which Windows. Data from YAML, merged, checked by schema."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, Union

from h2k.base import paths
from h2k.base.errors import UsageError
from h2k.config.documents import Document, check, read_document
from h2k.windows.pnp import PciId
from h2k.windows.version import WindowsVersion

PLAN_DIRECTORIES = (paths.PLANS, paths.LOCAL / "driver-plans")
SUFFIXES = (".yaml", ".yml", ".json")


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
    """A driver by its purpose; devices on the PCI bus, and the hardware ids of what is not on it. `stage`: its package is to be installed at the first boot. `start`:
    the Start of a driver that is staged offline, where it is not the kind's own."""

    name: str
    kind: str
    driver: str
    inf: str
    service: str
    class_guid: str
    devices: tuple[PciId, ...] = ()
    hardware_ids: tuple[str, ...] = ()
    bus: str = ""
    stage: bool = False
    start: Optional[int] = None

    def ids(self) -> tuple[str, ...]:
        """The ids, as an INF has them, of which its driver must serve one."""
        return (*(f"PCI\\{device.name}" for device in self.devices), *self.hardware_ids)


@dataclasses.dataclass(frozen=True)
class Controller:
    """A controller that the bootstrap domain can offer, and the services that belong to it beside its own; the old ones
    up to Windows 7 and 2008 R2."""

    bus: str
    device: PciId
    companions: tuple[str, ...] = ()
    old_companions: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class StackEntry:
    """A driver that every boot needs, and the Start values that are right for it (the first repairs it)."""

    name: str
    starts: tuple[int, ...] = (0,)
    min_version: tuple[int, int] = (0, 0)
    optional: bool = False
    has_file: bool = True


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A class filter or another driver of another hypervisor, by the name of its service; `of` says for people whose it
    is."""

    name: str
    of: str


@dataclasses.dataclass(frozen=True)
class Signer:
    """A CA whose word Windows' loader takes for a boot driver; `cross_until` (ISO date): one that cross-certifies vendors,
    whose certificates since that day Windows 10 1607 and later do not take under Secure Boot."""

    name: str
    cross_until: str = ""


@dataclasses.dataclass(frozen=True)
class GuestTools:
    """Another hypervisor's guest tools: how their programs' names begin, and keys of SOFTWARE that give them away."""

    name: str
    programs: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


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
    signers: tuple[Signer, ...] = ()
    filters: tuple[Foreign, ...] = ()
    services: tuple[Foreign, ...] = ()
    tools: tuple[GuestTools, ...] = ()
    default_bucket: str = ""

    def bucket(self, windows: WindowsVersion) -> Optional[Bucket]:
        """The bucket of this Windows; else the owner's default bucket, where it is of the same NT version and product;
        None when the plan knows none."""
        product = "server" if windows.server else "client"
        kin = [b for b in self.buckets if b.version == windows.version and b.product == product]
        fitting = [b for b in kin if b.min_build <= windows.build <= b.max_build]
        return next(iter(fitting or [b for b in kin if b.name == self.default_bucket]), None)

    def storage(self, bus: str) -> Optional[Role]:
        """The boot driver of a bus, or None for a bus that Windows drives by itself (sata)."""
        return next((r for r in self.roles if r.kind == "storage" and r.bus == bus), None)

    def boot_stack_for(self, windows: WindowsVersion) -> tuple[StackEntry, ...]:
        """The boot stack of this version."""
        return tuple(e for e in self.boot_stack if e.min_version <= windows.version)


def load_plan(extra: Sequence[Union[Path, Document]] = ()) -> Plan:
    """The packaged plan, the host's own by their names, then `extra`, each merged over the earlier: lists of named
    things by name, everything else replaced; the active vendor's part then goes over all. UsageError names the file
    and the line of a fault.
    """
    directory, local = PLAN_DIRECTORIES
    own = sorted(p for p in local.iterdir() if p.suffix in SUFFIXES) if local.is_dir() else []
    schema = json.loads((directory / "schema.json").read_text(encoding="utf-8"))
    merged: dict[str, Any] = {}
    chosen = ""
    for given in (directory / "virtio-win.yaml", directory / "hypervisors.yaml", *own, *extra):
        document = given if isinstance(given, Document) else read_document(given, "a plan")
        _check(document, schema)
        merged = _merge(merged, document.content)
        if "active_vendor" in document.content:
            chosen = f"{document.path}, line {document.line(['active_vendor'])}"
    vendor = merged.get("active_vendor")
    vendors = merged.get("vendors", {})
    if vendor is not None and vendor not in vendors:
        raise UsageError(f"{chosen}: no vendor {vendor!r}", hint=f"vendors: {', '.join(vendors) or 'none'}")
    return _plan(_merge(merged, vendors.get(vendor, {})))


def _check(document: Document, schema: dict[str, Any]) -> None:
    check(document, schema, "see docs/driver-plans.md")
    for number, bucket in enumerate(document.content.get("buckets", [])):
        if bucket.get("min_build", 0) > bucket.get("max_build", Bucket.max_build):
            raise document.error(["buckets", number], f"{bucket['name']}: min_build is above max_build, so it holds no build")


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` stands in place of what has the same name. A bus has one driver, so a role ends an older one of its bus."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict):
            merged[key] = {**old, **value}
        elif isinstance(old, list) and value and isinstance(value[0], dict):
            names = {_name(entry) for entry in value}
            buses = {entry["bus"] for entry in value if "bus" in entry}
            kept = [e for e in old if _name(e) not in names and e.get("bus") not in buses]
            merged[key] = [*value, *kept]
        else:
            merged[key] = value
    return merged


def _name(entry: dict[str, Any]) -> str:
    return str(entry.get("name") or entry["bus"])  # a controller has no name but its bus


def _version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)


def _plan(content: dict[str, Any]) -> Plan:
    def frozen(entry: dict[str, Any]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in entry.items():
            if key in ("version", "min_version"):
                out[key] = _version(value)
            elif key == "device":
                out[key] = _device(value)
            elif key == "devices":
                out[key] = tuple(_device(device) for device in value)
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
        signers=tuple(Signer(**frozen(e)) for e in content.get("signers", [])),
        filters=tuple(Foreign(**frozen(e)) for e in content.get("filters", [])),
        services=tuple(Foreign(**frozen(e)) for e in content.get("services", [])),
        tools=tuple(GuestTools(**frozen(e)) for e in content.get("tools", [])),
        default_bucket=content.get("default_bucket", ""),
    )


def _device(numbers: Sequence[Union[int, str]]) -> PciId:
    """Six numbers in PciId's order; as text "0x1AF4", since JSON has no hexadecimal ones."""
    return PciId(*(int(n, 16) if isinstance(n, str) else int(n) for n in numbers))
