"""The matrix's faults that can be put into a real guest offline, and which of the two disks each is put into."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from tests.guests.faults import FAULTS, Fault, GuestFacts
from tests.guests.surgery import Surgery
from tests.windows.answer_file import Answers
from tests.windows.guest_disk import GuestDisk
from tests.windows.steps import StepFailed

HEALTHY = "healthy"
SOURCE, RESULT = "source", "result"
# Into the source, before it is converted: with h2k-v2v, and with virt-v2v alone. The fallback loader is none of them:
# virt-v2v copies the boot manager there, whatever was there before (seen with 2.2).
INTO_SOURCE = (
    "bootstrap-controller-not-boot-start:override", "bootstrap-controller-not-boot-start:start",
    "boot-stack-driver-disabled:start", "boot-stack-driver-disabled:override", "boot-stack-driver-disabled:file",
    "boot-stack-driver-disabled:service", "class-filter-dangling:service", "class-filter-dangling:file",
    "class-filter-hypervisor:xen", "class-filter-hypervisor:parallels", "class-filter-hypervisor:xenserver",
    "class-filter-hypervisor:rhelscsi",
    "device-install-policy:cddb", "device-install-restrictions", "hive-dirty:new", "hive-dirty:old", "hive-dirty:software",
    "hive-unrecoverable", "hive-corrupt:signature", "hive-corrupt:bin", "hive-corrupt:truncated", "hive-corrupt:cell",
    "hive-corrupt:select", "class-filter-dangling:disabled", "bootstrap-controller-not-boot-start:none",
    "device-install-policy:raw", "volume-encrypted", "disk-dynamic", "bcd-default-missing:two",
    "bcd-device-unresolved:nowhere", "boot-manager-missing:partition",
    "serial-port-taken:debug", "boot-partition-inactive:both",
    "boot-partition-inactive:nothing", "drive-letter-unresolved:gpt", "reboot-pending:servicing", "cluster-member",
    "bcd-missing", "bcd-corrupt:garbage", "bcd-corrupt:manager", "bcd-default-missing:none", "bcd-default-missing:dangling",
    "bcd-device-unresolved:device", "bcd-device-unresolved:osdevice", "bcd-device-unresolved:manager",
    "bcd-device-unresolved:wrong", "bcd-loader-missing:file", "bcd-loader-missing:exe", "boot-manager-missing:file",
    "boot-manager-missing:empty", "esp-type-wrong",
    "boot-partition-inactive:none", "boot-partition-inactive:wrong", "safe-mode-set", "boot-sequence-set",
    "serial-port-taken:ems",
    "disks-offline-policy:internal", "disks-offline-policy:all", "drive-letter-unresolved:mbr", "page-file-misplaced",
    "security-virtualization", "scripts-restricted", "nic-ghost", "nic-static-stranded", "network-setting-dropped",
    "reboot-pending:renames", "volume-hibernated:hibr", "volume-hibernated:rstr",
)  # fmt: skip
# Into what h2k-v2v made of the healthy source: started as it is, and after `h2k fix`.
INTO_RESULT = (
    "driver-file-missing", "driver-file-invalid:empty", "driver-file-invalid:truncated", "driver-file-invalid:machine",
    "driver-not-boot-start:start", "driver-not-boot-start:type", "driver-not-boot-start:service", "driver-start-override:0",
    "driver-start-override:other", "driver-file-invalid:text", "driver-unsigned:replaced",
    "driver-parameters-missing:bus-type", "driver-parameters-missing:group", "driver-parameters-missing:interface",
    "driver-parameters-missing:tag", "device-id-unbound:legacy", "device-id-unbound:modern", "device-class-wrong",
    "control-set-differs", "nic-driver-missing:file", "nic-driver-missing:service",
    "uefi-fallback-missing:file", "uefi-fallback-missing:truncated", "uefi-fallback-missing:machine", "uefi-fallback-missing:other",
)  # fmt: skip
# An evening's: the main claims, with the shortest way to each.
EVENING = (
    "driver-not-boot-start:start", "driver-start-override:0", "driver-file-missing", "device-id-unbound:modern",
    "driver-not-boot-start:service", "bootstrap-controller-not-boot-start:override", "boot-stack-driver-disabled:start",
    "class-filter-dangling:service", "uefi-fallback-missing:file", "boot-partition-inactive:none",
    "bcd-default-missing:none", "nic-static-stranded",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class KitFault:
    """A fault of the matrix and the disk that it is put into; `fault` is None for the healthy guest."""

    name: str
    into: str
    fault: Optional[Fault] = None

    @property
    def answer(self) -> str:
        """What the matrix promises of h2k: repair, refuse, warn, …"""
        return self.fault.answer if self.fault is not None else "ready"


def guest_facts(answers: Answers) -> GuestFacts:
    """What decides whether a fault makes sense on this Windows. A fresh installation has one control set."""
    name = answers.release.key + ("-x86" if answers.image.arch == "x86" else "")
    return GuestFacts(name, answers.firmware, answers.release.version, 1)


def all_faults() -> list[KitFault]:
    """Everything that the kit can put in."""
    by_name = {fault.name: fault for fault in FAULTS}
    return [
        *(KitFault(name, SOURCE, by_name[name]) for name in INTO_SOURCE),
        *(KitFault(name, RESULT, by_name[name]) for name in INTO_RESULT),
    ]


def chosen(wanted: str, facts: GuestFacts) -> list[KitFault]:
    """The healthy guest, then the faults to run: "" is an evening's, "all" everything, else names with commas.

    Those that make no sense on this Windows are left out, unless they were named: StepFailed.
    """
    known = {each.name: each for each in all_faults()}
    names: Sequence[str] = [name.strip() for name in wanted.split(",") if name.strip()]
    if wanted in ("", "all"):
        names = list(known) if wanted else EVENING
        return [KitFault(HEALTHY, SOURCE), *(known[name] for name in names if _fits(known[name], facts))]
    found = []
    for name in names:
        if name == HEALTHY:
            continue
        if name not in known:
            raise StepFailed("faults", f"{name} is no fault that can be put into a real guest", f"FAULTS=, of: {', '.join(known)}")
        if not _fits(known[name], facts):
            raise StepFailed("faults", f"{name} makes no sense on {facts.name} under {facts.firmware}", "FAULTS= without it")
        found.append(known[name])
    return [KitFault(HEALTHY, SOURCE), *found]


def _fits(each: KitFault, facts: GuestFacts) -> bool:
    return each.fault is not None and (each.fault.fits(facts))


def put(fault: KitFault, image: Path, stand_in: bool) -> None:
    """Put a fault into a qcow2 disk; a made guest's is small enough to be changed without an appliance."""
    if fault.fault is None:
        return
    try:
        with (Surgery if stand_in else GuestDisk)(image) as disk:
            fault.fault.inject(disk)
    except (AssertionError, KeyError, OSError, RuntimeError, ValueError) as e:
        raise StepFailed("fault", f"{fault.name} could not be put in: {type(e).__name__}: {str(e)[:200]}", str(image)) from e
