"""The boot chain of a page: its links before and after, and the link of each finding."""

from __future__ import annotations

import pytest

from h2k.engine.catalogue import ENTRIES
from h2k.pages.chain import HOLDS, LINKS, LOOK, STOPS, UNKNOWN, chain_of
from tests.unit.made_pages import finding, guest_record


@pytest.mark.parametrize(("state", "before", "after"), [("repaired", STOPS, HOLDS), ("refused", STOPS, STOPS), ("warning", LOOK, LOOK)])
def test_the_chain_shows_before_and_after(state: str, before: str, after: str) -> None:
    found = guest_record()
    found["findings"][0]["state"] = state
    links = {link.name: link for link in chain_of(found, "virtio")}
    drivers = links["Boot drivers"]
    assert (drivers.before, drivers.after, drivers.parts) == (before, after, (("viostor", before, after),))
    assert drivers.evidence == (("driver-not-boot-start", "viostor", "Start is 3"),)
    assert (links["BCD"].before, links["BCD"].after, links["BCD"].evidence) == (HOLDS, HOLDS, ())
    assert [links[name].what for name in ("Firmware", "Partition", "Registry", "Controller")] == [
        "UEFI", "disk 0, partition 1 (EFI system)", "SYSTEM, ControlSet001", "virtio",
    ]  # fmt: skip


def test_a_driver_is_one_part_by_its_service_and_its_file() -> None:
    found = guest_record()
    found["findings"].append({"id": "driver-file-missing", "state": "refused", "subject": "/Windows/System32/drivers/VioStor.sys", "evidence": "", "repair": ""})
    links = {link.name: link for link in chain_of(found)}
    assert links["Boot drivers"].parts == (("viostor", STOPS, STOPS),)


@pytest.mark.parametrize(
    ("state", "check", "after"), [("repaired", "passed", HOLDS), ("repaired", "failed", STOPS), ("warning", "passed", HOLDS), ("refused", "passed", STOPS), ("repaired", "unknown", HOLDS)]
)
def test_a_boot_outweighs_what_was_read_before_it(state: str, check: str, after: str) -> None:
    found = guest_record(findings=[finding("device-id-unbound", state, "PCI\\VEN_1AF4", "no entry")])
    checks = [{"name": "virtio-bound", "state": check, "subject": "a disk", "evidence": "Service viostor"}, {"name": "quiet", "state": "failed"}]
    links = {link.name: link for link in chain_of(found, "virtio", checks)}
    assert links["Controller"].after == after
    assert (("virtio-bound", "the boot", "Service viostor") in links["Controller"].evidence) == (check != "unknown")
    assert links["Registry"].evidence == ()


def test_a_bios_guest_starts_from_its_active_partition() -> None:
    found = guest_record()
    parts = [{"number": 1, "active": False}, {"number": 2, "active": True}]
    found["guest"].update(firmware="bios", disks=[{"partitions": parts}])
    links = {link.name: link.what for link in chain_of(found)}
    assert (links["Partition"], links["Boot manager"]) == ("disk 0, partition 2 (active)", r"\bootmgr")


def test_a_guest_that_was_not_read_has_no_green_chain() -> None:
    assert {link.after for link in chain_of({"guest": {}, "findings": []})} == {UNKNOWN}
    refused = guest_record(guest={"windows": True, "disks": []})
    assert {link.after for link in chain_of(refused) if not link.evidence} == {UNKNOWN}


# Findings that keep no guest from starting; those of the machine's name, network, disks of data and first boot.
NOT_OF_THE_CHAIN = {
    "disks-offline-policy", "drive-letter-unresolved", "source-running", "page-file-misplaced", "serial-port-taken", "nic-driver-missing",
    "nic-ghost", "nic-static-stranded", "network-setting-dropped", "network-profile-stale", "reboot-pending", "first-boot-loop",
    "hypervisor-tools-present", "guestor-leftover", "first-boot-runner-missing", "domain-name-invalid", "windows-unsupported", "cluster-member",
    "security-virtualization", "scripts-restricted", "new-tpm",
}  # fmt: skip


def test_every_finding_of_the_catalogue_has_its_link_or_none() -> None:
    linked = [i for _, ids in LINKS for i in ids]
    assert len(linked) == len(set(linked)) and not set(linked) & NOT_OF_THE_CHAIN
    assert {*linked, *NOT_OF_THE_CHAIN} == {entry.id for entry in ENTRIES}
