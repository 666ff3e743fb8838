"""From a PCI device to its boot driver: CriticalDeviceDatabase up to 6.1, DriverDatabase from 6.2."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence
from typing import Optional

from h2k.base.errors import BadData
from h2k.windows.regf import REG_BINARY, REG_DWORD, REG_MULTI_SZ, REG_SZ, Hive, Key
from h2k.windows.services import control_set_name

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
    type: int
    data: bytes


def device_ids(
    vendor: int, device: int, subsystem_vendor: int, subsystem: int, revision: int, class_code: int
) -> tuple[str, ...]:
    """The ids that Windows makes for a PCI function, best first, without the leading `PCI\\`.

    Order as in Enum dumps of real machines. class_code is 24 bits: base class, subclass, interface.
    """
    base = f"VEN_{vendor:04X}&DEV_{device:04X}"
    full, short = f"CC_{class_code:06X}", f"CC_{class_code >> 8:04X}"
    subsys = f"SUBSYS_{subsystem:04X}{subsystem_vendor:04X}"
    return (
        f"{base}&{subsys}&REV_{revision:02X}",
        f"{base}&{subsys}",
        f"{base}&{full}",
        f"{base}&{short}",
        f"{base}&REV_{revision:02X}",
        base,
        f"VEN_{vendor:04X}&{full}",
        f"VEN_{vendor:04X}&{short}",
        f"VEN_{vendor:04X}",
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
    value = key.value(name) if key is not None else None
    text = (value.text() if value is not None else None) or ""
    return text if len(text) <= MAX_NAME else ""


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
    flags = configured.value("ConfigFlags")
    if flags is not None and (flags.dword() or 0) & _DISABLED:
        return broken(f"{place} is disabled (ConfigFlags {flags.dword()})")
    service = _name(configured, "Service")
    return Binding(device_id, service, guid, path if service else f"{place} has no Service", entry, inf), newness


def _version(package: Key) -> tuple[str, tuple[int, int]]:
    """(class GUID, (driver date, driver version)) of a package's Version; '' and zeros where it is too short."""
    value = package.value("Version")
    raw = value.raw if value is not None else b""
    if len(raw) < 24:
        return "", (0, 0)
    date, version = int.from_bytes(raw[24:32], "little"), int.from_bytes(raw[32:40], "little")
    return "{" + str(uuid.UUID(bytes_le=raw[8:24])).upper() + "}", (date, version)


def _sz(text: str) -> bytes:
    return (text + "\0").encode("utf-16-le")


def cdd_entries(control_set: int, ids: Sequence[str], service: str, class_guid: str) -> list[RegEntry]:
    """The CriticalDeviceDatabase entries that lead the ids to the service."""
    entries = []
    for device_id in ids:
        key = f"{control_set_name(control_set)}\\Control\\CriticalDeviceDatabase\\PCI#{device_id}"
        entries.append(RegEntry(key, "Service", REG_SZ, _sz(service)))
        entries.append(RegEntry(key, "ClassGUID", REG_SZ, _sz(class_guid)))
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
        RegEntry(f"{DATABASE}\\DriverInfFiles\\{inf}", "", REG_MULTI_SZ, _sz(package) + b"\0\0"),
        RegEntry(f"{DATABASE}\\DriverInfFiles\\{inf}", "Active", REG_SZ, _sz(package)),
        RegEntry(f"{DATABASE}\\DriverInfFiles\\{inf}", "Configurations", REG_MULTI_SZ, _sz(configuration) + b"\0\0"),
        RegEntry(packages, "Version", REG_BINARY, version + bytes(24)),
        RegEntry(f"{packages}\\Configurations\\{configuration}", "ConfigFlags", REG_DWORD, bytes(4)),
        RegEntry(f"{packages}\\Configurations\\{configuration}", "Service", REG_SZ, _sz(service)),
    ]
    for device_id in ids:
        entries.append(RegEntry(f"{DATABASE}\\DeviceIds\\PCI\\{device_id}", inf, REG_BINARY, _DEVICE_ID_DATA))
        entries.append(RegEntry(f"{packages}\\Descriptors\\PCI\\{device_id}", "Configuration", REG_SZ, _sz(configuration)))
    return entries
