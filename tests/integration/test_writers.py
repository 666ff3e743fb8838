"""The two writers leave the same; the direct one needs no root, sees nothing of the host, and ends with its parent."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

import pytest

from h2k.base import sandbox
from h2k.base.errors import H2kError
from h2k.disk.open_reader import open_reader
from h2k.disk.reader import Reader, Volume, VolumeRef
from h2k.engine.appliance_writer import ApplianceWriter
from h2k.engine.apply import Backups, work_of
from h2k.engine.direct_writer import DirectWriter, missing
from h2k.engine.pipeline import examine
from h2k.engine.request import Request, Tools, open_tools
from h2k.engine.writers import write
from h2k.engine.writing import FileWrite, VolumeWrite, Work
from h2k.guest.changes import Change, SetActive, WriteFile
from h2k.guest.guest import Guest
from tests.guests import build

ROOT = Path(__file__).resolve().parents[2]
SOME = ("win2022", "win2012r2", "win7-x86")
_VOLATILE = re.compile(r"Time:|Sequence|Seq\.|Upd\.|Number of|mft record \d|LCN|Allocated [Ss]ize|Bytes|Attribute instance|Next Attr|MFT Padding")

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"the direct writer lacks: {', '.join(missing())}")


def overlay_of(image: Path, path: Path) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(image), str(path)], check=True)
    return path


def changes_for(tools: Tools, image: Path, guest: Guest) -> list[Change]:
    """The guest's repair, and what no made guest needs: new and larger files on the boot volume, another active partition."""
    changes = list(examine(tools, [(image, "qcow2")], "result", None).todo)
    boot = guest.boot_volume
    assert boot is not None
    loader = "/EFI/Boot/bootx64.efi" if boot.kind == "fat" else "/bootmgr"
    for path, data in (("/h2k/new/long name.bin", os.urandom(70_001)), (loader, os.urandom(9000)), ("/h2k/empty", b"")):
        changes.append(WriteFile(boot.ref, path, data, "a test"))
    if guest.disks[0].table.scheme == "mbr":
        changes.append(SetActive(0, guest.volume.partition))
    return changes


@dataclasses.dataclass(frozen=True)
class Written:
    """One guest, written by the direct writer and by the appliance."""

    name: str
    direct: Path
    appliance: Path
    volumes: tuple[Volume, ...]


def written(names: Sequence[str], place: Path, drivers: Path) -> list[Written]:
    """The guests' repairs by either writer: one appliance, in which each guest is a disk."""
    known, guests, volumes, status = build.cached(), [], list[VolumeWrite](), list[tuple[int, int, bytes]]()
    with open_tools(Request(drivers=str(drivers))) as tools:
        for number, name in enumerate(names):
            image = Path(shutil.copy(known[name].disks[0], place / f"{name}.qcow2"))
            with open_reader([(image, "qcow2")]) as reader:
                guest = Guest(reader)
                work = work_of(guest, changes_for(tools, image, guest), Backups(place / f"backup-{name}"))
                kinds = tuple(v for v in reader.disks[0].volumes if v.kind in ("ntfs", "fat"))
            for one in work.volumes:
                ref = VolumeRef(number, one.volume.ref.partition)
                volumes.append(dataclasses.replace(one, volume=dataclasses.replace(one.volume, ref=ref)))
            status += [(number, at, data) for _, at, data in work.bytes]
            paths = [overlay_of(image, place / f"{name}-{how}.qcow2") for how in ("direct", "appliance")]
            guests.append(Written(name, paths[0], paths[1], kinds))
    whole = Work(tuple(status), tuple(volumes))
    DirectWriter().write([g.direct for g in guests], whole)
    ApplianceWriter().write([g.appliance for g in guests], whole)
    return guests


@pytest.fixture(scope="module")
def guests(tmp_path_factory: pytest.TempPathFactory, drivers: Path, request: pytest.FixtureRequest) -> list[Written]:
    return written(SOME, tmp_path_factory.mktemp("writers"), drivers)


def files_of(reader: Reader, ref: VolumeRef, directory: str = "/") -> Iterator[tuple[Any, ...]]:
    for found in reader.listdir(ref, directory):
        yield dataclasses.astuple(found)
        if found.directory and found.readable:
            yield from files_of(reader, ref, found.path)
        elif found.readable:
            yield found.path, reader.read(ref, found.path, 1 << 30)


def volume_file(image: Path, volume: Volume, path: Path) -> Path:
    options = f"driver=raw,offset={volume.start},size={volume.size},file.driver=qcow2,file.file.driver=file,file.file.filename={image}"
    subprocess.run(["qemu-img", "convert", "--image-opts", "-O", "raw", options, str(path)], check=True)
    return path


def said(*argv: Any) -> str:
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, errors="replace", check=False)
    return done.stdout + ("" if done.returncode == 0 else f"status {done.returncode}: {done.stderr}")


def shown(tool_output: str) -> list[str]:
    return [line for line in tool_output.splitlines() if not _VOLATILE.search(line)]


def compare(guest: Written, place: Path) -> None:
    """File by file, then what the tools of ntfs-3g and mtools say of the volumes."""
    with open_reader([(guest.direct, "qcow2")]) as direct, open_reader([(guest.appliance, "qcow2")]) as appliance:
        assert direct.read_at(0, 0, 512) == appliance.read_at(0, 0, 512)
        for volume in guest.volumes:
            ours = list(files_of(direct, volume.ref))
            assert ours == list(files_of(appliance, volume.ref)), f"{guest.name}: {volume.ref}"
            assert any("h2k" in f[0] for f in ours)
            one, other = (volume_file(i, volume, place / f"{n}.raw") for n, i in enumerate((guest.direct, guest.appliance)))
            if volume.kind == "fat":
                assert said("fsck.vfat", "-n", one) == said("fsck.vfat", "-n", other).replace(str(other), str(one))
                listed = [re.sub(r"\S*/\S*\.raw", "", said("mattrib", "-i", v, "-/", "::/")) for v in (one, other)]
                assert listed[0] == listed[1] and "loader" not in listed[0]
                continue
            fixed = [said("ntfsfix", "-n", v).replace(str(v), "") for v in (one, other)]
            assert fixed[0] == fixed[1] and "status" not in fixed[0]
            audits = [said("ntfssecaudit", "-rv", v, "/").replace(str(v), "") for v in (one, other)]
            assert audits[0] == audits[1] and "ecurity" in audits[0]
            for path in ("/Windows/System32/config/SYSTEM", "/Windows/System32/drivers/viostor.sys", "/h2k/new", "/h2k/new/long name.bin"):
                facts = [shown(said("ntfsinfo", "-f", "-F", path, v)) for v in (one, other)]
                assert facts[0] == facts[1], path
            assert not said("ntfsinfo", "-m", one).count("status")


@pytest.mark.parametrize("name", SOME)
def test_both_writers_leave_the_same(name: str, guests: list[Written], tmp_path: Path) -> None:
    compare(next(g for g in guests if g.name == name), tmp_path)


REST = [name for name in build.descriptions() if name not in SOME]


@pytest.mark.long
@pytest.mark.parametrize("names", [REST[at : at + 3] for at in range(0, len(REST), 3)], ids=" ".join)
def test_both_writers_leave_the_same_on_every_made_windows(names: list[str], tmp_path: Path, drivers: Path) -> None:
    """Three at a time, in one appliance; the first three are the test above."""
    for guest in written(names, tmp_path, drivers):
        compare(guest, tmp_path)


# The direct writer alone


AS_NOBODY = """
import sys
sys.path[:0] = sys.argv[1:2]
from pathlib import Path
from h2k.disk.reader import Volume, VolumeRef
from h2k.engine.direct_writer import DirectWriter
from h2k.engine.writing import FileWrite, VolumeWrite, Work
kind, start, size = sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
files = (FileWrite("/h2k/large", bytes(range(256)) * int(sys.argv[6])),)
work = Work(((0, 446, b"\\0"),), (VolumeWrite(Volume(VolumeRef(0, 1), start, size, kind, ""), ("/h2k",), files),))
DirectWriter().write([Path(sys.argv[2])], work)
"""


def write_as(user: Optional[int], overlay: Path, volume: Volume, count: int, code: Path) -> list[str]:
    code.write_text(AS_NOBODY)
    become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user is not None else []
    package = code.parent / "package"
    if not package.exists():
        shutil.copytree(ROOT / "h2k", package / "h2k", ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run(["chmod", "-R", "a+rX", str(code.parent)], check=True)
    place = [volume.kind, str(volume.start), str(volume.size), str(count)]
    return [*become, sys.executable, "-I", str(code), str(package), str(overlay), *place]


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that every user reaches, which pytest's are not."""
    place = Path("/var/tmp", f"h2k-test-{os.getpid()}")
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    yield place
    shutil.rmtree(place)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user; this one is ordinary already")
@pytest.mark.parametrize("kind", ["ntfs", "fat"])
def test_an_ordinary_user_writes(kind: str, open_place: Path) -> None:
    image = Path(shutil.copy(build.cached()["win2022"].disks[0], open_place / "image.qcow2"))
    image.chmod(0o644)
    with open_reader([(image, "qcow2")]) as reader:
        volume = next(v for v in reader.disks[0].volumes if v.kind == kind)
    overlay = overlay_of(image, open_place / "overlay.qcow2")
    os.chown(overlay, 65534, 65534)
    subprocess.run(write_as(65534, overlay, volume, 4000, open_place / "code.py"), check=True)
    with open_reader([(overlay, "qcow2")]) as reader:
        assert reader.read(volume.ref, "/h2k/large", 1 << 30) == bytes(range(256)) * 4000


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
@pytest.mark.parametrize("writer", ["direct", pytest.param("appliance", marks=pytest.mark.long)])
def test_a_full_disk_is_told_and_nothing_stays(writer: str, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(small)], check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        image = build.cached()["win2022"].disks[0]
        overlay = overlay_of(image, small / "overlay.qcow2")
        with open_reader([(image, "qcow2")]) as reader:
            volume = next(v for v in reader.disks[0].volumes if v.kind == "ntfs")
        work = Work((), (VolumeWrite(volume, (), (FileWrite("/large", os.urandom(8 << 20)),)),))
        with pytest.raises(H2kError, match=r"could not carry out"):
            write([overlay], work, writer)
        assert not users_of(overlay)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def users_of(path: Path) -> list[str]:
    """The processes whose command line names the file."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if str(path) in line:
                found.append(line)
    return found


def test_a_killed_run_leaves_no_process(tmp_path: Path) -> None:
    image = build.cached()["win2022"].disks[0]
    overlay = overlay_of(image, tmp_path / "overlay.qcow2")
    with open_reader([(image, "qcow2")]) as reader:
        volume = next(v for v in reader.disks[0].volumes if v.kind == "ntfs")
    child = subprocess.Popen(write_as(None, overlay, volume, 1 << 20, tmp_path / "code.py"))
    deadline = time.monotonic() + 60
    while overlay.stat().st_size < 3 << 20 and time.monotonic() < deadline:  # it is at work
        time.sleep(0.02)
        assert child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    while users_of(overlay) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not users_of(overlay)
    subprocess.run(["qemu-img", "info", str(overlay)], check=True, stdout=subprocess.DEVNULL)  # nobody holds its lock


LOOK_AROUND = """
import json, os
net = [line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line]
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({"/": sorted(os.listdir("/")), "net": net, "processes": len([p for p in os.listdir("/proc") if p.isdigit()]),
                  "no new privileges": status["NoNewPrivs"].strip(), "usr": os.access("/usr", os.W_OK), "env": sorted(os.environ)}))
"""


def test_what_is_in_the_sandbox() -> None:
    import json

    argv = sandbox.sandboxed([sandbox.PYTHON, "-I", "-S", "-c", LOOK_AROUND], {}, fuse=True)
    seen = json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)
    assert set(seen["/"]) == {"bin", "dev", "etc", "lib", "lib64", "proc", "run", "sbin", "usr"}
    assert seen["net"] == ["lo"] and seen["processes"] <= 3
    assert seen["no new privileges"] == "1" and not seen["usr"]
    assert set(seen["env"]) <= {"PATH", "LC_ALL", "PWD", "LC_CTYPE"}


def test_the_appliance_takes_over_where_nothing_can_be_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(ApplianceWriter, "write", lambda self, overlays, work: done.append(self.name))
    monkeypatch.setattr(sandbox, "_MOUNTING", ("--cap-add", "CAP_SETFCAP"))  # a kernel that does not let us mount
    monkeypatch.setattr(sandbox, "_ANOTHER_USER", ())
    image = build.cached()["win2022"].disks[0]
    overlay = overlay_of(image, tmp_path / "overlay.qcow2")
    with open_reader([(image, "qcow2")]) as reader:
        volume = next(v for v in reader.disks[0].volumes if v.kind == "ntfs")
    lines: list[str] = []
    work = Work((), (VolumeWrite(volume, (), (FileWrite("/a", b"a"),)),))
    assert write([overlay], work, "auto", lines.append) == "appliance"
    assert done == ["appliance"] and "the direct writer can't work here" in lines[0]
