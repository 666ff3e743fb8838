"""virt-v2v's outputs: which h2k repairs, virt-v2v's run script read, ours written (golden), and the two steps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from h2k.base.errors import H2kError, UsageError
from h2k.convert.outputs import ALIASES, LEAVING, REPAIRED, FileOutput, choose, leaves, open_result
from h2k.convert.v2v_command import in_two_steps, parse
from h2k.domain.guest_files import GuestFiles
from h2k.engine.report import Report
from tests.guests.stand_in_outputs import MAC, MACHINE, SCRIPT

GOLDEN = Path(__file__).parent / "golden"
DISK = "    -drive file={path},format={form},if=none,id=d{n},media=disk \\\n"


# Which output


@pytest.mark.parametrize("mode", [*sorted(LEAVING), *ALIASES])
def test_what_leaves_the_machine(mode: str) -> None:
    command = parse(["-i", "disk", "x", "-o", mode])
    assert leaves(command) and choose(command) is None


def test_what_stays() -> None:
    assert set(REPAIRED) == {"local", "qemu", "kubevirt", "libvirt"}
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
