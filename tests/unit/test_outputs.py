"""virt-v2v's outputs: which h2k repairs, virt-v2v's run script read, ours written (golden), and the two steps."""

from __future__ import annotations

import contextlib
import os
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2k.base.errors import BadData, H2kError, UsageError
from h2k.base.xml import parse_xml
from h2k.boot.phase_domain import MARK
from h2k.convert import libvirt_result, outputs
from h2k.convert.libvirt_result import STATE, LibvirtOutput, has_kvm, marked_xml
from h2k.convert.outputs import ALIASES, LEAVING, REPAIRED, FileOutput, choose, leaves, open_result
from h2k.convert.v2v_command import in_two_steps, parse
from h2k.domain import handles
from h2k.domain.documents import DOCUMENTS, Document
from h2k.domain.facts import NicFacts, Topology
from h2k.domain.guest_files import GuestFiles
from h2k.domain.qemu_script import read_target, script
from h2k.engine.report import Report
from h2k.engine.write_domains import next_commands
from tests.guests.stand_in_outputs import MAC, MACHINE, SCRIPT
from tests.unit.engine_world import World
from tests.unit.helpers import many

GOLDEN = Path(__file__).parent / "golden"
DOMAINS = sorted(GOLDEN.glob("*.xml"))
DISK = "    -drive file={path},format={form},if=none,id=d{n},media=disk \\\n"


# Which output


@pytest.mark.parametrize("mode", [*sorted(LEAVING), *ALIASES])
def test_what_leaves_the_machine(mode: str) -> None:
    command = parse(["-i", "disk", "x", "-o", mode])
    assert leaves(command) and choose(command) is None


def test_what_stays() -> None:
    assert set(REPAIRED) == {"local", "qemu", "kubevirt", "libvirt"}
    suffixes = {suffix: read for suffix, read in handles.DOCUMENTS.items() if suffix not in (".vmx", ".ovf")}
    assert {document.suffix: document.read for document in outputs._DOCUMENTS.values()} == suffixes, "a handle for each document"
    assert len(suffixes) == len(outputs._DOCUMENTS)


def test_an_output_of_the_table_needs_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(state: Path, write: Any) -> dict[str, str]:
        write(state / "bootstrap.new", b"ours", 0o600)
        return {"bootstrap-new": str(state / "bootstrap.new")}

    made: list[str] = []
    read = outputs._DOCUMENTS["local"].read
    new = Document("new", ".new", read, lambda xml, phase: made.append(phase), write, "bootstrap-new", "start-it")
    monkeypatch.setitem(outputs._DOCUMENTS, "new", new)
    monkeypatch.setattr("h2k.engine.write_domains.DOCUMENTS", (*DOCUMENTS, new))
    run = World(tmp_path / "web.h2k").run()
    run.report.files["bootstrap"] = str(tmp_path / "web.h2k" / "bootstrap.xml")
    output = FileOutput("new", tmp_path)
    output.accepts({"bootstrap": b"", "final": b""})
    (tmp_path / "web.h2k").mkdir()
    output.finish(run.guest_files, run.report, print)
    assert made == ["bootstrap", "final"] and (tmp_path / "web.h2k" / "bootstrap.new").read_bytes() == b"ours"
    assert next_commands(run, False) == (f"start-it {tmp_path}/web.h2k/bootstrap.new",)
    for mode in ("disk", "local", "qemu", "kubevirt"):
        found = choose(parse(["-i", "disk", "x", "-o", mode, "-os", "/out", "-of", "raw"]))
        assert isinstance(found, FileOutput) and (found.directory, found.form) == (Path("/out"), "raw")
    assert choose(parse(["-i", "disk", "x", "-o", "null"])) is None
    with pytest.raises(UsageError, match="-o json: h2k does not know"):
        choose(parse(["-i", "disk", "x", "-o", "json"]))


def test_libvirt_is_the_default() -> None:
    found = choose(parse(["-oc", "qemu:///session", "-os", "pool", "--h2k-define", "final", "guest"]))
    assert not isinstance(found, FileOutput) and found is not None
    assert (found.uri, found.pool, found.phase) == ("qemu:///session", "pool", "final")  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="--h2k-define both: no such phase"):
        parse(["--h2k-define", "both"])


@pytest.mark.parametrize("line", ["--qemu-boot", "-oo qemu-boot", "-oo qemu-boot=true"])
def test_a_guest_that_virt_v2v_would_boot(line: str) -> None:
    assert parse(["-o", "qemu", *line.split()]).boots
    assert not parse(["-o", "qemu", "-oo", "qemu-boot=false"]).boots


def test_the_one_document_that_is_new(tmp_path: Path) -> None:
    output = FileOutput("local", tmp_path)
    (tmp_path / "old.xml").write_text("<domain/>")
    os.utime(tmp_path / "old.xml", (0, 0))
    output.begin()
    with pytest.raises(H2kError, match="virt-v2v alone knows the name"):
        output.result(None)
    text = '<domain><name>g</name><memory>1048576</memory><devices><disk type="file"><source file="/x/g-sda"/><target dev="vda" bus="virtio"/></disk></devices></domain>'
    (tmp_path / "new.xml").write_text(text)
    found = output.result(None)
    assert (found.images, found.state) == (((Path("/x/g-sda"), None),), tmp_path / "new.h2k")
    (tmp_path / "another.xml").write_text("<domain/>")
    with pytest.raises(H2kError, match="virt-v2v alone knows the name"):
        output.result(None)
    assert output.earlier("none") is None and output.earlier("new") is None


def test_the_name_that_was_written_is_read_not_the_one_that_was_expected(tmp_path: Path) -> None:
    text = '<domain><name>{}</name><memory>1048576</memory><devices><disk type="file"><source file="{}"/><target dev="vda" bus="virtio"/></disk></devices></domain>'
    (tmp_path / "a.xml").write_text(text.format("a", "/x/old"))
    os.utime(tmp_path / "a.xml", (0, 0))
    output = FileOutput("local", tmp_path)
    output.begin()
    for name in ("a/b", "a"):  # of an earlier run there may be a document of the expected name
        with pytest.raises(H2kError, match="wrote no such file"):
            output.result(name)
    (tmp_path / "a_b.xml").write_text(text.format("a/b", "/x/a_b-sda"))
    for name in ("a/b", "a", None):
        found = output.result(name)
        assert (found.images, found.state) == (((Path("/x/a_b-sda"), None),), tmp_path / "a_b.h2k")
    (tmp_path / "other.xml").write_text(text.format("other", "/x/other-sda"))
    (tmp_path / "junk.xml").write_text("<project/>")
    assert output.result("a/b").images == ((Path("/x/a_b-sda"), None),)
    assert output.result("other").state == tmp_path / "other.h2k"
    with pytest.raises(H2kError, match="no such file"):
        output.result("c/d")


def test_where_it_fails_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for storage, fails in (([], True), (["-os", "/nonexistent"], True), (["-os", "."], False), (["-os", str(tmp_path)], False)):
        found = choose(parse(["-i", "disk", "x", "-o", "local", *storage]))
        assert found is not None and found.fails_at_once() == fails, storage


@pytest.mark.parametrize("name", ["g", "a_b"])
def test_a_result_of_long_ago(name: str, tmp_path: Path) -> None:
    texts = {".sh": v2v_script(DISK.format(path="/x/g-sda", form="raw", n=0)).decode(), ".yaml": MACHINE.format(
        name="g", disks="{disk: {bus: virtio}, name: d}", volumes="{hostDisk: {path: /x/g-sda}, name: d}", mac=MAC)}  # fmt: skip
    for suffix, text in texts.items():
        (tmp_path / f"{name}{suffix}").write_text(text)
        os.utime(tmp_path / f"{name}{suffix}", (0, 0))
        (tmp_path / f"other{suffix}").write_text(text)
        assert open_result(str(tmp_path / f"{name}{suffix}"))[1].images[0][0] == Path("/x/g-sda")


def test_a_result_that_is_none(tmp_path: Path) -> None:
    for name in ("g.xml", "g.sh", "g.yaml"):
        with pytest.raises(UsageError, match="No such file"):
            open_result(str(tmp_path / name))
    with pytest.raises(UsageError, match="no result of virt-v2v"):
        open_result(str(tmp_path))


# Two steps


@pytest.mark.parametrize(
    ("line", "first", "second"),
    [
        ("-i vmx g.vmx -o rhv-upload -oc u -op p -os d -on g", "-i vmx g.vmx -on g", "-o rhv-upload -oc u -op p -os d"),
        ("g -o glance -of qcow2 -oa sparse", "g -of qcow2 -oa sparse", "-o glance -of qcow2 -oa sparse"),
        ("-v -x -b a:b --root first g -o=vdsm --vdsm-vm-uuid=1", "-v -x -b a:b --root first g", "-v -x -o=vdsm --vdsm-vm-uuid=1"),
        ("--h2k-bus sata --h2k-dry-run -i disk -o osp -- -g", "--h2k-bus sata --h2k-dry-run -i disk -- -g", "-o osp"),
    ],
)  # fmt: skip
def test_two_steps(line: str, first: str, second: str) -> None:
    found = in_two_steps(["--h2k-stage", "/s", "--h2k-define=final", *line.split()], "/s/", "g")
    assert found == (f"-o local -os /s/ {first}".split(), f"-i libvirtxml /s/g.xml {second}".split())


# virt-v2v's run script


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


# Ours


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


# A domain that libvirt has


@pytest.mark.parametrize(("kinds", "kvm"), [(("qemu", "kvm"), True), (("qemu",), False), ((), False)])
def test_a_libvirt_without_kvm_gets_a_domain_that_qemu_emulates(kinds: tuple[str, ...], kvm: bool) -> None:
    domains = "".join(f"<domain type='{kind}'/>" for kind in kinds)
    other = "<guest><arch name='aarch64'><domain type='kvm'/></arch></guest>"
    assert has_kvm(f"<capabilities><guest><arch name='x86_64'>{domains}</arch></guest>{other}</capabilities>") == kvm
    xml = (GOLDEN / "uefi-q35-virtio-1.final.xml").read_bytes()
    assert parse_xml(marked_xml(xml, Path("/x"), "final", kvm), "x").get("type") == ("kvm" if kvm else "qemu")


def test_the_report_directory_is_in_the_metadata() -> None:
    for path in (GOLDEN / "uefi-q35-virtio-1.bootstrap.xml", GOLDEN / "bios-pc-virtio-1.bootstrap.xml"):
        domain = parse_xml(marked_xml(path.read_bytes(), Path("/pool/g.h2k"), "bootstrap"), "x")
        marks = domain.findall(f"metadata/{STATE}")
        assert [(mark.get("directory"), mark.get("phase")) for mark in marks] == [("/pool/g.h2k", "bootstrap")]
        assert domain.find(f"metadata/{{{MARK}}}boot") is None, "h2k boot would take it for a run of its own"


@pytest.mark.parametrize(("mode", "suffix"), [("qemu", "sh"), ("kubevirt", "yaml")])
def test_scripts_and_machines_that_their_owner_edited_are_kept(mode: str, suffix: str, tmp_path: Path) -> None:
    output, said = FileOutput(mode, tmp_path), []
    report, files = Report(), GuestFiles((), tmp_path)
    for phase in ("bootstrap", "final"):
        (tmp_path / f"{phase}.xml").write_bytes((GOLDEN / f"bios-q35-virtio-1.{phase}.xml").read_bytes())
        report.files[phase] = str(tmp_path / f"{phase}.xml")
    for _ in range(2):
        output.finish(files, report, said.append)
    assert said == [] and not list(tmp_path.glob("*.edited"))
    (tmp_path / f"final.{suffix}").write_text("# mine\n")
    output.finish(files, report, said.append)
    assert (tmp_path / f"final.{suffix}.edited").read_text() == "# mine\n" != (tmp_path / f"final.{suffix}").read_text()
    assert len(said) == 1 and f"final.{suffix} had been edited" in said[0]


def test_what_a_domain_was_defined_as_before_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By virt-v2v, without a word; by its owner, since h2k had defined it, with a line."""
    libvirt = pytest.importorskip("libvirt")
    defined = ["<domain><name>g</name><!-- virt-v2v --></domain>"]

    class Connection:
        def getCapabilities(self) -> str:
            return '<capabilities><guest><arch name="x86_64"><domain type="kvm"/></arch></guest></capabilities>'

        def lookupByName(self, name: str) -> Any:
            def described(flags: int) -> str:
                assert name == "g" and flags == libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
                return defined[-1]

            return SimpleNamespace(XMLDesc=described)

        def defineXML(self, xml: str) -> None:
            defined.append(xml)

    monkeypatch.setattr(libvirt_result, "connected", lambda *_, **__: contextlib.nullcontext(Connection()))
    output, report, said = LibvirtOutput(None, None, None, "final"), Report(), []
    (tmp_path / "final.xml").write_bytes((GOLDEN / "bios-q35-virtio-1.final.xml").read_bytes().replace(b"<name>guest</name>", b"<name>g</name>"))
    report.files = {"bootstrap": "x", "final": "y"}
    for _ in range(2):
        output.finish(GuestFiles((), tmp_path), report, said.append)
    kept = [path.name for path in tmp_path.glob("definition-before*")]
    assert kept == ["definition-before.xml"] and "virt-v2v" in (tmp_path / kept[0]).read_text() and said == []
    assert (tmp_path / kept[0]).stat().st_mode & 0o777 == 0o600, "it has its secrets"
    defined.append(defined[-1].replace("</memory>", "</memory><title>mine</title>"))
    output.finish(GuestFiles((), tmp_path), report, said.append)
    assert "mine" in (tmp_path / "definition-before-2.xml").read_text() and len(said) == 1 and "definition-before-2.xml" in said[0]
