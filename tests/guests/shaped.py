"""Hives in the shape of real ones, made: what a clone without the corpus reads, edits and judges in its place.

Content is that of the made guests and some hundred services more; cells lie as Windows lays them and hivex does not: bins
closed with free cells, indexes of lists, large values in segments, class names, names in UTF-16, one shared
security descriptor, and sequences one apart, as in a hive that was copied from a machine without its logs.
"""

from __future__ import annotations

import functools
from pathlib import Path
from string import Template
from typing import Any

import hivex

from tests.guests.rawhive import Node, RawHive
from tests.guests.regfile import build_hive, make_dirty

HERE = Path(__file__).resolve().parent
STAMP = 0x01D9000000000000
INDEX = 100  # keys from which Windows' list becomes an index of lists, here early
# Services as a real machine has them beside those that boot: stopped, on demand, of other kinds, with triggers and texts.
_SERVICE = """[ControlSet001\\Services\\Made{n:03d}]
"Type"=dword:{kind:08x}
"Start"=dword:{start:08x}
"ErrorControl"=dword:00000001
"DisplayName"="@%SystemRoot%\\\\system32\\\\made{n:03d}.dll,-100"
"ImagePath"=expand:"{image}"
[ControlSet001\\Services\\Made{n:03d}\\Parameters]
"ServiceDll"=expand:"%SystemRoot%\\\\System32\\\\made{n:03d}.dll"
"Blob"=hex:{blob}
[ControlSet001\\Services\\Made{n:03d}\\Security]
"Security"=hex:01,00,14,80
"""
# A package of class SCSIAdapter without a Configuration: put into the store, never used.
_VERSION = "00,ff,09,00,00,00,00,00,7b,e9,36,4d,25,e3,ce,11,bf,c1,08,00,2b,e1,03,18" + ",00" * 24
_MORE = """[Select]
"Current"=dword:00000001
"Default"=dword:00000001
"Failed"=dword:00000000
"LastKnownGood"=dword:00000001
[Setup]
"SystemSetupInProgress"=dword:00000000
"CmdLine"=""
[ControlSet001\\Control\\Lsa\\JD]
"Lookup"=hex:00,01,02,03,04,05
[ControlSet001\\Control\\Nls\\Übergänge]
"Straße"="ß"
[ControlSet001\\Control\\Nls\\語言]
"名"="言"
[ControlSet001\\Control\\ProductOptions]
"ProductPolicy"=hex:{policy}
[DriverDatabase\\DriverInfFiles\\vmscsi.inf]
@=multi:["vmscsi.inf_amd64_0000000000000001"]
"Active"="vmscsi.inf_amd64_0000000000000001"
[DriverDatabase\\DriverPackages\\vmscsi.inf_amd64_0000000000000001]
"Version"=hex:{version}
[DriverDatabase\\DeviceIds\\PCI\\VEN_15AD&DEV_07C0]
"vmscsi.inf"=hex:01,ff,00,00
"""


@functools.lru_cache(maxsize=8)
def made(name: str) -> bytes:
    """"made-win10.SYSTEM", "made-win8.1.SYSTEM": dirty without logs; "made.BCD": clean; "made-corrupt.SYSTEM"."""
    if name == "made.BCD":
        from tests.guests.build import bcd_text

        return _laid(build_hive(bcd_text("some", "uefi"))).data(7)
    if name == "made-corrupt.SYSTEM":
        data = bytearray(made("made-win10.SYSTEM"))
        second = data.index(b"hbin", 4096 + 4)
        data[second : second + 4] = bytes(4)
        return bytes(data)
    return make_dirty(_laid(_system(300 if name == "made-win10.SYSTEM" else 90)).data(4316))


def _system(services: int) -> bytes:
    words = {"cs": "ControlSet001", "product_type": "WinNT", "processor": "AMD64", "arch": "amd64", "installation": "Client"}
    parts = [Template((HERE / f).read_text(encoding="utf-8")).safe_substitute(words) for f in ("system.reg", "ddb.reg", "vmware.reg")]
    for n in range(services):
        kind, start, image = ((0x20, 3, "%SystemRoot%\\\\system32\\\\svchost.exe -k made"), (1, 3, "System32\\\\drivers\\\\disk.sys"),
                              (0x10, 4, "\\\\\\\"C:\\\\Program Files\\\\Made\\\\made.exe\\\\\\\""))[n % 3]  # fmt: skip
        parts.append(_SERVICE.format(n=n, kind=kind, start=start, image=image.replace('\\"', ""), blob=_hex(n % 60 + 1, n)))
    parts.append(_MORE.format(policy=_hex(40_000, 7), version=_VERSION))
    # The machine had an AHCI disk: its driver was started.
    return build_hive("-[ControlSet001\\Services\\storahci\\StartOverride]\n", build_hive("\n".join(parts)))


def _hex(length: int, seed: int) -> str:
    return ",".join(f"{(seed + i * 7) & 0xFF:02x}" for i in range(length))


def _laid(plain: bytes) -> RawHive:
    """The same keys and values, cell by cell as Windows writes them."""
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(plain)
        file.flush()
        hive = hivex.Hivex(file.name)
        return RawHive(_node(hive, hive.root(), "ROOT"), minor=5, stamp=STAMP)


def _node(hive: Any, place: Any, name: str) -> Node:
    children = sorted(hive.node_children(place), key=lambda child: hive.node_name(child).upper())
    keys = tuple(_node(hive, child, hive.node_name(child)) for child in children)
    values = tuple((hive.value_key(v), *hive.value_value(v)) for v in hive.node_values(place))
    return Node(
        name, keys, values, kind="ri" if len(keys) > INDEX else "lh",
        wide=any(ord(letter) > 0xFF for letter in name), class_name="a1b2c3d4" if name == "JD" else "",
    )  # fmt: skip
