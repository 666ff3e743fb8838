"""From a PCI device to its boot driver: CriticalDeviceDatabase up to 6.1, DriverDatabase from 6.2."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence

from h2k.windows.regf import REG_BINARY, REG_DWORD, REG_MULTI_SZ, REG_SZ, Hive
from h2k.windows.services import control_set_name

DATABASE = "DriverDatabase"
_ARCH_WORD = {"x86": 0, "amd64": 9, "arm64": 12}
# The rank of a match by hardware id as virt-v2v's own entries carry it.
_DEVICE_ID_DATA = bytes.fromhex("01ff0000")


@dataclasses.dataclass(frozen=True)
class Binding:
    """An id that the registry knows: the service it leads to ('' where the chain breaks), its class, the place."""

    id: str
    service: str
    class_guid: str
    where: str


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
    """What each id leads to, in the order of ids; ids that the registry does not know are left out."""
    if uses_driver_database(system):
        return tuple(b for i in ids for b in _from_database(system, i))
    return tuple(b for i in ids for b in _from_critical_devices(system, control_set, i))


def _from_critical_devices(system: Hive, control_set: int, device_id: str) -> list[Binding]:
    where = f"{control_set_name(control_set)}\\Control\\CriticalDeviceDatabase\\PCI#{device_id}"
    key = system.key(where)
    if key is None:
        return []
    service, guid = key.value("Service"), key.value("ClassGUID")
    return [
        Binding(
            device_id,
            (service.text() if service is not None else None) or "",
            (guid.text() if guid is not None else None) or "",
            where,
        )
    ]


def _from_database(system: Hive, device_id: str) -> list[Binding]:
    key = system.key(f"{DATABASE}\\DeviceIds\\PCI\\{device_id}")
    return [_package(system, device_id, v.name) for v in key.values() if v.name] if key is not None else []


def _text(system: Hive, key: str, name: str) -> str:
    value = system.value(key, name)
    return (value.text() if value is not None else None) or ""


def _package(system: Hive, device_id: str, inf: str) -> Binding:
    """The rest of the chain for one INF that DeviceIds names: package, descriptor, configuration, service."""
    active = _text(system, f"{DATABASE}\\DriverInfFiles\\{inf}", "Active")
    if not active:
        return Binding(device_id, "", "", f"{DATABASE}\\DriverInfFiles\\{inf} has no Active package")
    package = f"{DATABASE}\\DriverPackages\\{active}"
    version = system.value(package, "Version")
    guid = ""
    if version is not None and len(version.raw) >= 24:
        guid = "{" + str(uuid.UUID(bytes_le=version.raw[8:24])).upper() + "}"
    configuration = _text(system, f"{package}\\Descriptors\\PCI\\{device_id}", "Configuration")
    if not configuration:
        return Binding(device_id, "", guid, f"{package}\\Descriptors\\PCI\\{device_id} has no Configuration")
    service = _text(system, f"{package}\\Configurations\\{configuration}", "Service")
    return Binding(device_id, service, guid, package)


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
    """The DriverDatabase entries that lead the ids to the service, in the layout that virt-v2v proved.

    The INF's name is ours, so that the real package can be installed beside it later; the package key has the
    form `<inf>_<arch>_<16 hex digits>` without which pnputil fails (87).
    """
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
