"""What differs between the Windows versions that the kit installs, by build number: Windows 7 to Server 2025."""

from __future__ import annotations

import dataclasses

from tests.windows.media import Image
from tests.windows.steps import StepFailed


@dataclasses.dataclass(frozen=True)
class Release:
    """One Windows: `key` names it in tables; memory in MiB and disk in GiB are Microsoft's system requirements, rounded up.

    `uefi`: whether it starts under OVMF. 7 and 2008 R2 want an INT 10h that OVMF without a CSM lacks.
    `checks`: whether Setup asks for TPM, Secure Boot and memory that a source-like machine does not have.
    """

    key: str
    version: str
    server: bool
    memory: int
    disk: int
    uefi: bool = True
    checks: bool = False
    nic: str = "e1000e"


# (first build, last build, server) → the release. Build numbers: Microsoft Learn, "Windows release information",
# "Windows Server release information".
_BY_BUILD = (
    (7600, 7601, False, Release("win7", "6.1", False, 2048, 32, uefi=False, nic="e1000")),
    (7600, 7601, True, Release("win2008r2", "6.1", True, 2048, 40, uefi=False, nic="e1000")),
    (9200, 9200, False, Release("win8", "6.2", False, 2048, 32)),
    (9200, 9200, True, Release("win2012", "6.2", True, 2048, 40)),
    (9600, 9600, False, Release("win8.1", "6.3", False, 2048, 32)),
    (9600, 9600, True, Release("win2012r2", "6.3", True, 2048, 40)),
    (10240, 19045, False, Release("win10", "10.0", False, 4096, 40)),
    (14393, 14393, True, Release("win2016", "10.0", True, 4096, 40)),
    (17763, 17763, True, Release("win2019", "10.0", True, 4096, 40)),
    (20348, 20348, True, Release("win2022", "10.0", True, 4096, 40)),
    (22000, 26999, False, Release("win11", "10.0", False, 4096, 64, checks=True)),
    (26100, 26999, True, Release("win2025", "10.0", True, 4096, 40)),
)


def release_of(image: Image) -> Release:
    """The release of an image by its build; StepFailed for one that the kit does not know."""
    for first, last, server, release in _BY_BUILD:
        if first <= image.build <= last and server == image.server:
            return release
    kind = "server" if image.server else "client"
    raise StepFailed("media", f"build {image.build} ({kind}) is none that the kit installs", "tests/windows/releases.py")


def firmware_for(image: Image, wanted: str) -> str:
    """The firmware to install under: the wanted one, or "uefi" where it can be had; StepFailed for one that can't start it."""
    can = release_of(image).uefi and image.arch == "amd64"
    if wanted == "uefi" and not can:
        why = f"{image.name} does not start under OVMF: 7 and 2008 R2 want a BIOS, and OVMF here is 64-bit"
        raise StepFailed("media", why, "FIRMWARE=bios")
    return wanted or ("uefi" if can else "bios")
