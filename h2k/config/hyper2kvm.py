"""hyper2kvm's documented YAML, for people who bring it along: translated into a driver plan, a policy and a driver path.

Every key is honoured, or refused with its line. Its shapes: the project's own documentation (windows_virtio, win_net).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from h2k.config.documents import Document, check, read_document
from h2k.config.driver_plan import Bucket, Plan, Role, load_plan
from h2k.windows.pnp import PciId

HINT = "see docs/from-hyper2kvm.md"
# Its names for what the packaged plan calls otherwise.
BUCKETS = {
    "win7": "Windows 7", "win8": "Windows 8", "win8.1": "Windows 8.1", "win81": "Windows 8.1", "win10": "Windows 10",
    "win11": "Windows 11", "win2008r2": "Windows Server 2008 R2", "win2012": "Windows Server 2012",
    "win2012r2": "Windows Server 2012 R2", "win2016": "Windows Server 2016", "win2019": "Windows Server 2019",
    "win2022": "Windows Server 2022", "win2025": "Windows Server 2025",
}  # fmt: skip
ROLES = {
    "storage_virtio_blk": "virtio-blk", "storage_virtio_scsi": "virtio-scsi", "net_virtio": "virtio-net",
    "balloon": "virtio-balloon", "rng": "virtio-rng", "serial": "virtio-serial",
}  # fmt: skip
ISO_KEYS = ("virtio_drivers_dir", "win_driver_iso", "virtio_win_iso", "driver_iso")
STAGES = {"bootstrap": "recommended", "final": "skip-when-ready"}
_PNP_ID = re.compile(
    r"PCI\\VEN_([0-9A-F]{4})&DEV_([0-9A-F]{4})(?:&SUBSYS_([0-9A-F]{4})([0-9A-F]{4}))?(?:&REV_([0-9A-F]{2}))?", re.IGNORECASE
)
_STRING = {"type": "string", "minLength": 1, "maxLength": 4096}
_STRINGS = {"type": "array", "minItems": 1, "maxItems": 100, "items": _STRING}
_ROLES = {
    "type": "object",
    "propertyNames": {"enum": list(ROLES)},
    "additionalProperties": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"inf_globs": _STRINGS, "pnp_ids": _STRINGS},
    },
}
_BUILD = {"type": "integer", "minimum": 0, "maximum": 1_000_000}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "windows_virtio": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "schema": {"const": 1},
                "default_os_bucket": {"enum": list(BUCKETS)},
                "os_buckets": {
                    "type": "object",
                    "propertyNames": {"enum": list(BUCKETS)},
                    "additionalProperties": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {"min_build": _BUILD, "max_build": _BUILD},
                    },
                },
                "roles": _ROLES,
                "vendors": {
                    "type": "object",
                    "maxProperties": 100,
                    "additionalProperties": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {"roles": _ROLES},
                    },
                },
                "active_vendor": {"anyOf": [_STRING, {"type": "null"}]},
            },
        },
        "win_net": {},  # the policy's own schema has its shapes
        "win_stage": {"enum": list(STAGES)},
        **dict.fromkeys(ISO_KEYS, _STRING),
    },
}


@dataclasses.dataclass(frozen=True)
class Brought:
    """What a hyper2kvm file asks for: a driver plan and a policy to merge over the packaged ones, and a driver source."""

    plan: Optional[Document] = None
    policy: Optional[Document] = None
    drivers: Optional[str] = None


def read_hyper2kvm(path: Path) -> Brought:
    """Read and translate; UsageError names the file and the line of what can't be honoured."""
    document = read_document(path, "a hyper2kvm configuration")
    check(document, SCHEMA, HINT)
    content = document.content
    plan = _Translator(document, load_plan()).plan(content["windows_virtio"]) if "windows_virtio" in content else None
    policy: dict[str, Any] = {}
    if "win_stage" in content:
        policy["bootstrap"] = STAGES[content["win_stage"]]
    if "win_net" in content:
        policy["win_net"] = content["win_net"]
    return Brought(
        plan=dataclasses.replace(document, content=plan) if plan is not None else None,
        policy=dataclasses.replace(document, content=policy) if policy else None,
        drivers=next((content[key] for key in ISO_KEYS if key in content), None),
    )


class _Translator:
    """From windows_virtio to a driver plan: the packaged one says what the YAML leaves out."""

    def __init__(self, document: Document, packaged: Plan) -> None:
        self.document = document
        self.buckets = {bucket.name: bucket for bucket in packaged.buckets}
        self.roles = {role.name: role for role in packaged.roles}

    def plan(self, given: Mapping[str, Any]) -> dict[str, Any]:
        place = ["windows_virtio"]
        plan: dict[str, Any] = {
            "buckets": [
                _bucket(self.buckets[BUCKETS[name]], builds) for name, builds in given.get("os_buckets", {}).items()
            ],
            **self._roles(given.get("roles", {}), [*place, "roles"]),
            "vendors": {
                name: self._roles(vendor.get("roles", {}), [*place, "vendors", name, "roles"])
                for name, vendor in given.get("vendors", {}).items()
            },
        }
        if "default_os_bucket" in given:
            plan["default_bucket"] = BUCKETS[given["default_os_bucket"]]
        if given.get("active_vendor") is not None:
            plan["active_vendor"] = given["active_vendor"]
        return {key: value for key, value in plan.items() if value}

    def _roles(self, given: Mapping[str, Any], place: Sequence[str]) -> dict[str, Any]:
        roles, layouts = [], []
        for name, role in given.items():
            packaged = self.roles[ROLES[name]]
            driver, prefix, inf = packaged.driver, "", packaged.inf
            for number, glob in enumerate(role.get("inf_globs", [])):
                driver, prefix, inf = self._glob(glob, packaged, [*place, name, "inf_globs", number])
            if prefix:
                layouts.append(f"{prefix}/{{driver}}/{{os}}/{{arch}}")
            ids = [self._device(i, packaged, [*place, name, "pnp_ids", n]) for n, i in enumerate(role.get("pnp_ids", []))]
            roles.append(_role(packaged, driver, inf, ids))
        return {"roles": roles, **({"layouts": layouts} if layouts else {})}

    def _glob(self, glob: str, packaged: Role, place: Sequence[Any]) -> tuple[str, str, str]:
        r"""(driver folder, folders above it, INF) of `viostor\**\*.inf`: the releases below it are chosen by build."""
        parts = [p for p in glob.replace("\\", "/").split("/") if p]
        folders = [p for p in parts[:-1] if "*" not in p]
        inf = parts[-1] if parts else ""
        if not folders or not inf.lower().endswith(".inf"):
            raise self.document.error(place, rf"{glob!r} is not FOLDER\**\NAME.inf", HINT)
        if "*" not in inf and inf.lower() != packaged.inf.lower():
            raise self.document.error(
                place, f"{inf} is another driver than {packaged.inf}, and its service is not said here",
                "write it as a driver plan: docs/driver-plans.md",
            )  # fmt: skip
        return folders[-1], "/".join(folders[:-1]), packaged.inf

    def _device(self, text: str, packaged: Role, place: Sequence[Any]) -> list[int]:
        """The six numbers of a PNP id; what it leaves out is as the packaged device of the same id has it, else 0."""
        match = _PNP_ID.fullmatch(text)
        if match is None:
            raise self.document.error(place, rf"{text!r} is not PCI\VEN_xxxx&DEV_xxxx", HINT)
        vendor, device, subsystem, subsystem_vendor, revision = (int(g, 16) if g else None for g in match.groups())
        assert vendor is not None and device is not None
        other = PciId(vendor, device, class_code=packaged.devices[0].class_code)
        known = next((d for d in packaged.devices if (d.vendor, d.device) == (vendor, device)), other)
        return [
            vendor,
            device,
            known.subsystem_vendor if subsystem_vendor is None else subsystem_vendor,
            known.subsystem if subsystem is None else subsystem,
            known.revision if revision is None else revision,
            known.class_code,
        ]


def _bucket(packaged: Bucket, builds: Mapping[str, int]) -> dict[str, Any]:
    entry = {
        "name": packaged.name,
        "version": ".".join(map(str, packaged.version)),
        "product": packaged.product,
        "directories": list(packaged.directories),
        "min_build": builds.get("min_build", packaged.min_build),
    }
    most = builds.get("max_build", packaged.max_build)
    return entry if most == Bucket.max_build else {**entry, "max_build": most}


def _role(packaged: Role, driver: str, inf: str, ids: Sequence[list[int]]) -> dict[str, Any]:
    """The packaged role with the devices that were named as well: legacy and modern ids stay bound, always both."""
    devices = [list(dataclasses.astuple(device)) for device in packaged.devices]
    entry: dict[str, Any] = {
        "name": packaged.name, "kind": packaged.kind, "driver": driver, "inf": inf, "service": packaged.service,
        "class_guid": packaged.class_guid, "devices": devices + [i for i in ids if i not in devices],
        "stage": packaged.stage,
    }  # fmt: skip
    if packaged.bus:
        entry["bus"] = packaged.bus
    if packaged.start is not None:
        entry["start"] = packaged.start
    return entry


