"""NAME, NAME.xml, NAME.h2k and disk images lead to the same guest."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from h2k.base.errors import BadData, UsageError
from h2k.convert.outputs import FileOutput, open_result
from h2k.domain.guest_files import GuestFiles
from h2k.domain.handles import known_bus, open_guest_files
from tests.guests.ova import ovf_text

DISK = b"QFI\xfb" + bytes(508)
XML = """<domain type='kvm'><name>web</name><memory unit='MiB'>3072</memory><os><type arch='x86_64'>hvm</type></os><devices>
%s</devices></domain>"""
VMX = 'displayName = "the web"\nmemsize = "4096"\nscsi0:0.fileName = "web.vmdk"\nethernet0.present = "TRUE"\nethernet0.networkName = "LAN"\n'


def domain_xml(*files: str, bus: str = "virtio", controller: str = "") -> str:
    disk = "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/><target dev='x{}' bus='{}'/></disk>"
    extra = f"<controller type='scsi' model='{controller}'/>" if controller else ""
    return XML % (extra + "".join(disk.format(f, n, bus) for n, f in enumerate(files)))


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    """web.xml, its two disks, and web.h2k."""
    for name in ("web-sda", "web-sdb", "other-sda"):
        (tmp_path / name).write_bytes(DISK)
    (tmp_path / "web.xml").write_text(domain_xml("web-sda", str(tmp_path / "web-sdb")))
    (tmp_path / "junk.xml").write_text("<project/>")
    (tmp_path / "web.h2k").mkdir()
    (tmp_path / "web.h2k" / "report.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("handle", [["web"], ["web.xml"], ["web.h2k"], ["web.h2k/"], ["web-sda", "web-sdb"]])
@pytest.mark.parametrize("here", [True, False])
def test_each_handle_finds_the_others(handle: list[str], here: bool, guest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(guest if here else "/")
    base = Path() if here else guest
    found = open_guest_files([name if here else f"{guest}/{name}" for name in handle])
    assert [path.resolve() for path, _ in found.images] == [guest / "web-sda", guest / "web-sdb"]
    assert [form for _, form in found.images] == ["qcow2", "qcow2"]
    assert found.domain is not None and found.domain.name == "web" and found.description is not None
    assert (found.state, found.document) == (base / "web.h2k", base / "web.xml")


def test_the_report_directory_may_be_elsewhere(guest: Path) -> None:
    for handle in (["web.xml"], ["web"], ["web.h2k"], ["web-sda", "web-sdb"], ["other-sda"]):
        assert open_guest_files([str(guest / name) for name in handle], "/else/where").state == Path("/else/where")


def test_a_name_with_dots(guest: Path) -> None:
    (guest / "srv.example.com.xml").write_text(domain_xml("other-sda"))
    for handle in ("srv.example.com", "srv.example.com.xml", "srv.example.com.h2k"):
        assert open_guest_files([str(guest / handle)]).state == guest / "srv.example.com.h2k"


def test_images_that_no_domain_names_stay_alone(guest: Path) -> None:
    found = open_guest_files([str(guest / "other-sda")])
    assert (found.domain, found.state) == (None, guest / "other-sda.h2k")


@pytest.mark.parametrize("given", [["web-sda"], ["web-sdb", "web-sda"], ["web-sda", "other-sda"]])
def test_never_more_nor_other_images_than_were_given(given: list[str], guest: Path) -> None:
    found = open_guest_files([str(guest / name) for name in given])
    assert [path.name for path, _ in found.images] == given and found.domain is None


def test_two_domains_on_one_image_are_no_answer(guest: Path) -> None:
    for name in ("a", "b"):
        (guest / f"{name}.xml").write_text(domain_xml("other-sda"))
    assert open_guest_files([str(guest / "other-sda")]).domain is None


def test_an_earlier_run_on_the_images_alone_is_found(guest: Path) -> None:
    (guest / "a.xml").write_text(domain_xml("other-sda"))
    assert open_guest_files([str(guest / "other-sda")]).state == guest / "a.h2k"
    (guest / "other-sda.h2k").mkdir()
    assert open_guest_files([str(guest / "other-sda")]).state == guest / "other-sda.h2k"


def test_a_report_directory_without_a_description_beside_it(guest: Path) -> None:
    state = guest / "web.h2k"
    (guest / "web.xml").unlink()
    disks = [{"path": "/gone/web-sda", "format": "qcow2"}]
    (state / "report.json").write_text(json.dumps({"guest": {"disks": disks}}))
    found = open_guest_files([str(state)])
    assert found.images == ((guest / "web-sda", "qcow2"),) and found.domain is None
    (state / "final.xml").write_text(domain_xml(str(guest / "web-sdb")))
    for handle in ("web", "web.h2k"):
        found = open_guest_files([str(guest / handle)])
        assert found.images == ((guest / "web-sdb", "qcow2"),) and found.domain is not None and found.state == state


@pytest.mark.parametrize(
    "report",
    ["", "[]", "{", "[" * 100_000, '{"guest": {"disks": []}}', '{"guest": {"disks": [{"path": 1, "format": "raw"}]}}',
     '{"guest": {"disks": [{"path": "/x\\u0000", "format": "raw"}]}}', '{"guest": {"disks": {"a": 1}}}',
     json.dumps({"guest": {"disks": [{"path": "/x", "format": "raw"}] * 65}})],
)  # fmt: skip
def test_a_report_that_is_none(report: str, tmp_path: Path) -> None:
    (tmp_path / "g.h2k").mkdir()
    (tmp_path / "g.h2k" / "report.json").write_text(report)
    with pytest.raises(BadData, match=r"report\.json"):
        open_guest_files([str(tmp_path / "g.h2k")])


def test_vmx(guest: Path) -> None:
    (guest / "vm.vmx").write_text(VMX)
    (guest / "web.vmdk").write_bytes(b"KDMV")
    found = open_guest_files([str(guest / "vm.vmx")])
    assert found.images == ((guest / "web.vmdk", "vmdk"),) and found.state == guest / "vm.h2k"
    assert found.domain is not None and found.domain.name == "the web"
    assert (found.domain.nics[0].kind, found.domain.nics[0].source) == ("network", "default")
    assert open_guest_files([str(guest / "vm")]).images == found.images


def test_ovf(guest: Path) -> None:
    (guest / "vm.ovf").write_bytes(ovf_text("vm", ["web-sda"]))
    assert open_guest_files([str(guest / "vm.ovf")]).images == ((guest / "web-sda", None),)
    for files, compressed in ((["none.vmdk"], []), (["web-sda"], ["web-sda"])):
        (guest / "vm.ovf").write_bytes(ovf_text("vm", files, compressed=compressed))
        with pytest.raises(UsageError, match="-i ova"):
            open_guest_files([str(guest / "vm.ovf")])
    (guest / "vm.ovf").write_bytes(ovf_text("vm", ["cut.vmdk"], chunk=1024))
    with pytest.raises(UsageError, match="chunkSize"):
        open_guest_files([str(guest / "vm.ovf")])
    (guest / "vm.ova").write_bytes(b"x")
    with pytest.raises(UsageError, match="-i ova"):
        open_guest_files([str(guest / "vm.ova")])


@pytest.mark.parametrize(
    ("handle", "words"),
    [
        (["none"], r"neither none\.xml nor none\.h2k"),
        (["none.qcow2"], "No such file"),
        (["none.xml"], "No such file"),
        (["none.h2k"], "No such file"),
        (["empty.h2k"], "no report of h2k"),
        (["."], "a directory"),
        (["notes.txt"], "a text"),
        (["web.xml", "web-sda"], "names the whole guest"),
        (["web-sda", "web.xml"], "a text"),
        (["web-sda", "notes.txt"], "a text"),
    ],
)
def test_what_is_no_guest(handle: list[str], words: str, guest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(guest)
    (guest / "notes.txt").write_text("to do\n" * 100)
    (guest / "empty.h2k").mkdir()
    with pytest.raises(UsageError, match=words):
        open_guest_files(handle)


# The bus

BUSES = [
    (domain_xml("web-sda", bus="virtio"), "virtio"),
    (domain_xml("web-sda", bus="scsi", controller="virtio-scsi"), "virtio-scsi"),
    (domain_xml("web-sda", bus="scsi", controller="lsilogic"), "virtio"),
    (domain_xml("web-sda", bus="scsi"), "virtio"),
    (domain_xml("web-sda", bus="sata"), "virtio"),
    (domain_xml("web-sda", bus="ide"), "virtio"),
]


@pytest.mark.parametrize(("xml", "bus"), BUSES)
def test_the_bus_that_a_domain_says(xml: str, bus: str, guest: Path) -> None:
    (guest / "web.xml").write_text(xml)
    for handle in ("web", "web.xml", "web.h2k", "web-sda"):
        assert known_bus(open_guest_files([str(guest / handle)])) == bus


def test_the_newer_of_two_domains_decides(guest: Path) -> None:
    final, original = guest / "web.h2k" / "final.xml", guest / "web.xml"
    original.write_text(domain_xml("web-sda", bus="scsi", controller="virtio-scsi"))
    final.write_text(domain_xml("web-sda", bus="sata"))
    os.utime(original, (1000, 1000))
    assert known_bus(open_guest_files([str(original)])) == "sata"
    os.utime(final, (500, 500))
    assert known_bus(open_guest_files([str(original)])) == "virtio-scsi"
    original.unlink()
    assert known_bus(open_guest_files([str(guest / "web.h2k")])) == "sata"


def test_a_domain_of_libvirt_has_no_time_and_stands_behind_final(guest: Path) -> None:
    xml = domain_xml("web-sda", bus="scsi", controller="virtio-scsi").encode()
    files = GuestFiles((), guest / "none.h2k", None, xml)
    assert known_bus(files) == "virtio-scsi"
    (guest / "web.h2k" / "final.xml").write_text(domain_xml("web-sda", bus="virtio"))
    assert known_bus(GuestFiles((), guest / "web.h2k", None, xml)) == "virtio"


def test_a_boot_order_says_which_disk_is_asked(guest: Path) -> None:
    xml = domain_xml("web-sda", bus="scsi", controller="virtio-scsi").replace(
        "</devices>", "<disk type='file'><source file='web-sdb'/><target dev='vda' bus='virtio'/><boot order='1'/></disk></devices>"
    )
    (guest / "web.xml").write_text(xml)
    assert known_bus(open_guest_files([str(guest / "web")])) == "virtio"


SCRIPT = "qemu-system-x86_64 -m 2048 -device virtio-scsi-pci,id=scsi0 -device {} -drive file={},format=qcow2,if=none,id=d,media=disk\n"
YAML = """kind: VirtualMachine
metadata: {name: web}
spec: {template: {spec: {domain: {devices: {disks: [%s]}}, volumes: [{name: d, hostDisk: {path: %s}}]}}}
"""


@pytest.mark.parametrize(
    ("suffix", "text", "bus"),
    [
        ("sh", SCRIPT.format("scsi-hd,bus=scsi0.0,lun=0,drive=d", "{}"), "virtio-scsi"),
        ("sh", SCRIPT.format("virtio-blk-pci,drive=d", "{}"), "virtio"),
        ("sh", SCRIPT.format("ide-hd,bus=ide.0,drive=d", "{}"), "virtio"),
        ("yaml", YAML % ("{name: d, disk: {bus: scsi}}", "{}"), "virtio-scsi"),
        ("yaml", YAML % ("{name: d, disk: {bus: virtio}}", "{}"), "virtio"),
        ("yaml", YAML % ("{name: d, disk: {bus: sata}}", "{}"), "virtio"),
        ("yaml", YAML % ("", "{}"), "virtio"),
    ],
)  # fmt: skip
def test_the_bus_that_a_script_or_a_machine_says(suffix: str, text: str, bus: str, guest: Path) -> None:
    (guest / "web.xml").unlink()
    document = guest / f"web.{suffix}"
    document.write_text(text.replace("{}", str(guest / "web-sda")))
    for handle in ("web", document.name, "web.h2k"):
        assert known_bus(open_guest_files([str(guest / handle)])) == bus
    final = guest / "web.h2k" / "final.xml"
    final.write_text(domain_xml("web-sda", bus="sata"))
    os.utime(document, (1000, 1000))
    assert known_bus(open_guest_files([str(document)])) == "sata"


def test_a_new_conversion_is_not_judged_for_the_bus_of_an_earlier_one(guest: Path) -> None:
    final = guest / "web.h2k" / "final.xml"
    final.write_text(domain_xml("web-sda", bus="virtio"))
    os.utime(final, (1000, 1000))
    (guest / "web.xml").write_text(domain_xml("web-sda", bus="scsi", controller="virtio-scsi"))
    assert known_bus(FileOutput("local", guest).result("web")) == "virtio-scsi"


def test_after_a_rollback_the_record_before_it_names_the_disks(tmp_path: Path) -> None:
    state = tmp_path / "g.h2k"
    (state / "runs").mkdir(parents=True)
    (tmp_path / "g.qcow2").write_bytes(DISK)
    named = {"guest": {"disks": [{"path": str(tmp_path / "g.qcow2"), "format": "qcow2"}]}}
    for number, record in enumerate([{"guest": {"disks": [{"path": "/old", "format": "raw"}]}}, named, {"guest": {}}], 1):
        (state / "runs" / f"{number:05d}-x.json").write_text(json.dumps(record))
    (state / "report.json").write_text(json.dumps({"guest": {}}))
    assert open_guest_files([str(state)]).images == ((tmp_path / "g.qcow2", "qcow2"),)


# A guest that was converted before

TOLD = """<domain type='kvm'><name>web</name><metadata><s:source xmlns:s='urn:h2k:source:1' told='tpm sound'/></metadata>
<memory unit='MiB'>3072</memory><devices><tpm model='tpm-crb'/><sound model='ich9'/></devices></domain>"""


@pytest.mark.parametrize("handle", [["web"], ["web.xml"], ["web.h2k"], ["web-sda", "web-sdb"]])
@pytest.mark.parametrize("name", ["final.xml", "bootstrap.xml"])
def test_what_only_the_source_told_is_known_by_every_handle(guest: Path, handle: list[str], name: str) -> None:
    (guest / "web.h2k" / name).write_text(TOLD)
    domain = open_guest_files([str(guest / word) for word in handle]).domain
    assert domain is not None and (domain.tpm, domain.sound, domain.cdrom) == ("tpm-crb", "ich9", False)
    assert len(domain.disks) == 2 and set(domain.sourced or ()) == {"tpm", "sound"}


def test_it_is_known_of_what_virt_v2v_wrote_elsewhere_too(guest: Path) -> None:
    (guest / "web.h2k" / "final.xml").write_text(TOLD)
    (guest / "web.xml").unlink()
    (guest / "web.yaml").write_text(
        "{kind: VirtualMachine, metadata: {name: web}, spec: {template: {spec: {domain: {devices: {disks: [{disk: {bus: virtio},"
        " name: d}]}}, volumes: [{hostDisk: {path: /x/web-sda}, name: d}]}}}}"
    )
    domain = open_result(str(guest / "web.yaml"))[1].domain
    assert domain is not None and (domain.tpm, domain.sound) == ("tpm-crb", "ich9")


def test_final_xml_that_is_the_description_itself_says_all(guest: Path) -> None:
    (guest / "web.xml").unlink()
    (guest / "web.h2k" / "final.xml").write_text(domain_xml("../web-sda"))
    (guest / "web.h2k" / "bootstrap.xml").write_text(TOLD)
    domain = open_guest_files([str(guest / "web.h2k")]).domain
    assert domain is not None and domain.tpm is None


def test_a_domain_that_is_broken_is_told_and_hinders_nothing(guest: Path, caplog: pytest.LogCaptureFixture) -> None:
    (guest / "web.h2k" / "final.xml").write_text("<domain")
    (guest / "web.h2k" / "bootstrap.xml").write_text(TOLD)
    domain = open_guest_files([str(guest / "web.xml")]).domain
    assert domain is not None and domain.tpm == "tpm-crb"
    assert "what the source told is not known any more" in caplog.text and "final.xml" in caplog.text
