"""virt-v2v's run script, read and never run, and ours for each phase (golden)."""

from __future__ import annotations

import contextlib
import os
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2k.base.errors import BadData, UsageError
from h2k.base.xml import parse_xml
from h2k.domain.facts import NicFacts, Topology
from h2k.domain.qemu_script import read_target, script
from tests.guests.stand_in_outputs import MAC, SCRIPT
from tests.unit.helpers import many

GOLDEN = Path(__file__).parent / "golden"
DOMAINS = sorted(GOLDEN.glob("*.xml"))
DISK = "    -drive file={path},format={form},if=none,id=d{n},media=disk \\\n"


def v2v_script(disks: str) -> bytes:
    return SCRIPT.format(name="g", disks=disks, mac=MAC).encode()


def test_virt_v2vs_script_is_read(tmp_path: Path) -> None:
    disks = "".join(DISK.format(path=f"/out/a,,b c-sd{letter}".replace(" ", "\\ "), form=form, n=letter) for letter, form in (("a", "raw"), ("b", "qcow2")))
    found = read_target(v2v_script(disks), "g.sh", tmp_path, tmp_path / "g.h2k")
    assert found.images == ((Path("/out/a,b c-sda"), "raw"), (Path("/out/a,b c-sdb"), "qcow2"))
    facts = found.domain
    assert facts is not None
    assert (facts.name, facts.memory, facts.vcpus, facts.topology) == ("g", 2048 << 20, 2, Topology(1, 2, 1))
    assert (facts.firmware, facts.nics) == ("uefi", (NicFacts(MAC),))


def test_a_directory_that_was_moved(tmp_path: Path) -> None:
    (tmp_path / "g-sda").touch()
    found = read_target(v2v_script(DISK.format(path="/gone/g-sda", form="raw", n=0)), "g.sh", tmp_path, tmp_path)
    assert found.images == ((tmp_path / "g-sda", "raw"),)


@pytest.mark.parametrize("text", ["", "echo hello", "qemu-system-x86_64 -m many", "qemu-system-x86_64 -smp 0", "'"])
def test_what_is_no_script_of_virt_v2v(text: str, tmp_path: Path) -> None:
    with pytest.raises(BadData):
        read_target(text.encode(), "g.sh", tmp_path, tmp_path)


@many
@given(st.binary(max_size=300), st.booleans())
def test_any_script(data: bytes, command: bool) -> None:
    with contextlib.suppress(BadData, UsageError):
        read_target((b"qemu-system-x86_64 " if command else b"") + data, "g.sh", Path("/b"), Path("/s"))


CASES = ("uefi-q35-virtio-3", "bios-q35-virtio-scsi-3", "bios-pc-sata-3", "bios-pc-virtio-1", "secure-q35-virtio-1")


@pytest.mark.parametrize("path", [p for p in DOMAINS if p.stem.partition(".")[0] in CASES], ids=lambda p: p.stem)
def test_golden_scripts(path: Path) -> None:
    text = script(path.read_bytes(), path.stem.rpartition(".")[2])
    golden = path.with_suffix(".sh")
    if os.environ.get("H2K_REGOLD") == "1":
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("path", DOMAINS, ids=lambda p: p.stem)
def test_each_device_of_the_domain_is_in_its_script_once(path: Path) -> None:
    text = script(path.read_bytes(), path.stem.rpartition(".")[2])
    words = shlex.split(text, comments=True)
    devices = [value for option, value in zip(words, words[1:]) if option == "-device"]
    domain = parse_xml(path.read_bytes(), path.name).find("devices")
    for source in domain.iterfind("disk/source"):
        assert sum(word.endswith(f"file={source.get('file') or source.get('dev')}") for word in words) == 1
    assert sum("netdev=" in device for device in devices) == len(domain.findall("interface"))
    places = [device.partition(",bus=")[2] for device in devices if ",addr=" in device]
    assert len(places) == len(set(places)), "two devices in one place"


def test_what_a_script_gives_the_devices() -> None:
    final, bootstrap = ((GOLDEN / f"uefi-q35-virtio-3-4kn.{phase}.xml").read_bytes() for phase in ("final", "bootstrap"))
    words, first = (shlex.split(script(xml, phase), comments=True) for xml, phase in ((final, "final"), (bootstrap, "bootstrap")))
    devices, drives = ([v for o, v in zip(words, words[1:]) if o == option] for option in ("-device", "-drive"))
    disks = [device for device in devices if device.startswith("virtio-blk-pci")]
    assert len(disks) == 3 and all("iothread=iothread1" in disk for disk in disks)
    assert [("logical_block_size=4096,physical_block_size=4096" in disk) for disk in disks] == [False, False, True]
    assert all("discard=unmap" in drive for drive in drives if drive.startswith("if=none,id=drive") and "cdrom" not in drive)
    assert "rng-random,id=rng0,filename=/dev/urandom" in words and "rng-random,id=rng0,filename=/dev/urandom" not in first
    assert "iothread,id=iothread1" in words and "iothread,id=iothread1" in first
    assert any(device.startswith("qemu-xhci,id=usb") for device in devices)
    assert first[first.index("-cpu") + 1] == "host,hv-relaxed"


def test_names_are_quoted() -> None:
    xml = (GOLDEN / "uefi-q35-virtio-1.final.xml").read_text().replace("<name>guest</name>", "<name>a, 'b'; $(touch x)\n</name>")
    words = shlex.split(script(xml.encode(), "final"), comments=True)
    assert words[words.index("-name") + 1] == "guest=a,, 'b'; $(touch x)\n"
