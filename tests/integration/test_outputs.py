"""Each of virt-v2v's outputs on a made guest: where the result is repaired, what lies beside it, and what is refused.

virt-v2v is a recording stand-in that copies the source and describes it in virt-v2v's shapes. One conversion repairs a
guest; the others start from its disk, and have nothing left to repair.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest
import yaml

from h2k.disk.overlay import DiskSet
from h2k.domain.kubevirt import PHASES
from tests.guests import build as guests
from tests.integration.test_dropin import H2K, STAND_IN, V2V, Env, recorded
from tests.integration.test_inputs import QEMU_IMG
from tests.integration.virthost import VirtHost, own_libvirt

DATA_DISK = 64 * 1024 * 1024


def run(*argv: Any, env: Env, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(a) for a in argv], capture_output=True, text=True, env={**os.environ, **env}, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == status, f"{argv} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def report_of(state: Path) -> Any:
    return json.loads((state / "report.json").read_text())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("outputs")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def env(place: Path, drivers: Path, v2v_env: Env) -> Env:
    program = place / "bin" / "virt-v2v"
    program.parent.mkdir()
    shutil.copy(STAND_IN, program)
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    return {**v2v_env, "PATH": path, "STAND_IN_RECORD": str(place / "record"), "VIRTIO_WIN": str(drivers)}


@pytest.fixture(scope="module")
def local(place: Path, env: Env) -> Path:
    """-o local of two disks as qcow2, repaired: where it went."""
    data = place / "data.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", data, str(DATA_DISK)], check=True)
    out = place / "local"
    out.mkdir()
    source = guests.cached()["win2022"].disks[0]
    argv = ["-i", "disk", source, data, "-o", "local", "-os", out, "-on", "g", "-of", "qcow2", "-oa", "sparse", "-oc", "x:///"]
    run(V2V, *argv, env=env)
    assert recorded(place / "record") == [[str(word) for word in argv]]
    return out


@pytest.fixture
def ready(local: Path, env: Env) -> Env:
    """The environment in which the stand-in's source is the repaired disk."""
    return {**env, "STAND_IN_DISKS": str(local / "g-sda")}


def test_local(local: Path, env: Env) -> None:
    report = report_of(local / "g.h2k")
    assert report["status"] == 0 and report["changes"]
    for phase in PHASES:
        run("virt-xml-validate", local / "g.h2k" / f"{phase}.xml", "domain", env=env)
        text = (local / "g.h2k" / f"{phase}.xml").read_text()
        assert str(local / "g-sda") in text and str(local / "g-sdb") in text
    assert json.loads(run("qemu-img", "info", "--output=json", local / "g-sda", env=env).stdout)["format"] == "qcow2"


def without_records(place: Path) -> dict[Path, bytes]:
    """Every file below a directory, but for the records, which a refusal gets too."""
    files = [path for path in place.rglob("*") if path.is_file() and path.parent.name != "runs"]
    return {path: path.read_bytes() for path in files if path.name not in ("report.json", "plan.json")}


@pytest.mark.parametrize("command", ["h2k-v2v", "h2k fix", "h2k-qemu-img"])
def test_nothing_goes_below_the_overlays_of_a_boot(command: str, local: Path, ready: Env, tmp_path: Path) -> None:
    convert = [V2V, "-i", "disk", local / "g-sda", "-o", "local", "-os", tmp_path, "-on", "g", "-of", "qcow2"]
    if command == "h2k-qemu-img":
        convert = [QEMU_IMG, "convert", "-f", "qcow2", "-O", "qcow2", local / "g-sda", tmp_path / "g-sda"]
    run(*convert, env=ready)
    disk = tmp_path / "g-sda"
    (state,) = tmp_path.glob("*.h2k")
    disks = DiskSet([(disk, "qcow2")], state)
    disks.create_overlays("boot")
    disks.keep()
    files = without_records(tmp_path)
    again = [H2K, "fix", *tmp_path.glob("*.xml")] if command == "h2k fix" else convert
    refused = run(*again, env=ready, status=3)
    assert "the overlays of a boot are kept" in refused.stderr and "h2k rollback" in refused.stderr
    assert without_records(tmp_path) == files


def test_qemu_gets_two_scripts_that_qemu_takes(local: Path, ready: Env, tmp_path: Path) -> None:
    run(V2V, "-i", "disk", local / "g-sda", "-o", "qemu", "-os", tmp_path, "-on", "g", "-of", "qcow2", env=ready)
    assert (tmp_path / "g.sh").exists()
    for phase, controller in (("bootstrap", "ide-hd"), ("final", "virtio-blk-pci")):
        script = tmp_path / "g.h2k" / f"{phase}.sh"
        assert f"-device {controller},drive=drive0" in script.read_text()
        assert "-accel kvm" in script.read_text()
        emulated = script.with_name(f"emulated-{phase}.sh")  # KVM need not work here
        emulated.write_text(re.sub(r"-cpu \S+", "-cpu max", script.read_text().replace("-accel kvm", "-accel tcg")))
        commands = '{"execute":"qmp_capabilities"}\n{"execute":"query-block"}\n{"execute":"quit"}\n'
        argv = ["sh", str(emulated), "-S", "-display", "none", "-qmp", "stdio"]
        done = subprocess.run(argv, input=commands, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0 and str(tmp_path / "g-sda") in done.stdout, done.stderr


def test_qemu_is_not_booted_before_the_repair(ready: Env, local: Path, tmp_path: Path) -> None:
    done = run(V2V, "-i", "disk", local / "g-sda", "-o", "qemu", "-os", tmp_path, "-oo", "qemu-boot", env=ready, status=2)
    assert "before it is repaired" in done.stderr and list(tmp_path.iterdir()) == []


def test_kubevirt_gets_two_machines(local: Path, ready: Env, tmp_path: Path) -> None:
    run(V2V, "-i", "disk", local / "g-sda", "-o", "kubevirt", "-os", tmp_path, "-on", "g", "-of", "qcow2", env=ready)
    for phase, bus in (("bootstrap", "sata"), ("final", "virtio")):
        machine = yaml.safe_load((tmp_path / "g.h2k" / f"{phase}.yaml").read_text())
        spec = machine["spec"]["template"]["spec"]
        assert spec["domain"]["devices"]["disks"][0] == {"name": "disk-0", "disk": {"bus": bus}, "bootOrder": 1}
        assert spec["volumes"][0]["hostDisk"]["path"] == str(tmp_path / "g-sda")
        assert machine["spec"]["runStrategy"] == "Halted"


def test_null_runs_as_ever(local: Path, ready: Env, tmp_path: Path, empty_driver: Path, place: Path) -> None:
    argv = ["-i", "disk", str(local / "g-sda"), "-o", "null"]
    done = run(V2V, *argv, env=ready)
    assert "h2k: " in done.stdout and recorded(place / "record")[-1] == argv
    done = run(V2V, *argv, "--h2k-drivers", empty_driver, env=ready, status=3)
    assert "driver-file-invalid" in done.stdout and recorded(place / "record")[-1] == argv
    assert run(V2V, *argv, env={**ready, "STAND_IN_STATUS": "9"}, status=9)


LEAVING = ["glance", "openstack", "osp", "ovirt", "ovirt-upload", "rhev", "rhv", "rhv-upload", "vdsm"]


@pytest.mark.parametrize("mode", LEAVING)
def test_what_leaves_the_machine_is_refused_with_the_way(mode: str, local: Path, ready: Env, place: Path) -> None:
    before = recorded(place / "record")
    argv = ["-i", "disk", local / "g-sda", "-o", mode, "-oc", "https://e/api", "-op", "/pw", "-os", "data", "-oo", "a=b", "-on", "g"]
    done = run(V2V, *argv, "--h2k-bus", "virtio-scsi", env=ready, status=2)
    assert recorded(place / "record") == before
    first, second = (line.strip() for line in done.stderr.splitlines() if line.startswith("  "))
    assert first == f"h2k-v2v -o local -os STAGE -i disk {local / 'g-sda'} -on g --h2k-bus virtio-scsi"
    assert second == f"virt-v2v -i libvirtxml STAGE/g.xml -o {mode} -oc https://e/api -op /pw -os data -oo a=b"


def test_a_stage_runs_both_steps(local: Path, ready: Env, place: Path, tmp_path: Path) -> None:
    argv = ["-i", "disk", local / "g-sda", "-o", "rhv-upload", "-oc", "https://e/api", "-of", "qcow2", "-on", "g"]
    done = run(V2V, *argv, "--h2k-stage", tmp_path, env=ready)
    assert "READY" in done.stdout and report_of(tmp_path / "g.h2k")["status"] == 0
    first, second = recorded(place / "record")[-2:]
    assert first[:4] == ["-o", "local", "-os", str(tmp_path)]
    assert second == ["-i", "libvirtxml", f"{tmp_path}/g.xml", "-o", "rhv-upload", "-oc", "https://e/api", "-of", "qcow2"]


def test_a_stage_that_is_refused_uploads_nothing(local: Path, ready: Env, place: Path, tmp_path: Path, empty_driver: Path) -> None:
    before = recorded(place / "record")
    argv = ["-i", "disk", local / "g-sda", "-o", "openstack", "-on", "g", "--h2k-stage", tmp_path, "--h2k-drivers", empty_driver]
    run(V2V, *argv, env=ready, status=3)
    assert recorded(place / "record") == before and [p.name for p in tmp_path.iterdir()] == ["g.h2k"]
    assert report_of(tmp_path / "g.h2k")["word"] == "REFUSED"


@pytest.mark.parametrize(("mode", "suffix"), [("local", "xml"), ("qemu", "sh"), ("kubevirt", "yaml")])
def test_post_does_what_h2k_v2v_does_afterwards(mode: str, suffix: str, local: Path, ready: Env, tmp_path: Path) -> None:
    run("virt-v2v", "-i", "disk", local / "g-sda", "-o", mode, "-os", tmp_path, "-on", "g", "-of", "qcow2", env=ready)
    done = run(H2K, "post", tmp_path / f"g.{suffix}", "--json", env=ready)
    report = json.loads(done.stdout)
    assert report == report_of(tmp_path / "g.h2k") and report["status"] == 0
    assert [f["id"] for f in report["findings"] if f["evidence"].startswith("unknown")] == ["hive-dirty"]
    kinds = {"local": "xml", "qemu": "sh", "kubevirt": "yaml"}
    assert all((tmp_path / "g.h2k" / f"{phase}.{kinds[mode]}").exists() for phase in PHASES)


def test_post_of_nothing(tmp_path: Path, env: Env) -> None:
    assert "no such file" in run(H2K, "post", tmp_path / "g.xml", env=env, status=2).stderr.lower()
    assert "no result of virt-v2v" in run(H2K, "post", tmp_path, env=env, status=2).stderr


# -o libvirt

@pytest.fixture(scope="module")
def host() -> Iterator[VirtHost]:
    with own_libvirt() as found:
        yield found


@pytest.fixture
def pool(host: VirtHost, tmp_path: Path) -> Iterator[Path]:
    """A directory that libvirt knows as the pool "h2k"."""
    path = tmp_path / "pool"
    path.mkdir()
    host.run("virsh", "pool-create-as", "h2k", "dir", "--target", path)
    yield path
    host.stop_domains()
    host.run("virsh", "pool-destroy", "h2k")


def inside(host: VirtHost, env: Env, *argv: Any, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = host.run("env", *(f"{key}={value}" for key, value in env.items()), *argv, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.mark.parametrize(("wish", "bus"), [(None, "sata"), ("bootstrap", "sata"), ("final", "virtio")])
def test_libvirt_leaves_the_phase_defined(
    wish: Optional[str], bus: str, host: VirtHost, pool: Path, local: Path, ready: Env
) -> None:
    env = {**ready, "STAND_IN_POOL": str(pool)}
    define = ["--h2k-define", wish] if wish else []
    argv = [V2V, "-i", "disk", local / "g-sda", "-o", "libvirt", "-os", "h2k", "-oc", "qemu:///system", "-on", "g", "-of", "qcow2"]
    inside(host, env, *argv, *define)
    xml = host.run("virsh", "dumpxml", "g").stdout
    assert f"bus='{bus}'" in xml and str(pool / "g-sda") in xml
    assert f'phase="{wish or "bootstrap"}"' in xml.replace("'", '"') and str(pool / "g.h2k") in xml
    uuid = host.run("virsh", "domuuid", "g").stdout.strip()
    assert all(uuid in (pool / "g.h2k" / f"{phase}.xml").read_text() for phase in PHASES)
    # h2k boot finds its way by the name alone: here it says what this host lacks, of that very guest
    where = "import sys; from h2k.convert.libvirt_result import report_directory; print(report_directory('g', 'qemu:///system'))"
    assert inside(host, {}, "/usr/bin/python3", "-c", where).stdout.strip() == str(pool / "g.h2k")


def test_post_of_a_domain_that_libvirt_has(host: VirtHost, pool: Path, local: Path, ready: Env) -> None:
    env = {**ready, "STAND_IN_POOL": str(pool)}
    inside(host, env, "virt-v2v", "-i", "disk", local / "g-sda", "-o", "libvirt", "-os", "h2k", "-on", "g", "-of", "qcow2")
    assert "bus='virtio'" in host.run("virsh", "dumpxml", "g").stdout
    inside(host, env, H2K, "post", "g", "--connect", "qemu:///system")
    assert "bus='sata'" in host.run("virsh", "dumpxml", "g").stdout
    done = inside(host, env, H2K, "post", "nothing", "--connect", "qemu:///system", status=1)
    assert "no such domain" in done.stderr
