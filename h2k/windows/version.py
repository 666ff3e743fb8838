"""Which Windows this is: version, build, architecture, edition."""

from __future__ import annotations

import dataclasses
from typing import Optional

from h2k.errors import BadData
from h2k.windows.regf import Hive
from h2k.windows.services import control_set_name

_KEY = "Microsoft\\Windows NT\\CurrentVersion"
FIRST_WINDOWS_11 = 22000


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


def read_version(software: Hive, system: Hive, control_set: int, machine: str) -> WindowsVersion:
    """The version as SOFTWARE and ProductOptions have it; BadData names the key that is missing."""
    key = software.key(_KEY)
    if key is None:
        raise BadData(f"{software.name}: no key {_KEY}", hint="restore the SOFTWARE hive from a backup")

    def text(name: str) -> Optional[str]:
        value = key.value(name)
        return value.text() if value is not None else None

    major = key.value("CurrentMajorVersionNumber")
    minor = key.value("CurrentMinorVersionNumber")
    number = major.dword() if major is not None else None
    if number is not None:
        version = (number, (minor.dword() if minor is not None else None) or 0)
    else:
        parts = (text("CurrentVersion") or "").split(".")
        if len(parts) != 2 or not all(p.isdecimal() and len(p) < 4 for p in parts):
            raise BadData(f"{software.name}: {_KEY} CurrentVersion is {text('CurrentVersion')!r}")
        version = (int(parts[0]), int(parts[1]))
    build = text("CurrentBuildNumber") or text("CurrentBuild") or ""
    if not build.isdecimal() or len(build) > 8:
        raise BadData(f"{software.name}: {_KEY} CurrentBuildNumber is {build!r}")
    product = text("ProductName") or "Windows"
    options = system.value(f"{control_set_name(control_set)}\\Control\\ProductOptions", "ProductType")
    kind = (options.text() if options is not None else None) or "WinNT"
    name = product
    if kind == "WinNT" and int(build) >= FIRST_WINDOWS_11:
        name = product.replace("Windows 10", "Windows 11")  # Windows 11 still calls itself 10 there
    return WindowsVersion(
        product=product,
        version=version,
        build=int(build),
        arch=machine,
        server=kind.lower() != "winnt",
        edition=text("EditionID") or "",
        installation_type=text("InstallationType") or "",
        name=f"{name} {'x64' if machine == 'amd64' else machine} build {build}",
    )
