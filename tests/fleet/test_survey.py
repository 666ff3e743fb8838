"""h2k survey on made guests in every format, with broken ones among them; as an ordinary user, and with nothing written."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import NOT_READY, READY, REFUSED, USAGE
from h2k.convert import v2v_scripts
from h2k.fleet import survey as documents
from tests.guests import build

H2K = str(Path(__file__).resolve().parents[2] / "wrappers" / "h2k")
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


@pytest.mark.long
def test_five_hundred_guests(exports: Path, drivers: Path, tmp_path: Path) -> None:
    """500 overlays of made guests, one in twenty broken: each row right, and how fast."""
    known = list(build.cached().values())
    top = tmp_path / "many"
    top.mkdir()
    for number in range(500):
        place = top / f"guest{number:03d}.qcow2"
        if number % 20 == 0:
            place.write_bytes((exports / "short.qcow2").read_bytes())
        else:
            overlay(known[number % len(known)].disks[0], place)
    began = time.monotonic()
    status, _ = survey(top, "-o", tmp_path / "s.json", drivers=drivers, state=tmp_path)
    seconds = time.monotonic() - began
    rows = documents.read_survey(tmp_path / "s.json")["guests"]
    assert status == REFUSED and len(rows) == 500
    for row in rows:
        assert (row["class"] == "refused") == (int(row["name"][5:]) % 20 == 0), row
    print(f"{500 / seconds:.1f} guests a second")


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
