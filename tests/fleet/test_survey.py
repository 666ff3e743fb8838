"""h2k survey on made guests in every format, with broken ones among them; an ordinary user's too, and with nothing written."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import NOT_READY, READY, REFUSED, USAGE
from h2k.convert import v2v_scripts
from h2k.fleet import survey as documents
from h2k.fleet.look import CLASSES, REFUSED_CLASS, REPAIRS, UNKNOWN
from h2k.fleet.look import READY as READY_CLASS
from tests.guests import build
from tests.guests.exports import Exports, Made
from tests.processes import children, resident, tree

H2K = str(Path(__file__).resolve().parents[2] / "wrappers" / "h2k")
ROOM = 32  # KiB of the survey itself for each guest more, with what it loads at its end
FORMATS = {"qcow2": "qcow2", "raw": "raw", "vmdk": "vmdk", "vhdx": "vhdx", "vhd": "vpc"}


def survey(*arguments: Any, drivers: Path, state: Path) -> tuple[int, str]:
    env = {**os.environ, "VIRTIO_WIN": str(drivers), "XDG_STATE_HOME": str(state)}
    allowed = build.cached()["win2022"].disks[0].parent  # what the overlays rest on
    done = subprocess.run([H2K, "survey", "--allow-under", str(allowed), *map(str, arguments)], env=env, capture_output=True, text=True, timeout=600)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def overlay(base: Path, place: Path) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(base), str(place)], check=True)
    return place


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a team has in its directory: each format, a VMX, an OVA, an unpacked OVF's remains, broken copies, other files."""
    top = tmp_path_factory.mktemp("exports")
    known = build.cached()
    for suffix, form in FORMATS.items():
        (top / suffix).mkdir()
        subprocess.run(
            ["qemu-img", "convert", "-O", form, str(known["win2012r2"].disks[0]), str(top / suffix / f"web.{suffix}")], check=True
        )
    overlay(known["win2022"].disks[0], top / "over.qcow2")
    vmx = build.write_vmx(known["win2022"], top / "esx")
    _ova(vmx, top / "shop.ova")
    whole = (top / "qcow2" / "web.qcow2").read_bytes()
    (top / "short.qcow2").write_bytes(whole[: len(whole) // 3])
    (top / "empty.raw").touch()
    (top / "text.vmdk").write_text("<html>404 Not Found</html>\n")
    (top / "broken.vmx").write_text("not a vmx at all\n")
    (top / "notes.img").write_text("what to do next week\n")
    return top


def _ova(vmx: Path, ova: Path) -> None:
    disk = next(vmx.parent.glob("*.vmdk"))
    ovf = f"""<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1"><References><File id="f" href="{disk.name}"/></References>
<DiskSection><Disk diskId="d" fileRef="f" capacity="536870912"/></DiskSection><VirtualSystem id="shop"><Name>shop, =1+1</Name>
<VirtualHardwareSection>
<Item><InstanceID>1</InstanceID><ResourceType>3</ResourceType><VirtualQuantity>2</VirtualQuantity></Item>
<Item><InstanceID>2</InstanceID><ResourceType>4</ResourceType><VirtualQuantity>2048</VirtualQuantity></Item>
<Item><InstanceID>3</InstanceID><ResourceType>6</ResourceType></Item>
<Item><InstanceID>5</InstanceID><ResourceType>1</ResourceType><ResourceSubType>vmware.vtpm</ResourceSubType></Item>
<Item><InstanceID>4</InstanceID><ResourceType>17</ResourceType><HostResource>/disk/d</HostResource><Parent>3</Parent></Item>
</VirtualHardwareSection></VirtualSystem></Envelope>"""
    (vmx.parent / "shop.xml").write_text(ovf)
    with tarfile.open(ova, "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.add(vmx.parent / "shop.xml", "shop.ovf")
        archive.add(disk, disk.name)


def test_each_guest_once_with_its_class_and_nothing_written(exports: Path, drivers: Path, tmp_path: Path) -> None:
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in exports.rglob("*") if p.is_file()}
    (tmp_path / "list").write_text(f"{exports}/esx/win2022.vmx\n/nowhere/gone.ova\n")
    version = v2v_scripts.installed_version()
    out, table = tmp_path / "survey.json", tmp_path / "survey.csv"
    status, text = survey(exports, "--list", tmp_path / "list", "-o", out, "--csv", table, drivers=drivers, state=tmp_path)
    assert status == REFUSED, text
    content = documents.read_survey(out)
    classes = {g["key"].removeprefix(f"{exports}/"): g["class"] for g in content["guests"]}
    good = {f"{s}/web.{s}" for s in FORMATS} | {"over.qcow2", "esx/win2022.vmx"}
    broken = {"short.qcow2", "empty.raw", "text.vmdk", "broken.vmx"}
    assert {k for k, c in classes.items() if c == "ready to convert"} == good, text
    assert {k for k, c in classes.items() if c == "repairs itself"} == {"shop.ova"}, text  # its OVF says BIOS
    assert {k for k, c in classes.items() if c == "refused"} == broken, text
    assert {k for k, c in classes.items() if c == "unknown"} == {"/nowhere/gone.ova"}
    web = next(g for g in content["guests"] if g["key"].endswith("esx/win2022.vmx"))
    assert web["windows"].startswith("Windows Server 2022") and web["firmware"] == "uefi" and web["bytes"] > 1_000_000
    assert set(web["installs"]) == {"viostor", "netkvm"} and web["nics"][0]["fate"].startswith("carried")
    assert web["restarts"] == v2v_scripts.restarts(version, v2v_scripts.staged(version, [], [], []))
    shop = next(g for g in content["guests"] if g["key"].endswith("shop.ova"))
    assert shop["flags"] == ["virtual TPM"] and web["flags"] == []
    assert content["rate"]["bytes_per_second"] > 0 and web["estimate"] is not None
    assert all(g["reason"] for g in content["guests"])
    with open(table, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(content["guests"]) and {r["name"] for r in rows} >= {"shop, =1+1", "win2022"}
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in exports.rglob("*") if p.is_file()} == before

    (exports / "empty.raw").unlink()
    shutil.copy(exports / "vhdx" / "web.vhdx", exports / "later.vhdx")
    try:
        status, text = survey(exports, "--json", "--since", out, drivers=drivers, state=tmp_path)
        told = {(c["key"].removeprefix(f"{exports}/"), c["change"]) for c in json.loads(text[: text.rindex("}") + 1])["changes"]}
        assert told == {("empty.raw", "gone"), ("later.vhdx", "new"), ("/nowhere/gone.ova", "gone")}
    finally:
        (exports / "later.vhdx").unlink()
        (exports / "empty.raw").touch()


def test_a_disk_that_a_checkpoint_of_hyper_v_made_old(exports: Path, drivers: Path, tmp_path: Path) -> None:
    top = tmp_path / "hyper-v"
    top.mkdir()
    disk, newer = top / "Web.vhdx", top / "web_A1B2C3D4-0000-1111-2222-0123456789AB.avhdx"
    shutil.copy(exports / "vhdx" / "web.vhdx", disk)
    newer.write_bytes(disk.read_bytes())
    status, text = survey(top, "-o", tmp_path / "survey.json", drivers=drivers, state=tmp_path)
    (row,) = documents.read_survey(tmp_path / "survey.json")["guests"]
    assert status == REFUSED and row["flags"] == ["snapshot"] and str(newer) in row["reason"] and "merge it" in row["actions"][0], text
    for argv in (["h2k-qemu-img", "convert", "-O", "qcow2", disk, tmp_path / "out.qcow2"], ["h2k-v2v", "-i", "disk", disk, "-o", "local", "-os", tmp_path]):
        done = subprocess.run([str(Path(H2K).parent / argv[0]), *map(str, argv[1:])], capture_output=True, text=True, timeout=300)
        assert done.returncode == REFUSED and str(newer) in done.stdout + done.stderr, done.stderr
    assert not list(tmp_path.glob("out*"))


def test_the_exit_status_and_bad_input(exports: Path, drivers: Path, tmp_path: Path) -> None:
    status, text = survey(exports / "vhdx", drivers=drivers, state=tmp_path)
    assert status == READY and "1 ready to convert" in text, text
    (tmp_path / "nothing").mkdir()
    for argument, said in ((tmp_path / "nothing", "no guest found"), (tmp_path / "gone", "No such file")):
        status, text = survey(argument, drivers=drivers, state=tmp_path)
        assert status == USAGE and said in text and len(text.splitlines()) <= 2, text
    (tmp_path / "list").write_text("/nowhere/gone.ova\n")
    status, text = survey("--list", tmp_path / "list", drivers=drivers, state=tmp_path)
    assert status == NOT_READY and "no such file" in text, text


def test_an_ordinary_user_who_may_only_read(drivers: Path) -> None:
    """Whose exports are root's; the rate of the host is kept in the user's own home."""
    if os.geteuid() != 0 or shutil.which("runuser") is None:
        pytest.skip("needs root, to become an ordinary user")
    if subprocess.run(["runuser", "-u", "nobody", "--", "test", "-r", __file__], check=False).returncode != 0:
        pytest.skip("an ordinary user can't read this checkout")
    with tempfile.TemporaryDirectory(prefix="h2k-survey-test-", dir="/var/tmp") as name:
        top, home = Path(name), Path(name) / "home"
        top.chmod(0o755)
        (top / "exports").mkdir()
        home.mkdir()
        shutil.chown(home, "nobody")
        shutil.copytree(drivers, top / "virtio-win")
        shutil.copy(build.cached()["win2022"].disks[0], top / "exports" / "web.qcow2")
        subprocess.run(["chmod", "-R", "a+rX", str(top / "exports"), str(top / "virtio-win")], check=True)
        env = {"HOME": str(home), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "VIRTIO_WIN": str(top / "virtio-win")}
        argv = ["runuser", "-u", "nobody", "--", "env", "-i", *(f"{key}={value}" for key, value in env.items()), "/usr/bin/python3", "-B", H2K]
        done = subprocess.run([*argv, "survey", str(top / "exports"), "-o", str(home / "survey.json")], cwd="/", capture_output=True, text=True, timeout=300)
        assert done.returncode == READY and "1 ready to convert" in done.stdout, done.stdout + done.stderr
        assert (home / "survey.json").stat().st_uid != 0 and (home / ".local" / "state" / "h2k" / "rate.json").is_file()
        assert [path.name for path in (top / "exports").iterdir()] == ["web.qcow2"]


UNRULY = """
import os, signal, time

META = {"name": "unruly", "summary": "Hangs, crashes, or crashes the reader, each at one guest", "answers": []}


def propose(guest, options):
    what = guest.disks[0].info.path.stem
    if what == "hangs":
        time.sleep(1000)
    if what == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "unreadable":
        os.kill(guest.reader._child.pid, signal.SIGSEGV)
        time.sleep(0.5)
        guest.reader.read_at(0, 0, 512)
    yield from ()
"""


def test_a_guest_that_hangs_or_crashes_the_reader_is_unknown_and_the_others_go_on(drivers: Path, tmp_path: Path) -> None:
    top, hooks = tmp_path / "exports", tmp_path / "hooks"
    top.mkdir()
    hooks.mkdir()
    (hooks / "05-unruly.py").write_text(UNRULY)
    for name in ("a", "b", "hangs", "crashes", "unreadable", "y", "z"):
        overlay(build.cached()["win2022"].disks[0], top / f"{name}.qcow2")
    out = tmp_path / "survey.json"
    # Long enough for the others on a busy machine.
    status, text = survey(top, "--hooks", hooks, "--limit", 30, "--workers", 2, "-o", out, drivers=drivers, state=tmp_path)
    rows = {row["name"]: row for row in documents.read_survey(out)["guests"]}
    assert status == NOT_READY and {n for n, row in rows.items() if row["class"] == READY_CLASS} == {"a", "b", "y", "z"}, text
    said = {"hangs": "took longer than 30 s", "crashes": "ended by signal 11", "unreadable": "the file system reader crashed"}
    for name, why in said.items():
        assert rows[name]["class"] == UNKNOWN and why in rows[name]["reason"], rows[name]
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(top).encode() in _words(path)]
    assert not left, "what the ones that were ended had started is gone with them"


def _words(cmdline: Path) -> bytes:
    try:
        return cmdline.read_bytes()
    except OSError:
        return b""


@pytest.mark.long
def test_five_hundred_guests_in_every_format(drivers: Path, tmp_path: Path) -> None:
    """One in twenty is broken, in nineteen ways: the row of each is right, and no worker grows with the guests that it has seen."""
    made = Exports(tmp_path)
    made.add(500)
    out, told = tmp_path / "survey.json", tmp_path / "told"
    env = {**os.environ, "VIRTIO_WIN": str(drivers), "XDG_STATE_HOME": str(tmp_path)}
    with open(told, "wb") as log:
        running = subprocess.Popen([H2K, "survey", *made.options(), str(made.top), "-o", str(out)], env=env, stdout=log, stderr=log)
        peaks = peaks_of(running, told)
    assert running.returncode == REFUSED, told.read_text()
    rows = {row["key"]: row for row in documents.read_survey(out)["guests"]}
    assert set(rows) == set(made.made)
    for key, source in made.made.items():
        assert wrong_in(rows[key], source) == "", rows[key]
    kinds = [source.kind for source in made.made.values()]
    assert kinds.count(READY_CLASS) == 475 and {*kinds} == {*CLASSES} and len({m.ids or m.said for m in made.made.values()}) > 15
    print("KiB in each hundred guests:", *peaks, sep="\n")
    early, late = peaks[1], peaks[4]  # the first fills what a worker keeps once for all; the last is that of the end
    assert len(peaks) == 6 and 0 < late.workers <= early.workers * 1.15, peaks
    assert 0 < late.readers <= early.readers * 1.25, peaks
    assert 0 < max(found.survey for found in peaks) - early.survey <= ROOM * 500, peaks


@dataclasses.dataclass
class Peaks:
    """The most memory, in KiB: of the survey itself, of its workers together (their own), of the readers of disks that they start."""

    survey: int = 0
    workers: int = 0
    readers: int = 0


def peaks_of(survey: subprocess.Popen[bytes], told: Path) -> list[Peaks]:
    """In each hundred of its guests, and at its end; a line of `told` is a guest."""
    found: list[Peaks] = []
    while survey.poll() is None:
        hundred = told.read_bytes().count(b"\n") // 100
        found += [Peaks() for _ in range(len(found), hundred + 1)]
        now = found[hundred]
        workers = children(survey.pid)
        readers = [pid for worker in workers for pid in tree(worker)[1:]]
        now.survey = max(now.survey, resident(survey.pid))
        now.workers = max(now.workers, sum(resident(pid, "Anonymous") for pid in workers))
        now.readers = max(now.readers, sum(map(resident, readers)))
        time.sleep(0.02)
    return found


def wrong_in(row: dict[str, Any], source: Made) -> str:
    """What a row says that is not true of its source, "" when all is right."""
    refused = {found["id"] for found in row["findings"] if found["state"] == "refused"}
    if row["class"] != source.kind or source.said not in row["reason"]:
        return "class or reason"
    if {*row["repairs"]} != (source.ids if source.kind == REPAIRS else set()) or refused != (source.ids if source.kind == REFUSED_CLASS else set()):
        return "ids"
    if source.kind not in (READY_CLASS, REPAIRS):
        return ""
    guest = build.descriptions()[source.guest]
    known = {"build": int(guest["build"]), "arch": guest["arch"], "firmware": guest["firmware"], "installs": ["viostor", "netkvm"]}
    seen = {name: row[name] for name in known}
    return "" if seen == known and [disk["format"] for disk in row["disks"]] == [source.format] and row["bytes"] else f"{seen}, not {known}"


@pytest.mark.long
def test_a_million_files_beside_three_guests(exports: Path, drivers: Path, tmp_path: Path) -> None:
    top = tmp_path / "mail"
    for number in range(1000):
        (top / f"{number:03d}").mkdir(parents=True)
        for other in range(1000):
            (top / f"{number:03d}" / f"{other}.eml").touch()
    for name in "abc":
        overlay(build.cached()["win2022"].disks[0], top / f"{name}.qcow2")
    began = time.monotonic()
    status, text = survey(top, drivers=drivers, state=tmp_path)
    assert status == READY and "3 ready to convert" in text
    print(f"{time.monotonic() - began:.1f} s")
