"""From a PCI device to its boot driver: CriticalDeviceDatabase up to 6.1, DriverDatabase from 6.2."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence
from typing import Optional

from h2k.base.errors import BadData
from h2k.windows.regf import Hive, Key
from h2k.windows.services import control_set_name
from h2k.windows.values import Value, binary, dword, multi, text

DATABASE = "DriverDatabase"
MAX_INFS = 256  # INFs for one id; real hives have one or two
MAX_NAME = 255  # characters: the registry's own limit for the name of a key, and so of a service
_ARCH_WORD = {"x86": 0, "amd64": 9, "arm64": 12}
# Rank of an INF's own entry below DeviceIds, as virt-v2v writes it and 3,204 of 3,206 real entries have it: the id's
# place in the INF's list (1 is its hardware id), then the INF's FeatureScore (0xff without one; less is better).
_DEVICE_ID_DATA = bytes.fromhex("01ff0000")
_DISABLED = 1  # CONFIGFLAG_DISABLED
_UNRANKED = (0xFF, 0xFF)


@dataclasses.dataclass(frozen=True)
class Binding:
    """An id that the registry knows: the service it leads to ('' where the chain breaks), its class, the place.

    `entry` is the key that holds the id, and `inf` the name of its value there: what to delete to end a wrong
    binding ('' in CriticalDeviceDatabase, where the whole key is one binding).
    """

    id: str
    service: str
    class_guid: str
    where: str
    entry: str
    inf: str = ""


@dataclasses.dataclass(frozen=True)
class RegEntry:
    """One value to write in the SYSTEM hive."""

    key: str
    name: str
    value: Value


@dataclasses.dataclass(frozen=True)
class PciId:
    """What a PCI function says that it is; class_code is 24 bits: base class, subclass, interface."""

    vendor: int
    device: int
    subsystem_vendor: int = 0
    subsystem: int = 0
    revision: int = 0
    class_code: int = 0

    def __str__(self) -> str:
        """As people and QEMU write it: "1AF4:1042"."""
        return f"{self.vendor:04X}:{self.device:04X}"

    @property
    def name(self) -> str:
        """As Windows writes it: "VEN_1AF4&DEV_1042"."""
        return f"VEN_{self.vendor:04X}&DEV_{self.device:04X}"

    def ids(self) -> tuple[str, ...]:
        """The ids that Windows makes of it, best first as in Enum dumps of real machines, without the leading `PCI\\`."""
        full, short = f"CC_{self.class_code:06X}", f"CC_{self.class_code >> 8:04X}"
        subsys = f"SUBSYS_{self.subsystem:04X}{self.subsystem_vendor:04X}"
        vendor = f"VEN_{self.vendor:04X}"
        return (
            f"{self.name}&{subsys}&REV_{self.revision:02X}",
            f"{self.name}&{subsys}",
            f"{self.name}&{full}",
            f"{self.name}&{short}",
            f"{self.name}&REV_{self.revision:02X}",
            self.name,
            f"{vendor}&{full}",
            f"{vendor}&{short}",
            vendor,
            full,
            short,
        )


def uses_driver_database(system: Hive) -> bool:
    """Whether this Windows (6.2 and later) matches boot devices through DriverDatabase."""
    return system.key(DATABASE) is not None


def find_binding(system: Hive, control_set: int, ids: Sequence[str]) -> tuple[Binding, ...]:
    """What the registry has for a device with these ids (its own, best first): the binding that wins comes first.

    Up to 6.1 the first id that is listed wins. From 6.2 every INF that lists one of the ids takes part: a better
    (lower) FeatureScore wins, then the better id, then the id's place in the INF, then the newer driver (date,
    version), as Microsoft's page "How Windows ranks drivers" has it; signatures are not compared.
    """
    if not uses_driver_database(system):
        return tuple(b for i in ids for b in _from_critical_devices(system, control_set, i))
    found = [(*rank, b) for place, i in enumerate(ids) for rank, b in _from_database(system, i, place)]
    found.sort(key=lambda entry: entry[:-1])
    return tuple(entry[-1] for entry in found)


def _from_critical_devices(system: Hive, control_set: int, device_id: str) -> list[Binding]:
    where = f"{control_set_name(control_set)}\\Control\\CriticalDeviceDatabase\\PCI#{device_id}"
    key = system.key(where)
    return [Binding(device_id, _name(key, "Service"), _name(key, "ClassGUID"), where, where)] if key is not None else []


Rank = tuple[int, int, int, int, int]


def _from_database(system: Hive, device_id: str, place: int) -> list[tuple[Rank, Binding]]:
    entry = f"{DATABASE}\\DeviceIds\\PCI\\{device_id}"
    key = system.key(entry)
    values = key.values() if key is not None else ()
    if len(values) > MAX_INFS:
        raise BadData(f"{system.name}: {entry} names {len(values)} INF files")
    found = []
    for value in values:
        if value.name:
            binding, newness = _package(system, device_id, entry, value.name)
            position, feature = value.raw[:2] if len(value.raw) >= 2 else _UNRANKED
            found.append(((feature, place, position, -newness[0], -newness[1]), binding))
    return found


def _name(key: Optional[Key], name: str) -> str:
    """A value that names a key; '' when it is missing, of another type, or longer than any name."""
    found = key.text(name, "") if key is not None else ""
    return found if len(found) <= MAX_NAME else ""


def _package(system: Hive, device_id: str, entry: str, inf: str) -> tuple[Binding, tuple[int, int]]:
    """The rest of the chain for one INF that DeviceIds names: package, descriptor, configuration, service;
    and the driver's date and version, as its package has them."""
    place = f"{DATABASE}\\DriverInfFiles\\{inf}"
    active = _name(system.key(place), "Active")
    path = f"{DATABASE}\\DriverPackages\\{active}"
    package = system.key(path) if active else None
    if package is None:
        what = "is not there" if active else "has no Active package"
        return Binding(device_id, "", "", f"{path if active else place} {what}", entry, inf), (0, 0)
    guid, newness = _version(package)

    def broken(where: str) -> tuple[Binding, tuple[int, int]]:
        return Binding(device_id, "", guid, where, entry, inf), newness

    configuration = _name(package.subkey(f"Descriptors\\PCI\\{device_id}"), "Configuration")
    if not configuration:
        return broken(f"{path}\\Descriptors\\PCI\\{device_id} has no Configuration")
    place = f"{path}\\Configurations\\{configuration}"
    configured = package.subkey(f"Configurations\\{configuration}")
    if configured is None:
        return broken(f"{place} is not there")
    flags = configured.dword("ConfigFlags", 0)
    if flags & _DISABLED:
        return broken(f"{place} is disabled (ConfigFlags {flags})")
    service = _name(configured, "Service")
    return Binding(device_id, service, guid, path if service else f"{place} has no Service", entry, inf), newness


def _version(package: Key) -> tuple[str, tuple[int, int]]:
    """(class GUID, (driver date, driver version)) of a package's Version; '' and zeros where it is too short."""
    raw = package.raw("Version")
    if len(raw) < 24:
        return "", (0, 0)
    date, version = int.from_bytes(raw[24:32], "little"), int.from_bytes(raw[32:40], "little")
    return "{" + str(uuid.UUID(bytes_le=raw[8:24])).upper() + "}", (date, version)


def cdd_entries(control_set: int, ids: Sequence[str], service: str, class_guid: str) -> list[RegEntry]:
    """The CriticalDeviceDatabase entries that lead the ids to the service."""
    entries = []
    for device_id in ids:
        key = f"{control_set_name(control_set)}\\Control\\CriticalDeviceDatabase\\PCI#{device_id}"
        entries.append(RegEntry(key, "Service", text(service)))
        entries.append(RegEntry(key, "ClassGUID", text(class_guid)))
    return entries


def driver_database_entries(service: str, ids: Sequence[str], class_guid: str, arch: str) -> list[RegEntry]:
    """The DriverDatabase entries that lead the ids to the service, in the layout that virt-v2v proved. arch is
    "x86", "amd64" or "arm64"; BadData for another.

    The INF's name is ours, so that the real package can be installed beside it later; the package key has the
    form `<inf>_<arch>_<16 hex digits>` without which pnputil fails (87).
    """
    if arch not in _ARCH_WORD:
        raise BadData(f"no driver packages for the architecture {arch}", hint="convert with --h2k-bus sata")
    inf = f"h2k{service.lower()}.inf"
    package = f"{inf}_{arch}_0000000000000000"
    configuration = f"{service}_conf"
    packages = f"{DATABASE}\\DriverPackages\\{package}"
    version = b"\x00\xff" + _ARCH_WORD[arch].to_bytes(2, "little") + bytes(4) + uuid.UUID(class_guid).bytes_le
    entries = [
        RegEntry(f"{DATABASE}\\DriverInfFiles\\{inf}", "", multi([package])),
        RegEntry(f"{DATABASE}\\DriverInfFiles\\{inf}", "Active", text(package)),
        RegEntry(f"{DATABASE}\\DriverInfFiles\\{inf}", "Configurations", multi([configuration])),
        RegEntry(packages, "Version", binary(version + bytes(24))),
        RegEntry(f"{packages}\\Configurations\\{configuration}", "ConfigFlags", dword(0)),
        RegEntry(f"{packages}\\Configurations\\{configuration}", "Service", text(service)),
    ]
    for device_id in ids:
        entries.append(RegEntry(f"{DATABASE}\\DeviceIds\\PCI\\{device_id}", inf, binary(_DEVICE_ID_DATA)))
        entries.append(RegEntry(f"{packages}\\Descriptors\\PCI\\{device_id}", "Configuration", text(configuration)))
    return entries
