"""Agreement: what `h2k verify` says of a guest, and what the boot lab does with it, for each fault that the lab can show.

The lab shares no line with h2k. docs/lab.md lists what it can't show. `make test` runs a part, `make lab` all of it.
"""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from tests.boot.conftest import H2K, Bootable, Recorded, firmware_of
from tests.boot.lab import LabResult, boot
from tests.guests import build as guests
from tests.guests.faults import DRIVERS, FAULTS, NEW, OLD, Fault, GuestFacts, break_disk, by_name, gone, registry
from tests.guests.surgery import Surgery

FINAL, BOOTSTRAP, LAST_KNOWN_GOOD = "final", "bootstrap", "last known good"
EVERY = frozenset({FINAL, BOOTSTRAP, LAST_KNOWN_GOOD})
# Which boots h2k expects to stop when it finds this.
STOPS: dict[str, frozenset[str]] = {
    **dict.fromkeys(
        ("driver-file-missing", "driver-file-invalid", "driver-not-boot-start", "driver-start-override",
         "device-id-unbound", "device-class-wrong"), frozenset({FINAL, LAST_KNOWN_GOOD}),
    ),
    "control-set-differs": frozenset({LAST_KNOWN_GOOD}),
    "bootstrap-controller-not-boot-start": frozenset({BOOTSTRAP}),
    **dict.fromkeys(
        ("boot-stack-driver-disabled", "class-filter-dangling", "class-filter-hypervisor", "hive-corrupt",
         "boot-manager-missing", "boot-partition-inactive", "uefi-fallback-missing"), EVERY,
    ),
    "device-install-policy": EVERY,
}  # fmt: skip
# Of these findings, the faults that are not the boot's: another hive than SYSTEM, a policy for raw devices; and which of
# two active partitions is booted, where the MBR code of Windows' versions differs.
NOT_SHOWN = frozenset({
    "hive-corrupt:bin", "hive-corrupt:cell", "device-install-policy:raw", "driver-file-invalid:package",
    "boot-partition-inactive:both",
    "uefi-fallback-missing:other",  # a whole loader of another's, which leads nowhere here, and h2k leaves it
    "class-filter-hypervisor:xenserver", "class-filter-hypervisor:rhelscsi",  # their files are whole: the lab loads them
})  # fmt: skip
# On one guest only: Windows 7 knows no StartOverride; the firmware starts the fallback where bootmgfw.efi is missing.
NOT_SHOWN_ON = {
    OLD: frozenset({"driver-start-override:0", "driver-start-override:other", "boot-stack-driver-disabled:override"}),
    NEW: frozenset({"boot-manager-missing:file", "boot-manager-missing:empty", "boot-manager-missing:partition"}),
}
SCSI_CLASS = "{4D36E97B-E325-11CE-BFC1-08002BE10318}"  # not the class of SATA and IDE controllers, which is hdc
SHOWN = {"q35": "DEV_1042", "pc": "DEV_1001"}  # the id of virtio-blk behind a root port, and in a conventional slot
IN_MAKE_TEST = {
    ("driver-file-invalid:empty", NEW, FINAL), ("device-id-unbound:modern", NEW, FINAL), ("device-class-wrong", OLD, FINAL),
    ("control-set-differs", OLD, LAST_KNOWN_GOOD), ("bootstrap-controller-not-boot-start:override", NEW, BOOTSTRAP),
    ("class-filter-dangling:service", NEW, FINAL),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """One boot of one broken guest."""

    fault: Fault
    guest: str
    phase: str

    @property
    def machine(self) -> str:
        """q35, but for the fault that only a conventional slot shows."""
        return "pc" if self.fault.name == "device-id-unbound:legacy" else "q35"

    @property
    def bus(self) -> str:
        if self.phase != BOOTSTRAP:
            return "virtio"
        return "ide" if self.machine == "pc" and firmware_of(self.guest) == "bios" else "sata"

    @property
    def control_set(self) -> str:
        """The set that boots: Default and LastKnownGood of the made guests."""
        return "ControlSet002" if self.phase == LAST_KNOWN_GOOD else "ControlSet001"

    def __str__(self) -> str:
        return f"{self.fault.name}-{self.guest}-{self.phase.replace(' ', '-')}"


def facts(name: str) -> GuestFacts:
    known = guests.descriptions()[name]
    return GuestFacts(name, known["firmware"], known["version"], len(known["sets"]))


def cases() -> Iterator[Any]:
    """Every fault that it shows on the made guests that it fits, in each phase; most of them for `make lab`."""
    for fault in FAULTS:
        if fault.finding not in STOPS or fault.name in NOT_SHOWN or fault.base != "repaired" or fault.domain or fault.extra:
            continue
        for name in (NEW, OLD):
            if fault.name in NOT_SHOWN_ON[name] or not (name in fault.guests or fault.fits(facts(name))):
                continue
            for phase in (FINAL, BOOTSTRAP, *([LAST_KNOWN_GOOD] if fault.name == "control-set-differs" else [])):
                quick = (fault.name, name, phase) in IN_MAKE_TEST
                yield pytest.param(Case(fault, name, phase), marks=[] if quick else [pytest.mark.lab])


def verify(disk: Path, drivers: Path, bus: str = "virtio") -> dict[str, Any]:
    done = subprocess.run(
        [str(a) for a in (H2K, "verify", disk, "--drivers", drivers, "--bus", bus, "--json")],
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["status"] == done.returncode
    return report


def expected_stop(report: dict[str, Any], case: Case) -> str:
    """The finding for which h2k expects this boot to stop, '' when it expects none to."""
    for finding in report["findings"]:
        if finding["state"] not in ("broken", "refused") or case.phase not in STOPS.get(finding["id"], ()):
            continue
        subject = str(finding["subject"])
        device = re.search(r"DEV_1[0-9A-F]{3}", subject) if finding["id"].startswith("device-") else None
        another_device = device is not None and device[0] != SHOWN[case.machine]
        another_set = subject.startswith("ControlSet") and not subject.startswith(case.control_set)
        another_class = case.phase == BOOTSTRAP and SCSI_CLASS in subject
        if not (another_device or another_set or another_class):
            return str(finding["id"])
    return ""


def boot_in(disk: Path, name: str, phase: str, machine: str, bus: str) -> LabResult:
    return boot(disk, firmware_of(name), bus, machine=machine, last_known_good=phase == LAST_KNOWN_GOOD)


@pytest.mark.parametrize("case", cases(), ids=str)
def test_the_lab_agrees(case: Case, bootable: Bootable, drivers: Path, recorded: Recorded) -> None:
    disk = bootable(case.guest, "virtio")
    break_disk(case.fault, disk)
    said = expected_stop(verify(disk, drivers), case)
    seen = boot_in(disk, case.guest, case.phase, case.machine, case.bus)
    recorded(case.fault.name, case.guest, case.phase, said, outcome(seen))
    assert outcome(seen) in ("boots", "stops")
    assert bool(said) == (outcome(seen) == "stops"), f"h2k: {said or 'nothing'}; the lab: {seen.stopped} {seen.reason}"


def outcome(seen: LabResult) -> str:
    return "boots" if seen.booted else "stops" if seen.stopped is not None else "neither boots nor stops"


# The faults above that are the storage driver's are viostor's; these are vioscsi's. Windows 7 knows no StartOverride.
ON_SCSI = {
    "driver-not-boot-start": registry("SYSTEM", '[$cs\\Services\\vioscsi]\n"Start"=dword:00000003\n'),
    "driver-start-override": registry("SYSTEM", '[$cs\\Services\\vioscsi\\StartOverride]\n"0"=dword:00000003\n'),
    "driver-file-missing": gone(f"{DRIVERS}/vioscsi.sys"),
    "boot-stack-driver-disabled": registry("SYSTEM", '[$cs\\Services\\partmgr]\n"Start"=dword:00000004\n'),
    "class-filter-dangling": registry("SYSTEM", f'[$cs\\Control\\Class\\{SCSI_CLASS}]\n"UpperFilters"=multi:["gone"]\n'),
}


@pytest.mark.lab
@pytest.mark.parametrize(
    ("name", "finding"), [(n, f) for n in (NEW, OLD) for f in (None, *ON_SCSI) if (n, f) != (OLD, "driver-start-override")]
)
def test_the_lab_agrees_on_virtio_scsi(
    name: str, finding: Optional[str], bootable: Bootable, drivers: Path, recorded: Recorded
) -> None:
    disk = bootable(name, "virtio-scsi")
    if finding is not None:
        with Surgery(disk) as surgery:
            ON_SCSI[finding](surgery)
    said = {f["id"] for f in verify(disk, drivers, "virtio-scsi")["findings"] if f["state"] in ("broken", "refused")}
    assert said == ({finding} if finding else set())
    seen = boot(disk, firmware_of(name), "virtio-scsi")
    recorded(f"{finding or 'ready'}, virtio-scsi", name, FINAL, finding or "", outcome(seen))
    assert outcome(seen) == ("stops" if finding else "boots"), seen.reason or seen.serial


REPAIRED = [
    ("class-filter-dangling:file", NEW),
    ("boot-stack-driver-disabled:override", NEW),
    ("driver-not-boot-start:service", OLD),
]


@pytest.mark.lab
@pytest.mark.parametrize(("fault", "name"), REPAIRED)
def test_and_agrees_again_after_the_repair(
    fault: str, name: str, bootable: Bootable, drivers: Path, recorded: Recorded, tmp_path: Path
) -> None:
    disk = bootable(name, "virtio")
    break_disk(by_name(fault), disk)
    fixed = subprocess.run(
        [str(a) for a in (H2K, "fix", disk, "--drivers", drivers, "--report", tmp_path / "state")],
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert fixed.returncode == 0, fixed.stdout + fixed.stderr
    assert verify(disk, drivers)["status"] == 0
    for phase, bus in ((FINAL, "virtio"), (BOOTSTRAP, "sata")):
        seen = boot_in(disk, name, phase, "q35", bus)
        recorded(f"{fault}, repaired", name, phase, "", outcome(seen))
        assert seen.booted, seen.reason or seen.serial


def ready_guests() -> Iterator[tuple[str, str, str, str]]:
    """(guest, bus that it is repaired for, bus that it boots from, machine). h2k gives IDE to Windows without a driver for
    SATA; on Windows 8 and later, which have one, the IDE drivers keep their StartOverride."""
    for name, about in sorted(guests.descriptions().items()):
        yield name, "virtio", "virtio", "q35"
        yield name, "virtio", "sata", "q35"
        yield name, "virtio", "virtio", "pc"
        yield name, "virtio-scsi", "virtio-scsi", "q35"
        if about["version"].startswith("6.1"):
            yield name, "virtio", "ide", "pc"


@pytest.mark.lab
@pytest.mark.parametrize(("name", "repaired_for", "bus", "machine"), ready_guests())
def test_every_ready_guest_boots(
    name: str, repaired_for: str, bus: str, machine: str, prepared: Callable[..., Path], recorded: Recorded
) -> None:
    seen = boot(prepared(name, repaired_for), firmware_of(name), bus, machine=machine)
    recorded(f"ready, {bus} on {machine}", name, FINAL, "", outcome(seen))
    assert seen.booted, seen.reason or seen.serial


def test_every_shown_finding_is_met() -> None:
    """No row of STOPS is for nothing, and what `make test` is to run is there."""
    found = {(p.values[0].fault.name, p.values[0].guest, p.values[0].phase) for p in cases()}
    assert found >= IN_MAKE_TEST
    missing: Optional[set[str]] = set(STOPS) - {name.partition(":")[0] for name, _, _ in found}
    assert not missing
