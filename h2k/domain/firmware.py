"""UEFI builds of this host: the one that QEMU's firmware descriptors put first, with Secure Boot keys or without."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from h2k.base.errors import BadData, Refused

# What the firmware.json specification of QEMU names, highest priority first.
DESCRIPTOR_DIRS = (Path("/etc/qemu/firmware"), Path("/usr/share/qemu/firmware"))

DESCRIPTOR_LIMIT = 1024 * 1024  # bytes; real descriptors have about one KiB


@dataclasses.dataclass(frozen=True)
class Firmware:
    """A UEFI build for the guest: the code, the template of its variables, and whether it runs in SMM."""

    loader: Path
    template: Path
    smm: bool


def choose_firmware(
    descriptor_dirs: Sequence[Path] = DESCRIPTOR_DIRS, secure_boot: bool = False, machine: str = "q35"
) -> Firmware:
    """The UEFI build for x86_64 that QEMU's firmware descriptors put first, with its files in place.

    With `secure_boot` one that enforces it (keys enrolled); otherwise one without, or at least one whose empty
    variable store leaves it off. Raises Refused when there is none, BadData for a descriptor that can't be read.
    """
    fitting = []
    for path in _descriptors(descriptor_dirs):
        descriptor = _read_descriptor(path)
        features = set(_strings(descriptor.get("features")))
        firmware = _usable(descriptor, features, machine)
        if firmware is not None:
            fitting.append((features, firmware))
    if secure_boot:
        wanted = [f for features, f in fitting if {"secure-boot", "enrolled-keys"} <= features]
    else:
        plain = [f for features, f in fitting if "secure-boot" not in features]
        wanted = plain + [f for features, f in fitting if "enrolled-keys" not in features]
    if not wanted:
        kind = "UEFI firmware with Secure Boot keys" if secure_boot else "UEFI firmware"
        places = ", ".join(str(d) for d in descriptor_dirs)
        raise Refused(
            f"no {kind} for {machine} is described in {places}",
            hint="install ovmf (EL, Fedora: edk2-ovmf), then the same command",
            commands=("h2k doctor",),
        )
    return wanted[0]


def _descriptors(directories: Sequence[Path]) -> list[Path]:
    """By file name; a name in an earlier directory hides the later ones, and an empty file hides it altogether."""
    named: dict[str, Path] = {}
    for directory in directories:
        for path in sorted(directory.glob("*.json")):
            named.setdefault(path.name, path)
    return [named[name] for name in sorted(named) if named[name].stat().st_size > 0]


def _read_descriptor(path: Path) -> Mapping[str, Any]:
    if path.stat().st_size > DESCRIPTOR_LIMIT:
        raise BadData(f"{path}: larger than {DESCRIPTOR_LIMIT} bytes; no firmware descriptor")
    try:
        descriptor = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as e:
        raise BadData(f"{path}: no firmware descriptor: {e}") from e
    except OSError as e:
        raise BadData(f"{path}: {e.strerror}") from e
    if not isinstance(descriptor, dict):
        raise BadData(f"{path}: no firmware descriptor: not a JSON object")
    return descriptor


def _usable(descriptor: Mapping[str, Any], features: set[str], machine: str) -> Optional[Firmware]:
    mapping = _object(descriptor.get("mapping"))
    code, template = _object(mapping.get("executable")), _object(mapping.get("nvram-template"))
    chipset = "i440fx" if machine == "pc" else machine
    machines = [
        name
        for target in _list(descriptor.get("targets"))
        if _object(target).get("architecture") == "x86_64"
        for name in _strings(_object(target).get("machines"))
    ]
    if (
        "uefi" not in _strings(descriptor.get("interface-types"))
        or mapping.get("device") != "flash"
        or mapping.get("mode", "split") != "split"
        or (code.get("format"), template.get("format")) != ("raw", "raw")
        or not any(name.startswith(f"pc-{chipset}") for name in machines)
    ):
        return None
    loader, variables = Path(str(code.get("filename"))), Path(str(template.get("filename")))
    if not (loader.is_file() and variables.is_file()):
        return None
    return Firmware(loader, variables, "requires-smm" in features)


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _strings(value: Any) -> list[str]:
    return [item for item in _list(value) if isinstance(item, str)]
