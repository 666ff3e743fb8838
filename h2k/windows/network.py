"""The network that a Windows was set up for, read offline: every adapter with its addresses, routes, names and MAC."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Optional

from h2k.base.errors import BadData
from h2k.windows.network_extras import read_extras, read_unbound
from h2k.windows.regf import Hive, Key
from h2k.windows.services import control_set_name
from h2k.windows.values import REG_BINARY

NET_CLASS = "{4D36E972-E325-11CE-BFC1-08002BE10318}"
IPV4_NSI, IPV6_NSI = "{eb004a00-9b1a-11d4-9123-0050047759bc}", "{eb004a01-9b1a-11d4-9123-0050047759bc}"
# Device interface classes below which a network card leaves a link: GUID_NDIS_LAN_CLASS, GUID_DEVINTERFACE_NET.
INTERFACE_CLASSES = ("{ad498944-762f-11d0-8dcb-00c04fc3358c}", "{cac88484-7515-4c03-82e6-71a87abac361}")
PROFILES = "Microsoft\\Windows NT\\CurrentVersion\\NetworkList"
MAX_ADAPTERS = 1024  # class keys; a real Windows has about twenty
MAX_ADDRESSES = 64  # of each kind on one adapter
MAX_VALUES = 4096
MAX_NAME = 256  # characters
MANUAL = 1  # NL_PREFIX_ORIGIN and NL_SUFFIX_ORIGIN: set by hand
_BUSES = ("PCI", "VMBUS", "XENVIF", "XEN")
_GUID = re.compile(r"\{[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\}")
_PCI = re.compile(r"PCI\\VEN_([0-9A-F]{4})&DEV_([0-9A-F]{4})(?:&SUBSYS_([0-9A-F]{4})([0-9A-F]{4}))?", re.I)
_INSTANCE = re.compile(r"[^\\]{1,64}\\[^\\]{1,200}\\[^\\]{1,200}")
# DEVPKEY_Device_LastArrivalDate and LastRemovalDate, as Enum keeps them from Windows 8 on.
_PROPERTIES = "Properties\\{83da6326-97a6-4088-9453-a1923f573b29}"
_ARRIVAL, _REMOVAL = "0066", "0067"


@dataclasses.dataclass(frozen=True)
class Gateway:
    """A default gateway and its metric (0: automatic)."""

    address: str
    metric: int = 0


@dataclasses.dataclass(frozen=True)
class Route:
    """A persistent IPv4 route: destination "10.0.0.0/8", gateway, metric."""

    destination: str
    gateway: str
    metric: int


@dataclasses.dataclass(frozen=True)
class Adapter:
    """One network adapter as the registry has it.

    `mac` is its permanent address ("52:54:00:…") where that is known beyond doubt, and `mac_source` says from where.
    `hardware` tells whose card it is: "virtio" or "qemu" (ours), "vmware", "hyper-v", "virtualbox", "xen",
    "parallels", "physical", or "" for one without hardware (a team, a VPN, a loopback). `slot` is the slot number
    that Windows shows (VMware's pciSlotNumber). `present` is False for one that was gone already on the source, None
    where Windows keeps no such record (7). `unread` says in words what is there and could not be decoded.

    `register` tells whether the card's addresses are registered in DNS: "primary" (Windows' default), "none" or "both"
    (the connection's suffix as well). `netbios` is 1 (on) or 2 (off), None where DHCP decides. `unbound` are the services
    that the owner unticked for this card: Windows' own first, then others (filter drivers).
    """

    guid: str
    name: str
    description: str
    instance: str
    driver_key: str
    service: str
    hardware: str
    mac: Optional[str]
    mac_source: str
    slot: Optional[int]
    present: Optional[bool]
    luid: Optional[str]
    dhcp: bool
    addresses: tuple[str, ...] = ()
    gateways: tuple[Gateway, ...] = ()
    dns: tuple[str, ...] = ()
    addresses6: tuple[str, ...] = ()
    gateways6: tuple[Gateway, ...] = ()
    dns6: tuple[str, ...] = ()
    metric: Optional[int] = None
    unread: tuple[str, ...] = ()
    wins: tuple[str, ...] = ()
    netbios: Optional[int] = None
    suffix: str = ""
    register: str = "primary"
    no_dynamic_update: bool = False
    mtu: Optional[int] = None
    unbound: tuple[str, ...] = ()

    @property
    def static(self) -> bool:
        """Whether somebody set something by hand that DHCP would not give again."""
        return bool(self.addresses or self.addresses6 or self.dns or self.dns6 or self.gateways6)

    def summary(self) -> str:
        """What it is set to, in a few words."""
        addresses = ", ".join((*self.addresses, *self.addresses6)) or "DHCP"
        gateways = ", ".join(g.address for g in (*self.gateways, *self.gateways6))
        dns = ", ".join((*self.dns, *self.dns6))
        return addresses + (f", gateway {gateways}" if gateways else "") + (f", DNS {dns}" if dns else "")


@dataclasses.dataclass(frozen=True)
class Profile:
    """A network that Windows knows: category "public", "private" or "domain"; `managed` by a domain."""

    guid: str
    name: str
    category: str
    managed: bool


@dataclasses.dataclass(frozen=True)
class Network:
    """Everything: adapters in the order of their driver keys, persistent routes, network profiles."""

    adapters: tuple[Adapter, ...]
    routes: tuple[Route, ...]
    profiles: tuple[Profile, ...]

    @property
    def cards(self) -> tuple[Adapter, ...]:
        """The adapters with hardware behind them."""
        return tuple(a for a in self.adapters if a.hardware)

    def as_json(self) -> dict[str, Any]:
        """The content of network.json."""
        return {"schema": 1, **dataclasses.asdict(self)}


def read_network(system: Hive, software: Optional[Hive], control_set: int) -> Network:
    """The network of one control set. Values that are no addresses are left out and named in `unread`; BadData only
    for a hive that can't be walked."""
    base = control_set_name(control_set)
    classes = system.key(f"{base}\\Control\\Class\\{NET_CLASS}")
    keys = [k for k in (classes.subkeys() if classes is not None else ()) if re.fullmatch("[0-9]{4}", k.name)]
    if len(keys) > MAX_ADAPTERS:
        raise BadData(f"{system.name}: {base}\\Control\\Class\\{NET_CLASS} has {len(keys)} adapters")
    instances = _instances(system, base)
    luids = _luids(keys)
    unbound = read_unbound(system, base) if keys else {}
    adapters = [a for a in (_adapter(system, base, key, instances, luids, unbound) for key in keys) if a is not None]
    return Network(tuple(adapters), _routes(system, base), _profiles(software) if software is not None else ())


def _text(key: Optional[Key], name: str) -> str:
    return key.text(name, "")[:MAX_NAME] if key is not None else ""


def _number(key: Optional[Key], name: str) -> Optional[int]:
    return key.dword(name) if key is not None else None


# Which adapters there are


def _instances(system: Hive, base: str) -> dict[str, str]:
    """Driver key (NNNN) → device instance, from Enum: Windows 7 has it nowhere else for every card."""
    found: dict[str, str] = {}
    prefix = f"{NET_CLASS}\\".lower()
    for bus in _BUSES:
        enumerator = system.key(f"{base}\\Enum\\{bus}")
        for device in enumerator.subkeys() if enumerator is not None else ():
            for instance in device.subkeys():
                driver = _text(instance, "Driver").lower()
                if driver.startswith(prefix):
                    found[driver[len(prefix) :]] = f"{bus}\\{device.name}\\{instance.name}"
    return found


def _luids(keys: list[Key]) -> dict[str, str]:
    """Driver key → the adapter's NET_LUID as Nsi spells it (16 hex digits); left out where two adapters share one.

    24 reserved bits, 24 bits NetLuidIndex, 16 bits interface type: ifdef.h, and the corpus hives agree.
    """
    found: dict[str, str] = {}
    for key in keys:
        index, kind = _number(key, "NetLuidIndex"), _number(key, "*IfType")
        if index is not None and kind is not None and index < 1 << 24 and kind < 1 << 16:
            found[key.name] = struct.pack("<Q", index << 24 | kind << 48).hex()
    taken = list(found.values())
    return {name: luid for name, luid in found.items() if taken.count(luid) == 1}


def _adapter(
    system: Hive, base: str, key: Key, instances: dict[str, str], luids: dict[str, str], unbound: Mapping[str, tuple[str, ...]]
) -> Optional[Adapter]:
    guid = _text(key, "NetCfgInstanceId")
    if not _GUID.fullmatch(guid):
        return None
    connection = system.key(f"{base}\\Control\\Network\\{NET_CLASS}\\{guid}\\Connection")
    known = (instances.get(key.name, ""), _text(key, "DeviceInstanceID"), _text(connection, "PnPInstanceId"))
    instance = next((i for i in known if _INSTANCE.fullmatch(i)), "")
    device = system.key(f"{base}\\Enum\\{instance}") if instance else None
    mac, mac_source = _mac(system, base, guid, instance)
    luid = luids.get(key.name)
    unread: list[str] = []
    settings = _ipv4(system.key(f"{base}\\Services\\Tcpip\\Parameters\\Interfaces\\{guid}"), unread)
    settings.update(_ipv6(system, base, guid, luid, unread))
    settings.update(read_extras(system, base, guid, unread))
    return Adapter(
        guid=guid,
        name=_text(connection, "Name"),
        description=_text(key, "DriverDesc"),
        instance=instance,
        driver_key=key.name,
        service=_text(device, "Service"),
        hardware=hardware_of(instance),
        mac=mac,
        mac_source=mac_source,
        slot=_number(device, "UINumber"),
        present=_present(device),
        luid=luid,
        unread=tuple(unread),
        unbound=unbound.get(guid.lower(), ()),
        **settings,
    )


def hardware_of(instance: str) -> str:
    """Whose card a device instance is; '' for what is no network hardware. The subsystem decides before the chip:
    every hypervisor offers an Intel card, and marks it as its own."""
    bus = instance.split("\\", 1)[0].upper()
    if bus == "VMBUS":
        return "hyper-v"
    if bus in ("XENVIF", "XEN"):
        return "xen"
    match = _PCI.match(instance)
    if match is None:
        return ""
    vendor, device, subsystem, maker = (part.upper() if part else "" for part in match.groups())
    if vendor == "1AF4":
        return "virtio"
    if maker == "1AF4" or (vendor, device, subsystem, maker) == ("8086", "10D3", "0000", "8086"):
        return "qemu"  # e1000e is the one card that QEMU shows without its own subsystem
    makers = {"15AD": "vmware", "5853": "xen", "1AB8": "parallels", "1414": "hyper-v", "80EE": "virtualbox"}
    found = makers.get(maker) or makers.get(vendor)
    if found is None and subsystem + maker in ("001E8086", "001F8086", "20001022"):
        return "virtualbox"  # 82540EM, 82545EM and PCnet as VirtualBox offers them
    return found or "physical"


def _present(device: Optional[Key]) -> Optional[bool]:
    """Whether the device was there when Windows last ran: not removed since it arrived."""
    if device is None:
        return None
    arrival, removal = _filetime(device, _ARRIVAL), _filetime(device, _REMOVAL)
    if arrival is None:
        return None
    return removal is None or removal <= arrival


def _filetime(device: Key, name: str) -> Optional[int]:
    key = device.subkey(f"{_PROPERTIES}\\{name}")
    raw = key.raw("") if key is not None else b""
    return int.from_bytes(raw, "little") if len(raw) == 8 else None


# MAC addresses


def _mac(system: Hive, base: str, guid: str, instance: str) -> tuple[Optional[str], str]:
    """(permanent MAC, where it was read): what Windows 10 notes down, else the serial number in the instance id."""
    kernel = system.key(f"{base}\\Control\\NetworkSetup2\\Interfaces\\{guid}\\Kernel")
    value = kernel.value("PermanentAddress") if kernel is not None else None
    if value is not None and value.type == REG_BINARY and _is_card(value.raw):
        return _colons(value.raw), "NetworkSetup2"
    mac = mac_of_serial(instance)
    return (mac, "device serial number") if mac is not None else (None, "")


def mac_of_serial(instance: str) -> Optional[str]:
    """The MAC in the PCI Express serial number that an instance id shows, in the two forms that VMware's cards have:
    000C29FFFFF3FFDE00 (82574L) and FF290C008E0E28FE00 (vmxnet3, each half reversed), both 00:0c:29 cards."""
    serial = instance.rsplit("\\", 1)[-1]
    if not instance.upper().startswith("PCI\\") or not re.fullmatch("[0-9A-Fa-f]{16}00", serial):
        return None
    raw = bytes.fromhex(serial[:16])
    for eui in (raw, raw[3::-1] + raw[7:3:-1]):
        mac = eui[:3] + eui[5:]
        if eui[3:5] in (b"\xff\xff", b"\xff\xfe") and _is_card(mac):
            return _colons(mac)
    return None


def _is_card(raw: bytes) -> bool:
    return len(raw) == 6 and any(raw) and not raw[0] & 1


def _colons(raw: bytes) -> str:
    return ":".join(f"{b:02x}" for b in raw)


# IPv4


def _ipv4(key: Optional[Key], unread: list[str]) -> dict[str, Any]:
    """What Tcpip\\Parameters\\Interfaces\\{GUID} says; DHCP where it says nothing."""
    addresses = _addresses(key, unread)
    dhcp = _number(key, "EnableDHCP")
    static = dhcp == 0 or (dhcp is None and bool(addresses))
    return {
        "dhcp": not static,
        "addresses": addresses if static else (),
        "gateways": _gateways(key, unread) if static else (),
        "dns": _servers(key, 4, unread),
        "metric": _number(key, "InterfaceMetric") or None,
    }


def _multi(key: Optional[Key], name: str) -> tuple[str, ...]:
    return key.multi(name, ())[:MAX_ADDRESSES] if key is not None else ()


def _addresses(key: Optional[Key], unread: list[str]) -> tuple[str, ...]:
    found = []
    addresses, masks = _multi(key, "IPAddress"), _multi(key, "SubnetMask")
    for number, address in enumerate(addresses):
        mask = masks[number] if number < len(masks) else "none"
        try:
            if not ipaddress.IPv4Address(address).is_unspecified:  # which Windows writes for "none yet"
                found.append(str(ipaddress.IPv4Interface((address, _prefix(mask)))))
        except ValueError:
            unread.append(f"address {address[:40]!r} with mask {mask[:40]!r}")
    return tuple(dict.fromkeys(found))


def _prefix(mask: str) -> int:
    """The prefix length of a dotted mask; ValueError for one that is no mask."""
    bits = int(ipaddress.IPv4Address(mask))
    inverse = bits ^ 0xFFFFFFFF
    if inverse & (inverse + 1):
        raise ValueError(f"{mask}: not a mask")
    return 32 - inverse.bit_length()


def _gateways(key: Optional[Key], unread: list[str]) -> tuple[Gateway, ...]:
    found = []
    metrics = _multi(key, "DefaultGatewayMetric")
    for number, text in enumerate(_multi(key, "DefaultGateway")):
        metric = metrics[number] if number < len(metrics) and metrics[number].isdecimal() else "0"
        try:
            found.append(Gateway(str(ipaddress.IPv4Address(text)), min(int(metric[:6]), 9999)))
        except ValueError:
            unread.append(f"gateway {text[:40]!r}")
    return tuple(found)


def _servers(key: Optional[Key], family: int, unread: list[str]) -> tuple[str, ...]:
    """NameServer: addresses separated by commas or spaces."""
    found = []
    for text in re.split("[, ]+", _text(key, "NameServer"))[:MAX_ADDRESSES]:
        try:
            if text:
                address = ipaddress.ip_address(text)
                if address.version != family or "%" in text:
                    raise ValueError(text)
                found.append(str(address))
        except ValueError:
            unread.append(f"DNS server {text[:40]!r}")
    return tuple(dict.fromkeys(found))


def _routes(system: Hive, base: str) -> tuple[Route, ...]:
    """PersistentRoutes: value names `destination,mask,gateway,metric`; they belong to no adapter."""
    key = system.key(f"{base}\\Services\\Tcpip\\Parameters\\PersistentRoutes")
    found = []
    for value in (key.values() if key is not None else ())[:MAX_VALUES]:
        parts = value.name.split(",")
        try:
            network = ipaddress.IPv4Network((parts[0], _prefix(parts[1])))
            found.append(Route(str(network), str(ipaddress.IPv4Address(parts[2])), min(int(parts[3][:6]), 9999)))
        except (ValueError, IndexError):
            continue  # what Windows itself can't read as a route
    return tuple(found)


# IPv6


def _ipv6(system: Hive, base: str, guid: str, luid: Optional[str], unread: list[str]) -> dict[str, Any]:
    """Static IPv6 addresses and default routes lie in Nsi, below the adapter's LUID.

    A value is taken only when every field has the one meaning that a persistent, manual address has; another one of
    this adapter is named in `unread`, for the owner to set by hand.
    """
    addresses: list[str] = []
    gateways: list[Gateway] = []
    if luid is not None:
        for name, data in _nsi(system, base, "10"):
            if name.startswith(luid):
                address = _unicast(name, data)
                if address:
                    addresses.append(address)
                elif address is None:
                    unread.append(f"IPv6 address {_hex_address(name[16:48])}")
        for name, data in _nsi(system, base, "16"):
            if name[80:96] == luid:
                gateway = _forward(name, data, luid)
                if gateway is not None:
                    gateways.append(gateway)
                else:
                    unread.append("an IPv6 route")
    elif any(_unicast(name, data) for name, data in _nsi(system, base, "10")):
        unread.append("IPv6 addresses, for the adapter's LUID is not known")
    servers = _servers(system.key(f"{base}\\Services\\Tcpip6\\Parameters\\Interfaces\\{guid}"), 6, unread)
    return {"addresses6": tuple(addresses[:MAX_ADDRESSES]), "gateways6": tuple(gateways[:MAX_ADDRESSES]), "dns6": servers}


def _nsi(system: Hive, base: str, table: str) -> Iterator[tuple[str, bytes]]:
    """(name in lower case, data) of a table of the IPv6 module: 10 are unicast addresses, 16 routes."""
    key = system.key(f"{base}\\Control\\Nsi\\{IPV6_NSI}\\{table}")
    for value in (key.values() if key is not None else ())[:MAX_VALUES]:
        yield value.name.lower(), value.raw


def _unicast(name: str, data: bytes) -> Optional[str]:
    """ "2001:db8::10/64" of a persistent manual address; '' for one that needs no carrying (link-local), None for one
    that does not decode beyond doubt.

    Name: LUID (8 bytes), address (16). Data (48): valid and preferred lifetime, prefix and suffix origin (DWORDs),
    prefix length, skip-as-source (bytes), then a mask. Found by tracing netsh: stackoverflow.com/questions/8155700.
    """
    if not re.fullmatch("[0-9a-f]{48}", name) or len(data) < 18:
        return None
    address = ipaddress.IPv6Address(bytes.fromhex(name[16:]))
    valid, preferred, prefix_origin, suffix_origin, prefix, skip = struct.unpack_from("<IIIIBB", data)
    if address.is_link_local:
        return ""
    forever = valid == preferred == 0xFFFFFFFF
    manual = prefix_origin == suffix_origin == MANUAL
    if not (forever and manual and 1 <= prefix <= 128 and skip in (0, 1)) or not _is_host(address):
        return None
    return f"{address}/{prefix}"


def _is_host(address: ipaddress.IPv6Address) -> bool:
    return not (address.is_multicast or address.is_unspecified or address.is_loopback or address.ipv4_mapped)


def _forward(name: str, data: bytes, luid: str) -> Optional[Gateway]:
    """The gateway of a persistent default route; None for any other route.

    Name (72 bytes): 4 unknown, prefix (16), its length (byte), 19 unknown, LUID (8), LUID again or zero (8), next hop
    (16): the key of the forward table as programs get it from nsi.dll, with all unknown bytes zero.
    """
    if not re.fullmatch("[0-9a-f]{144}", name) or any(bytes.fromhex(name[:80])):
        return None
    hop = ipaddress.IPv6Address(bytes.fromhex(name[112:144]))
    if name[96:112] not in (luid, "0" * 16) or not _is_host(hop) or not data:
        return None
    return Gateway(str(hop))


def _hex_address(digits: str) -> str:
    return str(ipaddress.IPv6Address(bytes.fromhex(digits))) if re.fullmatch("[0-9a-f]{32}", digits) else "of unknown form"


# Profiles


def _profiles(software: Hive) -> tuple[Profile, ...]:
    """NetworkList\\Profiles: Category 0 is public, 1 private, 2 domain."""
    key = software.key(f"{PROFILES}\\Profiles")
    found = []
    for profile in (key.subkeys() if key is not None else ())[:MAX_ADAPTERS]:
        category = {1: "private", 2: "domain"}.get(_number(profile, "Category") or 0, "public")
        if _GUID.fullmatch(profile.name):
            managed = bool(_number(profile, "Managed"))
            found.append(Profile(profile.name, _text(profile, "ProfileName"), category, managed))
    return tuple(found)
