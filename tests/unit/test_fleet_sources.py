"""Which guests a survey finds: each once, without what lies outside or below another, however many files lie beside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import UsageError
from h2k.fleet import sources
from h2k.fleet.sources import DISK, LIBVIRT, MISSING, OVA, VMX, XML, Source, Walk, find_sources, listed, of_libvirt, sources_of

MIB = 1024 * 1024
DOMAIN = """<?xml version='1.0'?>
<!-- made -->
<domain type='kvm'><name>web</name><memory>1048576</memory>
<devices><disk type='file'><source file='{disk}'/><target dev='vda' bus='virtio'/></disk></devices></domain>"""


def vmx(path: Path, *disks: str, name: str = "web, the first") -> Path:
    lines = [f'displayName = "{name}"', 'memsize = "2048"']
    lines += [f'scsi0:{n}.fileName = "{disk}"' for n, disk in enumerate(disks)]
    path.write_text("\n".join(lines) + "\n")
    return path


def qcow2(path: Path, backing: str = "") -> Path:
    head = bytearray(1024)
    head[:8] = b"QFI\xfb\0\0\0\3"
    if backing:
        head[8:16], head[16:20] = (512).to_bytes(8, "big"), len(backing).to_bytes(4, "big")
        head[512 : 512 + len(backing)] = backing.encode()
    path.write_bytes(head)
    return path


def raw(path: Path) -> Path:
    path.write_bytes(bytes(510) + b"\x55\xaa" + bytes(MIB))
    return path


def found(*paths: Path) -> dict[str, str]:
    """kind by the path relative to the first of them."""
    return {os.path.relpath(s.key, paths[0]): s.kind for s in find_sources([str(p) for p in paths], Walk())}


def test_a_description_and_its_disks_are_one_guest(tmp_path: Path) -> None:
    vmx(tmp_path / "web.vmx", "web.vmdk", "web_1.vmdk")
    for name in ("web.vmdk", "web_1.vmdk", "other.vmdk"):
        (tmp_path / name).write_bytes(b"KDMV" + bytes(600))
    (tmp_path / "db.xml").write_text(DOMAIN.format(disk=qcow2(tmp_path / "db.qcow2")))
    (tmp_path / "pom.xml").write_text("<project/>")
    assert found(tmp_path) == {"web.vmx": VMX, "db.xml": XML, "other.vmdk": DISK}
    names = {s.name for s in find_sources([str(tmp_path)], Walk())}
    assert names == {"web, the first", "web", "other"}


def test_every_name_of_an_image_is_one(tmp_path: Path) -> None:
    names = {f"{suffix}.{suffix}" for suffix in ("qcow2", "vmdk", "vhd", "vhdx", "vdi", "VDI")}
    for name in names:
        (tmp_path / name).write_bytes(b"broken or not, its look tells")
    assert found(tmp_path) == dict.fromkeys(names, DISK)


def test_what_an_image_rests_on_is_no_guest_of_its_own(tmp_path: Path) -> None:
    qcow2(tmp_path / "base.qcow2")
    qcow2(tmp_path / "middle.qcow2", "base.qcow2")
    qcow2(tmp_path / "top.qcow2", str(tmp_path / "middle.qcow2"))
    (tmp_path / "flat.vmdk").write_text('# Disk DescriptorFile\nversion=1\ncreateType="x"\nRW 8 FLAT "flat-flat.vmdk" 0\n')
    (tmp_path / "flat-flat.vmdk").write_bytes(bytes(4096))
    vmx(tmp_path / "snap.vmx", "snap-000001.vmdk")
    (tmp_path / "snap-000001.vmdk").write_bytes(b"KDMV" + bytes(508) + b'parentFileNameHint="snap.vmdk"\n')
    (tmp_path / "snap.vmdk").write_bytes(b"KDMV" + bytes(600))
    assert found(tmp_path) == {"top.qcow2": DISK, "flat.vmdk": DISK, "snap.vmx": VMX}


def test_a_chain_without_end_ends(tmp_path: Path) -> None:
    qcow2(tmp_path / "a.qcow2", "b.qcow2")
    qcow2(tmp_path / "b.qcow2", "a.qcow2")
    find_sources([str(tmp_path)], Walk())


def test_a_checkpoint_of_hyper_v_is_no_guest_beside_its_disk(tmp_path: Path) -> None:
    guid = "A1B2C3D4-0000-1111-2222-0123456789AB"
    for name in ("App.vhdx", f"app_{guid}.avhdx", f"alone_{guid}.avhdx", f"old_{guid}.avhd", "copy.avhdx"):
        (tmp_path / name).write_bytes(b"vhdxfile" + bytes(600))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "old.vhd").write_bytes(bytes(600))
    assert found(tmp_path) == dict.fromkeys(("App.vhdx", f"alone_{guid}.avhdx", f"old_{guid}.avhd", "copy.avhdx", "other/old.vhd"), DISK)


def test_raw_and_img_by_their_content(tmp_path: Path) -> None:
    raw(tmp_path / "disk.raw")
    raw(tmp_path / "disk.IMG")
    (tmp_path / "photo.img").write_text("a text that is called so\n")
    (tmp_path / "empty.raw").touch()  # a copy that was cut short: to be told
    assert found(tmp_path) == {"disk.raw": DISK, "disk.IMG": DISK, "empty.raw": DISK}


def test_archives_and_unpacked_ovf(tmp_path: Path) -> None:
    (tmp_path / "shop.ova").write_bytes(b"x")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "erp.ovf").write_text("<Envelope/>")
    assert found(tmp_path) == {"shop.ova": OVA, "one/erp.ovf": OVA}
    (source,) = [s for s in find_sources([str(tmp_path)], Walk()) if s.name == "erp"]
    assert source.place == str(tmp_path / "one")  # virt-v2v reads it by its directory


def test_no_link_leads_out(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    qcow2(outside / "secret.qcow2")
    (inside / "link.qcow2").symlink_to(outside / "secret.qcow2")
    (inside / "directory").symlink_to(outside)
    (inside / "loop").symlink_to(inside)
    (inside / "dangling.vmdk").symlink_to("nowhere")
    qcow2(inside / "own.qcow2")
    (inside / "again.qcow2").symlink_to("own.qcow2")
    assert len(found(inside)) == 1
    assert found(outside, inside) == {"secret.qcow2": DISK, found_own(inside, outside): DISK}


def found_own(inside: Path, outside: Path) -> str:
    return os.path.relpath(next(s.key for s in find_sources([str(inside)], Walk())), outside)


def test_what_h2k_wrote_and_what_is_hidden_is_left_out(tmp_path: Path) -> None:
    for name in ("web.h2k", ".snapshot"):
        (tmp_path / name).mkdir()
        qcow2(tmp_path / name / "undo.qcow2")
    qcow2(tmp_path / ".web.qcow2")
    assert found(tmp_path) == {}


def test_many_other_files_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(500):
        (tmp_path / f"mail{number}.eml").touch()
    qcow2(tmp_path / "web.qcow2")
    opened: list[str] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest, **more: opened.append(str(path)) or real(path, *rest, **more))
    walk = Walk()
    assert len(find_sources([str(tmp_path)], walk)) == 1
    assert walk.entries == 501 and not any(name.endswith(".eml") for name in opened)


def test_the_number_of_files_and_guests_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10):
        qcow2(tmp_path / f"{number}.qcow2")
    monkeypatch.setattr(sources, "MAX_ENTRIES", 5)
    walk = Walk()
    assert len(find_sources([str(tmp_path)], walk)) == 5 and "only the first" in walk.stopped
    monkeypatch.setattr(sources, "MAX_ENTRIES", 100)
    monkeypatch.setattr(sources, "MAX_GUESTS", 5)
    with pytest.raises(UsageError, match="more than 5 guests"):
        find_sources([str(tmp_path)], Walk())


def test_depth_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_DEPTH", 2)
    deep = tmp_path
    for name in "abcd":
        deep = deep / name
        deep.mkdir()
        qcow2(deep / f"{name}.qcow2")
    assert set(found(tmp_path)) == {"a/a.qcow2", "a/b/b.qcow2"}


def test_a_directory_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    walk = Walk()
    assert find_sources([str(tmp_path)], walk) == [] and walk.unreadable == [f"{tmp_path}: Permission denied"]


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        find_sources([str(tmp_path / "nowhere")], Walk())


def test_a_file_that_is_named_is_taken_whatever_its_name(tmp_path: Path) -> None:
    raw(tmp_path / "disk.bin")
    (source,) = find_sources([str(tmp_path / "disk.bin"), str(tmp_path / "disk.bin")], Walk())
    assert source.kind == DISK and source.name == "disk.bin"


def test_a_list_and_what_it_names_in_vain(tmp_path: Path) -> None:
    qcow2(tmp_path / "web.qcow2")
    file = tmp_path / "list.txt"
    file.write_text(f"# exports\n\n  {tmp_path}/web.qcow2  \n{tmp_path}/gone.vmx\n{tmp_path}/gone.vmx\n")
    assert len(listed(file)) == 3
    kinds = [(s.name, s.kind) for s in sources_of([], [str(file)], Walk())]
    assert kinds == [("web", DISK), ("gone.vmx", MISSING)]
    with pytest.raises(UsageError, match="a path a line"):
        listed(tmp_path / "no-list")


class Domain:
    def __init__(self, name: str, active: bool) -> None:
        self._name, self._active = name, active

    def name(self) -> str:
        return self._name

    def isActive(self) -> int:
        return int(self._active)


class Connection:
    def listAllDomains(self) -> list[Domain]:
        return [Domain("web", True), Domain("db", False)]


def test_running_domains_are_named_and_not_looked_at_unless_asked() -> None:
    uri = "qemu:///system"
    off = Source(f"{uri}#db", LIBVIRT, "db", "db", uri, uri)
    assert of_libvirt(uri, Connection(), False) == [off, Source(f"{uri}#web", LIBVIRT, "", "web", uri, uri, running=True)]
    assert [s.place for s in of_libvirt(uri, Connection(), True)] == ["db", "web"]
