"""QEMU's command lines: the source has nothing of VirtIO, the target has; disks are not written unless they are installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.windows import machine
from tests.windows.configuration import CARDS
from tests.windows.machine import Disk, Machine, argv, source_bus

PLACE = Path("/nowhere")
DISKS = (Disk(Path("/d/a,b.qcow2"), "qcow2"), Disk(Path("/d/data.qcow2"), "qcow2"))
CDS = tuple(Path(f"/cd/{n}.iso") for n in range(3))


def words(command: list[str]) -> str:
    return " ".join(command)


@pytest.mark.parametrize("bus", ["sata", "lsisas1068"])
def test_the_source_has_no_virtio_device(bus: str) -> None:
    text = words(argv(Machine("bios", 2048, True), PLACE, DISKS, bus, CDS, writes=True))
    assert "virtio" not in text and text.count("e1000e,netdev=") == 2
    assert all(f"mac={card.mac}" in text for card in CARDS)
    assert "restrict=on" in text and "hostfwd" not in text


def test_the_target_has_virtio_cards_and_a_channel() -> None:
    text = words(argv(Machine("bios", 2048, True), PLACE, DISKS, "virtio", virtio=True))
    assert text.count("virtio-net-pci,netdev=") == 2 and "virtio-blk-pci" in text and "org.qemu.guest_agent.0" in text
    assert "e1000e" not in text and all(f"mac={card.mac}" in text for card in CARDS)


@pytest.mark.parametrize(("writes", "snapshot"), [(False, "snapshot=on"), (True, "snapshot=off")])
def test_disks_are_written_by_the_installation_alone(writes: bool, snapshot: str) -> None:
    text = words(argv(Machine("bios", 2048, False), PLACE, DISKS, "sata", writes=writes))
    assert text.count(snapshot) == len(DISKS)


def test_disks_boot_before_cds_and_names_with_commas_hold() -> None:
    command = argv(Machine("bios", 2048, False), PLACE, DISKS, "sata", CDS)
    text = words(command)
    assert "file=/d/a,,b.qcow2,format" in text
    order = [int(word.rpartition("bootindex=")[2].partition(",")[0]) for word in command if "bootindex=" in word]
    assert order == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("firmware", "bus", "board"), [("bios", "sata", "pc"), ("bios", "lsisas1068", "pc"), ("uefi", "sata", "q35")])
def test_no_two_drives_share_a_place(
    firmware: str, bus: str, board: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("code", "vars"):
        (tmp_path / name).write_bytes(b"")
    monkeypatch.setattr(machine, "OVMF", ((tmp_path / "code", tmp_path / "vars"),))
    command = argv(Machine(firmware, 2048, False), tmp_path, DISKS, bus, CDS)
    places = [word.split("bus=")[1].split(",drive")[0] for word in command if word.startswith(("ide-hd,", "ide-cd,", "scsi-hd,"))]
    assert len(places) == len(set(places)) == len(DISKS) + len(CDS)
    assert f"{board},accel=tcg" in command
    assert ((tmp_path / "vars.fd").exists(), "pflash" in words(command)) == ((firmware == "uefi"),) * 2


def test_without_ovmf_the_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "OVMF", ())
    with pytest.raises(machine.StepFailed, match="apt install ovmf"):
        argv(Machine("uefi", 2048, False), tmp_path, DISKS, "sata")


@pytest.mark.parametrize(("firmware", "server", "build", "bus"), [
    ("bios", True, 14393, "lsisas1068"), ("bios", False, 7601, "lsisas1068"), ("bios", True, 26100, "sata"),
    ("bios", False, 22631, "sata"), ("uefi", True, 14393, "sata"),
])  # fmt: skip
def test_the_controller_is_one_that_firmware_and_windows_know(firmware: str, server: bool, build: int, bus: str) -> None:
    assert source_bus(firmware, server, build) == bus


def test_com2_is_the_agents() -> None:
    command = argv(Machine("bios", 2048, False), PLACE, DISKS, "sata")
    serials = [command[n + 1] for n, word in enumerate(command) if word == "-serial"]
    assert serials == ["file:/nowhere/serial", "chardev:agent"]
