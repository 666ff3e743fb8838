"""The main job on made guests: the real virt-v2v, the repair, the proof, the domains, the way back."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from h2k.engine.direct_writer import missing

ROOT = Path(__file__).resolve().parents[2]
V2V = ROOT / "wrappers" / "h2k-v2v"
QEMU_IMG = ROOT / "wrappers" / "h2k-qemu-img"
H2K = ROOT / "wrappers" / "h2k"


def run(*argv: Any, env: Any = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(a) for a in argv], capture_output=True, text=True, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL
    )
    assert not check or done.returncode == 0, f"{argv} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def digest(*paths: Path) -> list[str]:
    return [hashlib.sha256(p.read_bytes()).hexdigest() for p in paths]


def h2k_json(*argv: Any, status: int = 0, env: Any = None) -> Any:
    done = run(H2K, *argv, "--json", env=env, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout)


def downloads(disk: Path, firmware: str, to: Path) -> tuple[Path, Path]:
    """SYSTEM and viostor.sys of the result, through libguestfs: code that h2k's proof does not use."""
    hive, driver = to / "SYSTEM", to / "viostor.sys"
    mount = f"mount-ro /dev/sda{3 if firmware == 'uefi' else 2} /"
    script = [mount, f"download /Windows/System32/config/SYSTEM {hive}", f"download /Windows/System32/drivers/viostor.sys {driver}"]
    run("guestfish", "--ro", "-a", disk, "run", *(word for line in script for word in (":", *line.split())))
    return hive, driver


def keeping(disk: Path, copy: Path, place: Path) -> Path:
    """A directory with a hook that copies virt-v2v's disk before h2k changes it."""
    hook = place / "hooks" / "01-keep"
    hook.parent.mkdir()
    meta = '{"name": "keep", "summary": "keeps a copy", "answers": []}'
    hook.write_text(
        f"#!/bin/sh\n[ \"$1\" = --describe ] && {{ echo '{meta}'; exit 0; }}\n"
        f"if grep -q '\"phase\": \"result\"' && ! [ -e {copy} ]; then cp --sparse=always {disk} {copy}; fi\necho '{{}}'\n"
    )
    hook.chmod(0o755)
    return hook.parent


IDS = {  # of virtio-blk, legacy and modern: with the subsystem, as virt-v2v 2.2 writes them, and without it
    "legacy": ("VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00", "VEN_1AF4&DEV_1001&REV_00"),
    "modern": ("VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01", "VEN_1AF4&DEV_1042&REV_01"),
}


def hivexget(hive: Path, *arguments: str) -> str:
    """What hivexget prints, '' where the key or the value is not there."""
    return run("hivexget", hive, *arguments, check=False).stdout.strip()


def bound(hive: Path, kind: str) -> str:
    """The service that an id of virtio-blk leads to, as hivexget shows the chain."""
    for shown in IDS[kind]:
        service = hivexget(hive, f"\\ControlSet001\\Control\\CriticalDeviceDatabase\\PCI#{shown}", "Service")
        inf = hivexget(hive, f"\\DriverDatabase\\DeviceIds\\PCI\\{shown}").split("=")[0].strip('"')
        if inf:
            package = hivexget(hive, f"\\DriverDatabase\\DriverInfFiles\\{inf}", "Active")
            key = f"\\DriverDatabase\\DriverPackages\\{package}"
            configuration = hivexget(hive, f"{key}\\Descriptors\\PCI\\{shown}", "Configuration")
            service = hivexget(hive, f"{key}\\Configurations\\{configuration}", "Service")
        if service:
            return service
    return ""


@pytest.mark.parametrize(
    ("name", "directory"), [("win2022", "viostor/2k22/amd64"), ("win7-x86", "viostor/w7/x86")]
)
def test_disk_to_local(name: str, directory: str, guest: Any, drivers: Path, v2v_env: Any, tmp_path: Path) -> None:
    source = guest(name)
    out = tmp_path / "out"
    out.mkdir()
    before = digest(*source.disks)
    plain = tmp_path / "as-virt-v2v-wrote-it"
    done = run(
        V2V, "-i", "disk", source.disks[0], "-o", "local", "-os", out, "-on", "g", "--h2k-drivers", drivers,
        "--h2k-hooks", keeping(out / "g-sda", plain, tmp_path), env=v2v_env,
    )  # fmt: skip
    assert "READY" in done.stdout
    assert digest(*source.disks) == before, "the source was written"
    disk, xml, state = out / "g-sda", out / "g.xml", out / "g.h2k"
    assert disk.exists() and xml.exists()
    report = json.loads((state / "report.json").read_text())
    assert report["status"] == 0
    for phase in ("bootstrap", "final"):
        run("virt-xml-validate", state / f"{phase}.xml", "domain")
    hive, driver = downloads(disk, source.firmware, tmp_path)
    service = "\\ControlSet001\\Services\\viostor"
    assert hivexget(hive, service, "Start") in ("0", "dword:00000000", "0x00000000")
    assert run("hivexget", hive, service + "\\StartOverride", check=False).returncode != 0
    assert {kind: bound(hive, kind) for kind in IDS} == {"legacy": "viostor", "modern": "viostor"}
    assert driver.read_bytes() == (drivers / directory / "viostor.sys").read_bytes()
    # A second run of the repair finds nothing, and writes nothing.
    stamp = (disk.stat().st_mtime_ns, digest(disk))
    again = h2k_json("fix", xml, "--drivers", drivers)
    assert again["changes"] == []
    assert (disk.stat().st_mtime_ns, digest(disk)) == stamp
    assert h2k_json("verify", xml, "--drivers", drivers)["status"] == 0
    # Back to exactly what virt-v2v had written.
    assert run("qemu-img", "compare", plain, disk, check=False).returncode == 1
    run(H2K, "rollback", xml)
    assert "identical" in run("qemu-img", "compare", plain, disk).stdout
    assert h2k_json("verify", xml, "--drivers", drivers, status=4)["changes"]


def test_refuses_an_empty_driver_before_the_copy(guest: Any, tmp_path: Path, v2v_env: Any, empty_driver: Path) -> None:
    source = guest("win2022")
    out = tmp_path / "out"
    out.mkdir()
    done = run(
        V2V, "-i", "disk", source.disks[0], "-o", "local", "-os", out, "--h2k-drivers", empty_driver,
        env=v2v_env, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stdout + done.stderr
    assert "driver-file-invalid" in done.stdout and "empty" in done.stdout
    assert [path.name for path in out.iterdir()] == [f"{source.disks[0].stem}.h2k"], "more than the record was written"
    record = json.loads(next(out.glob("*.h2k/report.json")).read_text())
    assert (record["status"], record["word"]) == (3, "REFUSED")


def test_says_before_the_copy_that_the_runner_is_missing(guest: Any, tmp_path: Path, drivers: Path) -> None:
    source = guest("win2022")
    out = tmp_path / "out"
    out.mkdir()
    done = run(
        V2V, "-i", "disk", source.disks[0], "-o", "local", "-os", out, "--h2k-drivers", drivers,
        env={"VIRT_TOOLS_DATA_DIR": str(tmp_path)}, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "first-boot-runner-missing" in done.stdout
    assert [path.name for path in out.iterdir()] == [f"{source.disks[0].stem}.h2k"], "more than the record was written"
    record = json.loads(next(out.glob("*.h2k/report.json")).read_text())
    assert (record["status"], record["word"]) == (3, "REFUSED")


KILLER = """
import os, signal, sys
from pathlib import Path
from h2k.base.host import guestfs_settings
from h2k.domain.guest_files import GuestFiles
from h2k.engine.pipeline import fix
from h2k.engine.request import Request, open_tools
from h2k.engine.runs import Run
guestfs_settings()
point, drivers, state, policy, *images = sys.argv[1:]
def die(name):
    print(name, file=sys.stderr, flush=True)
    if name == point:
        os.kill(os.getpid(), signal.SIGKILL)
run = Run("h2k fix", files=GuestFiles(tuple((Path(i), "qcow2") for i in images), Path(state)), on_step=die)
with open_tools(Request(drivers=drivers, policies=(policy,))) as run.tools:
    sys.exit(fix(run).status)
"""


POINTS = ("apply", "verify", "commit")


@pytest.mark.parametrize(
    ("point", "writer"),
    [
        *(pytest.param(point, "direct", marks=pytest.mark.long if point == "verify" else ()) for point in POINTS),
        *(pytest.param(point, "appliance", marks=pytest.mark.long) for point in POINTS),
    ],
)
def test_killed_then_the_same_command_again(point: str, writer: str, guest: Any, drivers: Path, tmp_path: Path) -> None:
    source = guest("win2022", data_disks=1)
    state, policy = tmp_path / "g.h2k", tmp_path / "policy.yaml"
    policy.write_text(f"writer: {writer}\n")
    argv = [sys.executable, "-c", KILLER, point, str(drivers), str(state), str(policy), *map(str, source.disks)]
    killed = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    argv[3] = "never"
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    images = [str(d) for d in source.disks]
    assert h2k_json("verify", *images, "--drivers", drivers)["status"] == 0


def test_healthy_guest_gets_no_appliance_and_no_write(guest: Any, drivers: Path, tmp_path: Path) -> None:
    source = guest("win2022")
    fixed = h2k_json("fix", *source.disks, "--drivers", drivers, "--report", tmp_path / "s")
    assert fixed["changes"]
    stamp = (source.disks[0].stat().st_mtime_ns, digest(*source.disks))
    broken = tmp_path / "no-appliance"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    again = h2k_json(
        "fix", *source.disks, "--drivers", drivers, "--report", tmp_path / "t", env={"LIBGUESTFS_HV": str(broken)}
    )
    assert again["status"] == 0 and again["changes"] == []
    assert (source.disks[0].stat().st_mtime_ns, digest(*source.disks)) == stamp


@pytest.fixture
def no_machine(tmp_path: Path) -> dict[str, str]:
    """An environment in which every QEMU that is started writes its arguments down and fails; it is not told whether KVM
    works, which takes a QEMU to know."""
    place, log = tmp_path / "no-machine", tmp_path / "machines"
    place.mkdir()
    for name in ("qemu-system-x86_64", "qemu-kvm", "virt-v2v-in-place"):
        (place / name).write_text(f'#!/bin/sh\necho "$0 $*" >> {log}\nexit 1\n')
        (place / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LIBGUESTFS_") and name != "H2K_KVM"}
    return {**kept, "PATH": f"{place}:{kept['PATH']}", "LIBGUESTFS_HV": str(place / "qemu-system-x86_64"), "MACHINES": str(log)}


def without_a_machine(env: dict[str, str], *argv: Any) -> None:
    done = subprocess.run(list(map(str, argv)), env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not Path(env["MACHINES"]).exists(), Path(env["MACHINES"]).read_text()


@pytest.mark.skipif(bool(missing()), reason=f"the direct writer lacks: {', '.join(missing())}")
@pytest.mark.parametrize("name", ["win2022", "win7-x86"])
def test_a_conversion_with_h2k_qemu_img_starts_no_machine(
    name: str, guest: Any, drivers: Path, tmp_path: Path, no_machine: dict[str, str]
) -> None:
    result = tmp_path / "g.qcow2"
    without_a_machine(no_machine, QEMU_IMG, "convert", "-O", "qcow2", *guest(name).disks, result, "--h2k-drivers", drivers)
    record = json.loads((tmp_path / "g.h2k" / "report.json").read_text())
    assert record["word"] == "READY" and record["changes"]


@pytest.mark.skipif(bool(missing()), reason=f"the direct writer lacks: {', '.join(missing())}")
def test_a_repair_starts_no_machine_and_none_to_ask_for_kvm(
    guest: Any, drivers: Path, tmp_path: Path, no_machine: dict[str, str]
) -> None:
    disks = guest("win2022").disks
    without_a_machine(no_machine, H2K, "fix", *disks, "--drivers", drivers)
    without_a_machine(no_machine, H2K, "rollback", *disks)


def test_rollback_gives_the_identical_content(guest: Any, drivers: Path, tmp_path: Path) -> None:
    source = guest("win7-x86")
    kept = [shutil.copy(d, tmp_path / d.name) for d in source.disks]
    h2k_json("fix", *source.disks, "--drivers", drivers, "--report", tmp_path / "s")
    assert run("qemu-img", "compare", kept[0], source.disks[0], check=False).returncode == 1
    run(H2K, "rollback", *source.disks, "--report", tmp_path / "s")
    for old, new in zip(kept, source.disks):
        assert "identical" in run("qemu-img", "compare", old, new).stdout
