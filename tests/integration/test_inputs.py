"""Every way in ends alike: -i disk, vmx, ova, libvirtxml and qemu-img's formats; and what can't be read is said.

virt-v2v is the real one for the OVA and the libvirt XML, and a recording stand-in that only copies elsewhere: what
h2k adds is the same then, and it has all of the work to do.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from h2k.disk.open_reader import open_reader
from h2k.guest.guest import Guest
from h2k.windows.pnp import find_binding
from h2k.windows.regf import Key
from tests.guests import linux
from tests.guests.build import BuiltGuest, cached, write_vmx
from tests.guests.ova import write_ova
from tests.integration.test_dirty import ONLY_IN_LOGS, make_dirty

long = pytest.mark.long  # a libguestfs session or more for each row, and for some a conversion by the real virt-v2v
ROOT = Path(__file__).resolve().parents[2]
H2K, V2V, QEMU_IMG = (ROOT / "wrappers" / name for name in ("h2k", "h2k-v2v", "h2k-qemu-img"))
GUEST = "win2022"
MAC = "00:0c:29:4a:5b:6c"
# The ids that Windows makes of virtio-blk, legacy and modern, best first.
IDS = [
    [f"{short}&SUBSYS_{subsystem}&REV_{revision}", f"{short}&SUBSYS_{subsystem}", f"{short}&REV_{revision}", short]
    for short, subsystem, revision in (("VEN_1AF4&DEV_1001", "00021AF4", "00"), ("VEN_1AF4&DEV_1042", "11001AF4", "01"))
]
SERVICES = ("viostor", "netkvm", "storahci")
Env = dict[str, str]


def run(*argv: Any, env: Optional[Env] = None, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(a) for a in argv], capture_output=True, text=True, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL,
        check=False,
    )  # fmt: skip
    assert done.returncode == status, f"{argv} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tree(key: Optional[Key]) -> list[Any]:
    """A key with all below it, without time stamps."""
    if key is None:
        return []
    values = sorted((v.name, v.type, v.raw.hex()) for v in key.values())
    return [key.name, values, sorted((tree(k) for k in key.subkeys()), key=str)]


def summary(disk: Path) -> dict[str, Any]:
    """What a guest must be wherever it came from: services, ids and files, by h2k's own regf reader."""
    with open_reader([(disk, None)]) as reader:
        guest = Guest(reader)
        control = f"ControlSet{guest.control_sets.default:03d}"
        files = {n: guest.pe(f"/Windows/System32/drivers/{n}.sys")[0] for n in ("viostor", "netkvm")}
        return {
            "services": {n: tree(guest.system.key(f"{control}\\Services\\{n}")) for n in SERVICES},
            "bindings": [find_binding(guest.system, guest.control_sets.default, ids)[0].service for ids in IDS],
            "stop screen": tree(guest.system.key(f"{control}\\Control\\CrashControl")),
            "files": files,
            "clean": guest.hive_state("SYSTEM").state,
        }


def findings(xml: Path, drivers: Path) -> set[tuple[str, str, str]]:
    """What h2k verify finds, apart from the package that virt-v2v itself leaves."""
    report = json.loads(run(H2K, "verify", xml, "--drivers", drivers, "--json").stdout)
    return {(f["id"], f["state"], f["subject"]) for f in report["findings"] if f["id"] != "guestor-leftover"}


# The ways in


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the stand-in as virt-v2v."""
    place = tmp_path_factory.mktemp("bin")
    (place / "virt-v2v").write_bytes((ROOT / "tests" / "guests" / "stand_in_v2v.py").read_bytes())
    (place / "virt-v2v").chmod(0o755)
    return place


Recorded = Callable[..., Env]


@pytest.fixture
def recorded(stand_in: Path, tmp_path: Path, v2v_env: Env) -> Recorded:
    """The environment in which virt-v2v is the stand-in; its record is tmp_path/record."""

    def env(*disks: Path, firmware: str = "efi", **more: str) -> Env:
        return {
            **v2v_env,
            "PATH": f"{stand_in}:{os.environ['PATH']}",
            "STAND_IN_RECORD": str(tmp_path / "record"),
            "STAND_IN_DISKS": ":".join(map(str, disks)),
            "STAND_IN_FIRMWARE": firmware,
            **more,
        }

    return env


def record(tmp_path: Path) -> list[str]:
    """The arguments of the one run of the stand-in."""
    lines = (tmp_path / "record").read_text().splitlines()
    assert len(lines) == 1
    found: list[str] = json.loads(lines[0])
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with the guest as VMware has it (.vmx and .vmdk), as qcow2, VHDX and raw, and as a libvirt XML."""
    place = tmp_path_factory.mktemp("made")
    built = cached()[GUEST]
    vmx = write_vmx(BuiltGuest(GUEST, "uefi", built.disks), place)
    vmx.rename(place / "g.vmx")
    for form, suffix in (("qcow2", "qcow2"), ("vhdx", "vhdx"), ("raw", "raw")):
        run("qemu-img", "convert", "-O", form, built.disks[0], place / f"g.{suffix}")
    (place / "libvirt").mkdir()
    (place / "libvirt" / "g.xml").write_text(
        f"<domain type='kvm'><name>g</name><memory unit='MiB'>2048</memory><vcpu>2</vcpu><os firmware='efi'>"
        f"<type arch='x86_64'>hvm</type></os><devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
        f"<source file='{place}/g.qcow2'/><target dev='sda' bus='scsi'/></disk>"
        f"<interface type='network'><mac address='{MAC}'/><source network='default'/></interface></devices></domain>"
    )
    yield place
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def reference(made: Path, drivers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of h2k-qemu-img from the VMDK: NAME.xml; a healthy guest for the other tests."""
    out = tmp_path_factory.mktemp("reference")
    source = made / f"{GUEST}.vmdk"
    before = digest(source)
    done = run(QEMU_IMG, "convert", "-p", "-O", "qcow2", source, out / "g.qcow2", "--h2k-drivers", drivers)
    assert "READY" in done.stdout and "100.00/100%" in done.stdout
    assert digest(source) == before, "the source was written"
    return out / "g.xml"


def test_qemu_img_leaves_a_whole_result(reference: Path, drivers: Path) -> None:
    out = reference.parent
    assert sorted(p.name for p in out.iterdir()) == ["g.h2k", "g.qcow2", "g.xml"]
    state = out / "g.h2k"
    report = json.loads((state / "report.json").read_text())
    assert report["status"] == 0 and report["changes"]
    assert [d["path"] for d in report["guest"]["disks"]] == [str(out / "g.qcow2")]
    assert {"bootstrap", "final", "domain", "report"} <= set(report["files"])
    assert (state / "backup" / "SHA256SUMS").exists() and not (state / "source").exists()
    for xml in (reference, state / "bootstrap.xml", state / "final.xml"):
        run("virt-xml-validate", xml, "domain")
        text = xml.read_text()
        assert MAC in text and GUEST in text and str(out / "g.qcow2") in text
    # virt-v2v makes a stop screen stay, and so must what runs without it
    assert ["AutoReboot", 4, "00000000"] in [list(v) for v in summary(out / "g.qcow2")["stop screen"][1]]
    # healthy: a second repair has nothing to do
    again = json.loads(run(H2K, "fix", reference, "--drivers", drivers, "--json").stdout)
    assert again["status"] == 0 and again["changes"] == []


WAYS = ["disk", "vmx", "ova", "libvirtxml", "qemu-img vhdx", "qemu-img raw"]


@long
@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_ends_alike(
    way: str, made: Path, reference: Path, drivers: Path, v2v_env: Env, recorded: Recorded, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if way.startswith("qemu-img"):
        source = made / f"g.{way.split()[1]}"
        done = run(QEMU_IMG, "convert", "-O", "raw", source, out / "g-sda", "--h2k-drivers", drivers, "--h2k-name", GUEST)
        (out / "g-sda.xml").rename(out / "g.xml")
        assert f"described by {made}/g.vmx" in done.stderr
    else:
        source, env = {
            "disk": (made / "g.qcow2", recorded(made / "g.qcow2")),
            "vmx": (made / "g.vmx", recorded(made / f"{GUEST}.vmdk")),
            "ova": (made / "g.ova", v2v_env),
            "libvirtxml": (made / "libvirt" / "g.xml", v2v_env),
        }[way]
        if way == "ova":
            write_ova(made / "g.qcow2", made, "g", uefi=True)
        arguments = ["-i", way, source, "-o", "local", "-os", out, "-on", "g"]
        done = run(V2V, *arguments, "--h2k-drivers", drivers, env=env)
        if way in ("disk", "vmx"):
            assert record(tmp_path) == [str(a) for a in arguments], "virt-v2v did not get what the user gave"
    assert "READY" in done.stdout
    expected, found = summary(reference.parent / "g.qcow2"), summary(out / "g-sda")
    if way in ("disk", "vmx"):
        del expected["stop screen"], found["stop screen"]  # virt-v2v's own doing, which the stand-in leaves
    assert found == expected
    assert found["bindings"] == ["viostor", "viostor"] and all(found["files"].values()) and found["clean"] == "clean"
    assert findings(out / "g.xml", drivers) == findings(reference, drivers)


@pytest.mark.parametrize("kind", ["tar", "directory", "gz", "zip", "tar.gz", "tar.xz"])
def test_each_kind_of_ova_is_looked_at(kind: str, made: Path, drivers: Path, v2v_env: Env, tmp_path: Path) -> None:
    ova = write_ova(made / "g.qcow2", tmp_path, "g", uefi=True, kind=kind)
    out = tmp_path / "out"
    out.mkdir()
    done = run(V2V, "-i", "ova", ova, "-o", "local", "-os", out, "--h2k-drivers", drivers, "--h2k-dry-run", env=v2v_env)
    assert "h2k: OK TO CONVERT: will install viostor, netkvm" in done.stdout and "driver-not-boot-start" in done.stdout
    assert ("unpacking" in done.stderr) == (kind not in ("tar", "directory"))
    assert not list(out.iterdir())


@long
def test_a_dirty_hive_in_an_ova_is_healed_on_an_overlay(
    reference: Path, drivers: Path, recorded: Recorded, tmp_path: Path
) -> None:
    disk = Path(shutil.copy(reference.parent / "g.qcow2", tmp_path / "source.qcow2"))
    make_dirty(BuiltGuest(GUEST, "uefi", (disk,)), "new")
    ova = write_ova(disk, tmp_path, "g", uefi=True)
    before, out = digest(ova), tmp_path / "out"
    out.mkdir()
    done = run(V2V, "-i", "ova", ova, "-o", "local", "-os", out, "--bridge", "VM Network:br0", "--h2k-drivers", drivers, env=recorded())
    assert "repaired  hive-dirty" in done.stdout and "READY" in done.stdout
    argv = record(tmp_path)
    assert "ova" not in argv and argv[argv.index("-i") + 1] == "libvirtxml" and argv[argv.index("-on") + 1] == "g"
    assert argv[argv.index("--bridge") + 1] == "VM Network:br0"
    with open_reader([(out / "g-sda", None)]) as reader:
        assert Guest(reader).system.key(ONLY_IN_LOGS) is not None
    assert digest(ova) == before
    assert MAC in (out / "g.h2k" / "final.xml").read_text()


# What can't be read, and other addresses


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["-ic", "vpx://user@vc/dc/esxi", "-it", "vddk", "guest"], "-it vddk"),
        (["-i", "vmx", "-it", "ssh", "ssh://nobody@localhost:1/vmfs/g.vmx"], "can't be read over SSH"),
        (["-i", "disk", "nbd://localhost:1/x"], "does not answer"),
    ],
)
def test_what_can_not_be_read_beforehand_is_in_the_report(
    arguments: list[str], why: str, reference: Path, drivers: Path, recorded: Recorded, tmp_path: Path
) -> None:
    env = recorded(reference.parent / "g.qcow2")
    done = run(V2V, *arguments, "-o", "local", "-os", tmp_path, "-on", "g", "--h2k-drivers", drivers, env=env)
    assert "unknown" in done.stderr and why in done.stderr
    report = json.loads((tmp_path / "g.h2k" / "report.json").read_text())
    found = [f for f in report["findings"] if f["id"] == "hive-dirty"]
    assert [f["state"] for f in found] == ["warning"]
    assert found[0]["evidence"].startswith("unknown: ") and why in found[0]["evidence"]
    assert report["status"] == 0 and "READY" in done.stdout


def test_virt_v2v_alone_knows_the_name(reference: Path, drivers: Path, recorded: Recorded, tmp_path: Path) -> None:
    env = recorded(reference.parent / "g.qcow2")
    (tmp_path / "older.xml").write_text("<domain/>")
    os.utime(tmp_path / "older.xml", (0, 0))
    run(V2V, "-ic", "vpx://u@vc/dc/esxi", "guest", "-o", "local", "-os", tmp_path, "--h2k-drivers", drivers, env=env)
    assert (tmp_path / "g.h2k" / "report.json").exists()


@pytest.fixture
def export(tmp_path: Path) -> Iterator[Callable[[Path], str]]:
    """export(IMAGE): its content on NBD; the URI."""
    servers: list[subprocess.Popen[bytes]] = []

    def start(image: Path) -> str:
        socket = tmp_path / "nbd.socket"
        servers.append(subprocess.Popen(["qemu-nbd", "-r", "-t", "-e", "8", "-x", "disk", "-k", str(socket), str(image)]))
        while not socket.exists():
            assert servers[-1].poll() is None
            time.sleep(0.02)
        return f"nbd+unix:///disk?socket={socket}"

    yield start
    for server in servers:
        server.terminate()
        server.wait()


def test_nbd(export: Callable[[Path], str], made: Path, reference: Path, drivers: Path, v2v_env: Env, tmp_path: Path) -> None:
    uri = export(made / "g.qcow2")
    arguments = ["-i", "disk", uri, "-o", "local", "-os", tmp_path, "--h2k-drivers", drivers, "--h2k-dry-run"]
    done = run(V2V, *arguments, env=v2v_env)
    assert "h2k: OK TO CONVERT: will install viostor, netkvm" in done.stdout and "driver-not-boot-start" in done.stdout
    (tmp_path / "nbd.socket").unlink()
    healthy = export(reference.parent / "g.qcow2")
    run(QEMU_IMG, "convert", healthy, tmp_path / "n.raw", "--h2k-drivers", drivers)
    assert "identical" in run("qemu-img", "compare", reference.parent / "g.qcow2", tmp_path / "n.raw").stdout


SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin:/sbin")


@pytest.mark.skipif(SSHD is None, reason="no sshd here")
def test_vmx_over_ssh(made: Path, drivers: Path, v2v_env: Env, tmp_path: Path) -> None:
    """From a host as ESXi is: a .vmx, and the disk's flat file beside its descriptor."""
    esxi = tmp_path / "vmfs"
    esxi.mkdir()
    shutil.copy(made / "g.raw", esxi / f"{GUEST}-flat.vmdk")
    shutil.copy(made / "g.vmx", esxi / "g.vmx")
    for key in ("host", "user"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / key)
    port = 20000 + os.getpid() % 20000
    shutil.copy(tmp_path / "user.pub", tmp_path / "authorized")
    (tmp_path / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/authorized\n"
        f"PidFile none\nStrictModes no\nUsePAM no\nSubsystem sftp internal-sftp\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    (tmp_path / "known").write_text(f"[127.0.0.1]:{port} {(tmp_path / 'host.pub').read_text()}")
    # What is in ~/.ssh elsewhere: libssh asks the password database for it, and not $HOME.
    place = tmp_path / "bin"
    place.mkdir()
    mine = f"known-hosts={tmp_path}/known identity={tmp_path}/user"
    (place / "nbdkit").write_text(
        f'#!/bin/sh\ncase "$*" in *path=*) exec {shutil.which("nbdkit")} "$@" {mine};; esac\nexec {shutil.which("nbdkit")} "$@"\n'
    )
    (place / "nbdkit").chmod(0o755)
    env = {**v2v_env, "PATH": f"{place}:{os.environ['PATH']}"}
    with subprocess.Popen([str(SSHD), "-D", "-e", "-f", str(tmp_path / "config")]) as server:
        try:
            time.sleep(0.5)
            uri = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{esxi}/g.vmx"
            arguments = ["-i", "vmx", "-it", "ssh", uri, "-o", "local", "-os", tmp_path]
            done = run(V2V, *arguments, "--h2k-drivers", drivers, "--h2k-dry-run", env=env)
        finally:
            server.terminate()
    assert "unknown" not in done.stderr, done.stderr
    assert "h2k: OK TO CONVERT: will install viostor, netkvm" in done.stdout and "driver-not-boot-start" in done.stdout


# h2k-qemu-img: refusals, options, kills


def test_refused_before_the_copy(made: Path, empty_driver: Path, tmp_path: Path) -> None:
    out = tmp_path / "g.qcow2"
    done = run(QEMU_IMG, "convert", "-O", "qcow2", made / "g.raw", out, "--h2k-drivers", empty_driver, status=3)
    assert "driver-file-invalid" in done.stdout and "nothing was written" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["g.h2k"] and (tmp_path / "g.h2k" / "report.json").exists()


def test_other_commands_are_qemu_imgs_own(made: Path, tmp_path: Path) -> None:
    ours, theirs = (run(program, "info", made / "g.qcow2").stdout for program in (QEMU_IMG, "qemu-img"))
    assert ours == theirs
    run(QEMU_IMG, "create", "-f", "qcow2", tmp_path / "new.qcow2", "1G")
    assert run(QEMU_IMG, "info", "/nonexistent", status=1).stderr == run("qemu-img", "info", "/nonexistent", status=1).stderr


def test_options_of_qemu_img(reference: Path, drivers: Path, tmp_path: Path) -> None:
    source, out = reference.parent / "g.qcow2", tmp_path / "c.qcow2"
    run(QEMU_IMG, "convert", "-c", "-O", "qcow2", "-o", "cluster_size=128k", source, out, "--h2k-drivers", drivers)
    info = json.loads(run("qemu-img", "info", "--output=json", out).stdout)
    assert info["cluster-size"] == 128 * 1024 and "backing-filename" not in info
    # a target that is there already, written in place
    run("qemu-img", "create", "-q", "-f", "raw", tmp_path / "n.raw", str(info["virtual-size"]))
    inode = (tmp_path / "n.raw").stat().st_ino
    run(QEMU_IMG, "convert", "-n", "-O", "raw", source, tmp_path / "n.raw", "--h2k-drivers", drivers, "--h2k-memory", "3G")
    assert (tmp_path / "n.raw").stat().st_ino == inode
    assert ">3145728<" in (tmp_path / "n.xml").read_text()
    for disk in (out, tmp_path / "n.raw"):
        assert "identical" in run("qemu-img", "compare", source, disk).stdout
    # the user's own domain is not overwritten, a result of ours is
    run(QEMU_IMG, "convert", source, tmp_path / "n.raw", "--h2k-drivers", drivers)
    (tmp_path / "n.xml").write_text("<domain/>")
    run(QEMU_IMG, "convert", source, tmp_path / "n.raw", "--h2k-drivers", drivers, status=2)
    assert (tmp_path / "n.xml").read_text() == "<domain/>"


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_killed_while_it_copies_leaves_no_result(reference: Path, drivers: Path, tmp_path: Path) -> None:
    source, out = reference.parent / "g.qcow2", tmp_path / "k.qcow2"
    argv = [str(a) for a in (QEMU_IMG, "convert", "-O", "qcow2", source, out, "--h2k-drivers", drivers)]
    with subprocess.Popen([*argv, "-r", "64k"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        part = tmp_path / ".k.qcow2.h2k-part"
        while not part.exists():
            assert process.poll() is None, "it ended before it copied"
            time.sleep(0.02)
        copying = children(process.pid)
        process.kill()
        process.wait()
        for child in copying:
            os.kill(child, signal.SIGKILL)
    assert not out.exists() and not (tmp_path / "k.xml").exists() and not (tmp_path / "k.h2k" / "report.json").exists()
    run(*argv)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["k.h2k", "k.qcow2", "k.xml"]
    assert "identical" in run("qemu-img", "compare", source, out).stdout


def test_report_mode_changes_nothing(made: Path, drivers: Path, tmp_path: Path) -> None:
    env = {"H2K_MODE": "report"}
    done = run(QEMU_IMG, "convert", "-f", "raw", "-O", "qcow2", made / "g.raw", tmp_path / "g.qcow2", "--h2k-drivers", drivers, env=env)
    assert "NOT READY" in done.stdout
    assert "identical" in run("qemu-img", "compare", made / "g.raw", tmp_path / "g.qcow2").stdout
    assert (tmp_path / "g.h2k" / "bootstrap.xml").exists()


# Not Windows, and several systems


def test_linux_gets_one_production_domain(drivers: Path, recorded: Recorded, tmp_path: Path) -> None:
    disk = linux.build(tmp_path / "linux.qcow2")
    env = recorded(disk, firmware="", STAND_IN_OS="http://debian.org/debian/12")
    done = run(V2V, "-i", "disk", disk, "-o", "local", "-os", tmp_path, "-on", "l", "--h2k-drivers", drivers, env=env)
    assert "not Windows (http://debian.org/debian/12)" in done.stdout
    assert "identical" in run("qemu-img", "compare", "-F", "raw", disk, tmp_path / "l-sda").stdout
    state = tmp_path / "l.h2k"
    assert sorted(p.name for p in state.iterdir() if p.suffix == ".xml") == ["final.xml"]
    assert f"file=\"{tmp_path}/l-sda\"" in (state / "final.xml").read_text()
    report = json.loads((state / "report.json").read_text())
    assert report["guest"]["windows"] is False and report["guest"]["system"] == "http://debian.org/debian/12"


def test_a_windows_beside_the_linux_that_was_converted_is_left_alone(
    made: Path, drivers: Path, recorded: Recorded, tmp_path: Path
) -> None:
    env = recorded(made / "g.qcow2", STAND_IN_OS="http://debian.org/debian/12")
    done = run(V2V, "-i", "disk", made / "g.qcow2", "-o", "local", "-os", tmp_path, "-on", "l", "--h2k-drivers", drivers, env=env)
    assert "not Windows" in done.stdout
    assert "identical" in run("qemu-img", "compare", made / "g.qcow2", tmp_path / "l-sda").stdout


def test_a_disk_without_a_system_is_copied(drivers: Path, tmp_path: Path) -> None:
    run("qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "data.qcow2", "64M")
    done = run(QEMU_IMG, "convert", tmp_path / "data.qcow2", tmp_path / "data.raw", "--h2k-drivers", drivers)
    assert "no operating system" in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.qcow2", "data.raw"]


def test_root_chooses_among_several_windows(drivers: Path, v2v_env: Env, tmp_path: Path) -> None:
    disks = [cached()[name].disks[0] for name in ("win2022", "win11")]
    arguments = ["-i", "disk", *disks, "-o", "local", "-os", tmp_path, "--h2k-drivers", drivers]
    done = run(V2V, *arguments, env=v2v_env, status=3)
    assert "several Windows systems" in done.stdout and "/dev/sda3, /dev/sdb3" in done.stdout
    done = run(V2V, *arguments, "--root", "/dev/sdb3", "--h2k-dry-run", env=v2v_env)
    assert "Windows 11" in done.stdout
    shown = run(H2K, "plan", *disks, "--drivers", drivers, "--root", "/dev/sda3", status=4)
    assert "Windows Server 2022" in shown.stdout


@long
def test_linux_through_qemu_img_is_virt_v2v_in_places(drivers: Path, tmp_path: Path) -> None:
    """With the real virt-v2v-in-place, on a made Debian whose programs are scripts that say how they were called."""
    disk = linux.build(tmp_path / "linux.qcow2")
    before = digest(disk)
    run(QEMU_IMG, "convert", "-O", "qcow2", disk, tmp_path / "l.qcow2", "--h2k-drivers", drivers, "--h2k-name", "made")
    assert digest(disk) == before
    assert "virtio" in (tmp_path / "l.xml").read_text() and "hyperv" not in (tmp_path / "l.xml").read_text()
    run("virt-xml-validate", tmp_path / "l.xml", "domain")
    run("qemu-img", "convert", "-O", "raw", tmp_path / "l.qcow2", tmp_path / "l.raw")
    log = run("debugfs", "-R", f"cat /{linux.LOG}", f"{tmp_path}/l.raw?offset={linux.START}").stdout
    assert "update-initramfs" in log, "virt-v2v made no initial RAM disk"


def test_virt_v2v_in_places_failure_is_passed_on(drivers: Path, tmp_path: Path) -> None:
    place = tmp_path / "bin"
    place.mkdir()
    (place / "virt-v2v-in-place").write_text(f"#!{sys.executable}\nimport sys\nsys.exit(7)\n")
    (place / "virt-v2v-in-place").chmod(0o755)
    disk = linux.build(tmp_path / "linux.qcow2")
    env = {"PATH": f"{place}:{os.environ['PATH']}"}
    done = run(QEMU_IMG, "convert", disk, tmp_path / "l.raw", "--h2k-drivers", drivers, env=env, status=7)
    assert "virt-v2v-in-place ended with status 7" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bin", "l.h2k", "linux.qcow2"]
