"""virt-v2v's outputs: which h2k repairs, virt-v2v's run script read, ours written (golden), and the two steps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Optional

import pytest

from h2k.base.errors import H2kError, UsageError
from h2k.convert import outputs
from h2k.convert.outputs import ALIASES, LEAVING, REPAIRED, FileOutput, choose, leaves, open_result
from h2k.convert.v2v_command import in_two_steps, parse
from h2k.domain import handles
from h2k.domain.documents import DOCUMENTS, Document
from h2k.domain.guest_files import GuestFiles
from h2k.engine.report import Report
from h2k.engine.write_domains import next_commands
from tests.guests.stand_in_outputs import MAC, MACHINE, SCRIPT
from tests.unit.engine_world import World

GOLDEN = Path(__file__).parent / "golden"
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
    output.begin(None)
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
    output.begin(None)
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


# A YAML that names no disks: virt-v2v's for a guest on virtio-scsi or IDE


@pytest.fixture
def unnamed(tmp_path: Path) -> Path:
    """What such a conversion writes, two disks, and a third one of an earlier conversion."""
    for name in ("g-sda", "g-sdb", "g-sdc"):
        (tmp_path / name).write_bytes(b"x")
    os.utime(tmp_path / "g-sdc", (1000, 1000))
    (tmp_path / "g.yaml").write_text(MACHINE.format(name="g", disks="", volumes="", mac=MAC))
    return tmp_path


@pytest.mark.parametrize("disks", [2, None])
def test_disks_that_are_not_named_are_those_that_were_written(unnamed: Path, disks: Optional[int]) -> None:
    output = FileOutput("kubevirt", unnamed, form="raw")
    output.begin(disks)
    for name in ("g-sda", "g-sdb", "g.yaml"):
        os.utime(unnamed / name)
    found = output.result("g")
    assert found.images == ((unnamed / "g-sda", "raw"), (unnamed / "g-sdb", "raw"))
    assert found.domain is not None and [disk.path for disk in found.domain.disks] == [unnamed / "g-sda", unnamed / "g-sdb"]


@pytest.mark.parametrize(("disks", "new"), [(3, ("g-sda", "g-sdb")), (1, ("g-sda", "g-sdb")), (2, ()), (None, ()), (2, ("g-sdb", "g-sdc"))])
def test_disks_that_are_not_as_many_as_the_source_has_are_not_taken(unnamed: Path, disks: Optional[int], new: tuple[str, ...]) -> None:
    output = FileOutput("kubevirt", unnamed)
    for name in ("g-sda", "g-sdb"):
        os.utime(unnamed / name, (1000, 1000))
    output.begin(disks)
    for name in (*new, "g.yaml"):
        os.utime(unnamed / name)
    with pytest.raises(H2kError, match=r"names no disk; of those beside it virt-v2v wrote \d.*h2k fix DISK"):
        output.result("g")


def test_of_a_result_of_long_ago_all_disks_beside_it_are_taken(unnamed: Path) -> None:
    assert [path.name for path, _ in open_result(str(unnamed / "g.yaml"))[1].images] == ["g-sda", "g-sdb", "g-sdc"]
    for name in ("g-sda", "g-sdb", "g-sdc"):
        (unnamed / name).unlink()
    assert FileOutput("kubevirt", unnamed).earlier("g") is None


def test_disks_that_were_given_places_are_there(unnamed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(unnamed)
    (unnamed / "own").write_bytes(b"x")
    line = f"-i disk x -o kubevirt -os {unnamed} -oo disk=own -oo compressed -oo disk=/pool/two"
    found = choose(parse(line.split()))
    assert isinstance(found, FileOutput) and found.own == (unnamed / "own", Path("/pool/two"))
    assert list(found.replaced("g")) == [unnamed / "g-sda", unnamed / "g-sdb", unnamed / "g-sdc", unnamed / "own"]
    found.begin(2)
    os.utime(unnamed / "g.yaml")
    assert found.result("g").images == ((unnamed / "own", None), (Path("/pool/two"), None))
    local = choose(parse(line.replace("kubevirt", "local").split()))
    assert isinstance(local, FileOutput) and local.own == ()


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


# A domain that libvirt has


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
