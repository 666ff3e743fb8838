"""Which Windows this is: version, build, architecture, edition."""

from __future__ import annotations

import dataclasses

from h2k.base.errors import BadData
from h2k.windows.regf import Hive, Key
from h2k.windows.services import control_set_name

_KEY = "Microsoft\\Windows NT\\CurrentVersion"
FIRST_WINDOWS_11 = 22000
OLDEST = (6, 1)  # Windows 7 and Server 2008 R2, the oldest that virtio-win still has drivers for
ARCHITECTURES = ("x86", "amd64", "arm64")
MAX_TEXT = 200  # characters of a name


@dataclasses.dataclass(frozen=True)
class WindowsVersion:
    """NT version and build; `name` is for people, `product` what ProductName says."""

    product: str
    version: tuple[int, int]
    build: int
    arch: str
    server: bool
    edition: str
    installation_type: str
    name: str

    @property
    def supported(self) -> bool:
        """Whether h2k repairs it; of any other, virt-v2v's result is left as it is."""
        return self.version >= OLDEST and self.arch in ARCHITECTURES


def read_version(software: Hive, system: Hive, control_set: int, machine: str) -> WindowsVersion:
    """The version as SOFTWARE and ProductOptions have it; BadData names the key that is missing."""
    key = software.key(_KEY)
    if key is None:
        raise BadData(f"{software.name}: no key {_KEY}", hint="restore the SOFTWARE hive from a backup")
    build = _text(key, "CurrentBuildNumber") or _text(key, "CurrentBuild")
    if not build.isdecimal() or len(build) > 8:
        raise BadData(f"{software.name}: {_KEY} CurrentBuildNumber is {build!r}")
    product = _text(key, "ProductName") or "Windows"
    installation = _text(key, "InstallationType")
    kind = system.text(f"{control_set_name(control_set)}\\Control\\ProductOptions", "ProductType")
    kind = kind or ("ServerNT" if "Server" in installation else "WinNT")
    server = kind.strip().lower() != "winnt"  # ServerNT and, on a domain controller, LanmanNT
    name = product
    if not server and int(build) >= FIRST_WINDOWS_11:
        name = product.replace("Windows 10", "Windows 11")  # Windows 11 still calls itself 10 there
    return WindowsVersion(
        product=product,
        version=_nt_version(key, software.name),
        build=int(build),
        arch=machine,
        server=server,
        edition=_text(key, "EditionID"),
        installation_type=installation,
        name=f"{name} {'x64' if machine == 'amd64' else machine} build {build}",
    )


def _nt_version(key: Key, hive: str) -> tuple[int, int]:
    """10.0 from the numbers that Windows 10 and later have (CurrentVersion stays 6.3 there), else CurrentVersion."""
    major = key.dword("CurrentMajorVersionNumber")
    if major is not None:
        return major, key.dword("CurrentMinorVersionNumber", 0)
    text = _text(key, "CurrentVersion")
    parts = text.split(".")
    if len(parts) != 2 or not all(part.isdecimal() and len(part) < 4 for part in parts):
        raise BadData(f"{hive}: {_KEY} CurrentVersion is {text!r}")
    return int(parts[0]), int(parts[1])


def _text(key: Key, name: str) -> str:
    """What people are shown of the guest's text: no control characters, no end of the line, not too much."""
    return "".join(letter for letter in key.text(name, "")[:MAX_TEXT] if letter.isprintable()).strip()
