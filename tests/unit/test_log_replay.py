"""Dirty hives of a source: replayed on overlays that virt-v2v then reads, proven, and gone afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from h2k.base.errors import H2kError, NotVerified, Refused
from h2k.base.steps import Steps
from h2k.convert import log_replay
from h2k.convert.log_replay import command_for, replayed, replays, source_xml
from h2k.convert.v2v_command import parse
from h2k.disk.view import View
from h2k.domain.facts import DomainFacts, NicFacts
from h2k.domain.guest_files import GuestFiles
from h2k.guest.changes import ReplayLogs, SetValue
from h2k.guest.guest import Guest
from h2k.windows.values import dword
from tests.guests.hivelog import make_dirty_pair
from tests.unit.memory_reader import windows_guest

REPLAY = ReplayLogs("SYSTEM", "4 entries")
SYSTEM = "/Windows/System32/config/SYSTEM"


class Source:
    """A dirty source, its overlay after the writer, and what was done, in order."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.state = place / "g.h2k"
        self.dirty, self.newer = windows_guest(), windows_guest("[Logged]\n")
        files = self.dirty.reader.files[self.dirty.volume]  # type: ignore[attr-defined]
        data, logs = make_dirty_pair(self.dirty.hive_bytes("SYSTEM"), self.newer.hive_bytes("SYSTEM"), "new")
        files.update({SYSTEM: data, **{f"{SYSTEM}.{suffix}": log for suffix, log in logs.items()}})
        self.overlay = windows_guest()
        self.overlay.reader.files[self.overlay.volume][SYSTEM] = Guest(self.dirty.reader).complete_hive("SYSTEM")  # type: ignore[attr-defined]
        self.done: list[Any] = []
        self.fails = False

    @property
    def files(self) -> GuestFiles:
        return GuestFiles(((self.place / "a.vmdk", "vmdk"), (self.place / "b.raw", "raw")), self.place)

    def run(self, argv: Sequence[str], **_: Any) -> None:
        self.done.append(list(argv))
        Path(argv[-1]).write_bytes(b"")

    @contextmanager
    def open_reader(self, images: Any) -> Iterator[Any]:
        found = [path for path, _ in images]
        self.done.append(found)
        yield (self.dirty if found == [path for path, _ in self.files.images] else self.overlay).reader

    def apply(self, overlays: Any, guest: Any, changes: Any, backups: Any, writer: str, say: Any) -> str:
        assert guest.reader is self.dirty.reader and guest.root == "first" and backups.directory == self.state / "backup"
        self.done.append(("apply", list(overlays), changes, writer))
        if self.fails:
            raise H2kError("no space")
        return "made"

    def replayed(self) -> Any:
        return replayed(self.files, (REPLAY,), self.state, Steps(quiet=True), "first", "appliance")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    found = Source(tmp_path)
    for name in ("run", "open_reader", "apply"):
        monkeypatch.setattr(log_replay, name, getattr(found, name))
    return found


def test_every_image_gets_an_overlay_and_the_source_is_only_read(source: Source) -> None:
    with source.replayed() as overlays:
        places = [source.state / "source" / "0" / "a.qcow2", source.state / "source" / "1" / "b.qcow2"]
        assert list(overlays) == places and all(isinstance(overlay, View) and overlay.exists() for overlay in overlays)
        assert places[0].parent.stat().st_mode & 0o777 == 0o700
        assert source.done == [
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "vmdk", "-b", str(source.place / "a.vmdk"), str(places[0])],
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(source.place / "b.raw"), str(places[1])],
            [source.place / "a.vmdk", source.place / "b.raw"],
            ("apply", places, (REPLAY,), "appliance"),
            places,
        ]
    assert not (source.state / "source").exists()


def test_a_hive_that_does_not_read_back_is_not_verified(source: Source) -> None:
    source.overlay = windows_guest()
    with pytest.raises(NotVerified, match="SYSTEM: the replayed hive does not read back"), source.replayed():
        raise AssertionError("virt-v2v would read it")
    assert not (source.state / "source").exists()


def test_a_hive_that_is_still_dirty_is_not_verified(source: Source) -> None:
    source.overlay = source.dirty
    with pytest.raises(NotVerified, match="SYSTEM"), source.replayed():
        raise AssertionError("virt-v2v would read it")


@pytest.mark.parametrize("inside", [False, True])
def test_the_overlays_go_whatever_happens(source: Source, inside: bool) -> None:
    source.fails = not inside
    with pytest.raises(H2kError, match="no space"), source.replayed():
        raise H2kError("no space")
    assert not (source.state / "source").exists()


def test_an_overlay_of_a_run_that_was_cut_off_is_made_anew(source: Source) -> None:
    old = source.state / "source" / "0" / "a.qcow2"
    old.parent.mkdir(parents=True)
    old.symlink_to(source.place / "elsewhere")
    with source.replayed():
        assert not old.is_symlink()
    assert not (source.place / "elsewhere").exists()


def test_only_replays_must_be_made_before_the_copy() -> None:
    assert replays([SetValue("SYSTEM", "A", "B", dword(0)), REPLAY]) == (REPLAY,)


FACTS = DomainFacts("web", 3 << 30, 3, (), (NicFacts("52:54:00:00:00:01", source="lan"), NicFacts(None, kind="bridge", source="br0")))
OVERLAYS = (Path("/o/0/a.qcow2"), Path("/o/1/b.qcow2"))


def test_disks_are_replaced_by_disks() -> None:
    command = parse(["-i", "disk", "/a.vmdk", "-o", "local", "-os", "/out"])
    argv = command_for(command, GuestFiles((), Path("/")), OVERLAYS, Path("/s"))
    assert argv == ("-i", "disk", "-if", "qcow2", "-on", "a", "-o", "local", "-os", "/out", "--", *map(str, OVERLAYS))


def test_a_vmx_is_told_as_libvirt_xml_with_the_overlays(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    command = parse(["-i", "vmx", "/a.vmx", "-o", "local", "-os", "/out"])
    argv = command_for(command, GuestFiles((), Path("/"), FACTS), OVERLAYS, tmp_path)
    xml = tmp_path / "source" / "domain.xml"
    assert argv == ("-i", "libvirtxml", "-on", "web", "-o", "local", "-os", "/out", "--", str(xml))
    assert xml.read_bytes() == source_xml(FACTS, OVERLAYS)


def test_a_libvirt_xml_stays_with_the_overlays_for_its_disks(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    disk = "<disk type='file' device='disk'><source file='/a.raw'/><target dev='sda'/></disk>"
    xml = f"<domain type='kvm'><name>web</name><metadata>mine</metadata><devices>{disk}</devices></domain>".encode()
    command = parse(["-i", "libvirtxml", "/a.xml", "-o", "local", "-os", "/out"])
    command_for(command, GuestFiles((), Path("/"), FACTS, xml), OVERLAYS[:1], tmp_path)
    written = etree.fromstring((tmp_path / "source" / "domain.xml").read_bytes())
    assert written.findtext("metadata") == "mine" and written.find("devices/disk/source").get("file") == str(OVERLAYS[0])
    assert written.find("devices/disk/driver").get("type") == "qcow2"


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_what_virt_v2v_reads_of_a_domain(firmware: str) -> None:
    import dataclasses

    domain = etree.fromstring(source_xml(dataclasses.replace(FACTS, firmware=firmware), OVERLAYS))
    assert (domain.findtext("name"), domain.findtext("memory"), domain.findtext("vcpu")) == ("web", str(3 << 20), "3")
    assert domain.find("os").get("firmware") == ("efi" if firmware == "uefi" else None)
    disks = domain.findall("devices/disk")
    assert [d.find("source").get("file") for d in disks] == list(map(str, OVERLAYS))
    assert [(d.find("target").get("dev"), d.find("driver").get("type")) for d in disks] == [("sda", "qcow2"), ("sdb", "qcow2")]
    cards = [(i.get("type"), dict(i.find("source").attrib), i.find("mac") is not None) for i in domain.findall("devices/interface")]
    assert cards == [("network", {"network": "lan"}, True), ("bridge", {"bridge": "br0"}, False)]


def test_overlays_lie_behind_no_link(source: Source) -> None:
    victim = source.place / "victim"
    (victim / "0").mkdir(parents=True)
    (victim / "0" / "a.qcow2").write_text("kept")
    source.state.mkdir(mode=0o711)
    (source.state / "source").symlink_to(victim)
    with pytest.raises(Refused, match="source: a link"), source.replayed():
        pytest.fail("it went on")
    assert (victim / "0" / "a.qcow2").read_text() == "kept" and source.done == []
