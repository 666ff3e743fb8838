"""What the tests of network and first boot share: a guest that comes from another hypervisor, and the hooks that see it moved."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, Optional

from h2k.config.driver_plan import Plan, load_plan
from h2k.domain.facts import DomainFacts, NicFacts
from h2k.engine.hooks import Hook, Options, Proposal, find_hooks, propose
from h2k.guest.changes import WriteFile
from h2k.guest.guest import Guest
from h2k.guest.virtio_win import DriverPackage, DriverSource
from h2k.windows.first_boot import FirstBoot, parse_settings
from tests.guests.pe import make_pe
from tests.guests.signing import sign_catalogue

GUESTS = Path(__file__).resolve().parents[1] / "guests"
THREE = (GUESTS / "net-three.reg").read_text(encoding="utf-8")
UNKNOWN = (GUESTS / "net-unknown.reg").read_text(encoding="utf-8")
MACS = ("00:0c:29:aa:00:01", "00:0c:29:aa:00:02", "00:0c:29:aa:00:03")
MODERN = "[DriverDatabase\\DriverInfFiles]\n"
OURS = ("network-driver", "network-policy", "disks", "first-boot")
VIRTIO = """
[$cs\\Enum\\PCI\\VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01\\3&13c0b0c5&0&18]
"Service"="viostor"
"Driver"="{4d36e97b-e325-11ce-bfc1-08002be10318}\\\\0001"
[$cs\\Control\\Class\\{4D36E97B-E325-11CE-BFC1-08002BE10318}\\0001]
"InfPath"="oem3.inf"
[$cs\\Enum\\PCI\\VEN_1AF4&DEV_1041&SUBSYS_11001AF4&REV_01\\3&11583659&0&18]
"Service"="netkvm"
"Driver"="{4d36e972-e325-11ce-bfc1-08002be10318}\\\\0001"
[$cs\\Control\\Class\\{4D36E972-E325-11CE-BFC1-08002BE10318}\\0001]
"NetCfgInstanceId"="{55555555-0000-4000-8000-000000000001}"
"DeviceInstanceID"="PCI\\\\VEN_1AF4&DEV_1041&SUBSYS_11001AF4&REV_01\\\\3&11583659&0&18"
"InfPath"="oem4.inf"
[$cs\\Services\\netkvm]
"Type"=dword:00000001
"Start"=dword:00000003
"ImagePath"=expand:"\\\\SystemRoot\\\\System32\\\\drivers\\\\netkvm.sys"
[$cs\\Services\\Tcpip\\Parameters\\Interfaces\\{55555555-0000-4000-8000-000000000001}]
"EnableDHCP"=dword:00000000
"IPAddress"=multi:["192.0.2.77"]
"SubnetMask"=multi:["255.255.255.0"]
"""
NATIVE = {"Windows/System32/drivers/netkvm.sys": make_pe("amd64", b"made netkvm.sys", signed=True)}


@functools.lru_cache(maxsize=1)
def hooks() -> tuple[Hook, ...]:
    return tuple(hook for hook in find_hooks() if hook.name in OURS)


@functools.lru_cache(maxsize=1)
def packaged_plan() -> Plan:
    return load_plan()


def ask(guest: Guest, drivers: Optional[DriverSource], **options: Any) -> Proposal:
    return propose(hooks(), guest, Options(plan=packaged_plan(), drivers=drivers, **options))


def domain(*nics: NicFacts) -> DomainFacts:
    return DomainFacts("made", 1 << 30, 1, (), nics)


def settings_of(proposal: Proposal) -> FirstBoot:
    """What the proposal stages in settings.txt."""
    (data,) = [c.data for c in proposal.changes if isinstance(c, WriteFile) and c.path.endswith("/settings.txt")]
    return parse_settings(data)


def ids(proposal: Proposal, state: str) -> set[str]:
    return {f.id for f in proposal.findings if f.state == state}


class WithNetwork:
    """A virtio-win whose network driver is signed by a chain of signing.py, or not at all; `catalogue`: by whom its
    catalogue is, '' for one that nobody signed."""

    def __init__(
        self, source: DriverSource, by: str = "", catalogue: str = "", missing: tuple[str, ...] = (), digest: str = "sha256"
    ) -> None:
        self.source, self.by, self.catalogue, self.missing, self.digest = source, by, catalogue, missing, digest

    def find(self, plan: Any, role: Any, windows: Any) -> DriverPackage:
        found = self.source.find(plan, role, windows)
        if role.kind != "network":
            return found
        data = make_pe(windows.arch, b"made other netkvm.sys", signed=bool(self.by), by=self.by or "whql")
        files = {**found.files, found.driver.service.binary: data}
        if self.catalogue:
            files["netkvm.cat"] = sign_catalogue([data], self.catalogue, digest=self.digest)
        return dataclasses.replace(found, files=files, missing=self.missing)
