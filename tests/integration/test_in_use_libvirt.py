"""What a running domain of libvirt has is not touched, by any command and in any format; the answer names the domain."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guests.build import cached
from tests.integration.virthost import H2K, VirtHost, own_libvirt

pytest.importorskip("libvirt", reason="needs python3-libvirt")

V2V, QEMU_IMG = H2K.with_name("h2k-v2v"), H2K.with_name("h2k-qemu-img")
REFUSED = 3
NAME = "prod-web 01 ü"
TINY = """<domain type="qemu"><name>{name}</name><memory unit="MiB">32</memory><os><type arch="x86_64">hvm</type></os><devices>
<disk type="file" device="disk"><driver name="qemu" type="{form}"/><source file="{disk}"/><target dev="hda" bus="ide"/></disk>
</devices></domain>"""


@pytest.fixture(scope="module")
def host() -> Iterator[VirtHost]:
    with own_libvirt() as found:
        yield found


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, host: VirtHost, drivers: Path) -> Iterator[Path]:
    """A repaired guest g, whose disk a small running domain has; and a disk that nobody uses, other."""
    form = request.param
    with tempfile.TemporaryDirectory(prefix="h2k-used-", dir="/var/tmp") as name:
        found = Path(name)
        found.chmod(0o711)
        disk = found / "g-sda"
        subprocess.run(["qemu-img", "convert", "-O", form, str(cached()["win7-x86"].disks[0]), str(disk)], check=True)
        shutil.copy(cached()["win7-x86"].disks[0], found / "other")
        description = TINY.format(name="g", form=form, disk=disk).replace('"qemu">', '"kvm">', 1)
        (found / "g.xml").write_text(description)
        done = subprocess.run([H2K, "fix", found / "g.xml", "--drivers", drivers], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        (found / "tiny.xml").write_text(TINY.format(name=NAME, form=form, disk=disk))
        host.run("virsh", "-q", "create", found / "tiny.xml")
        try:
            yield found
        finally:
            host.stop_domains_of(NAME)


COMMANDS = {
    "fix": [H2K, "fix", "{}/g.xml"],
    "post": [H2K, "post", "{}/g.xml"],
    "rollback": [H2K, "rollback", "{}/g.h2k"],
    "boot": [H2K, "boot", "{}/g.h2k"],
    "output of qemu-img": [QEMU_IMG, "convert", "-O", "FORM", "{}/other", "{}/g-sda"],
    "output of virt-v2v": [V2V, "-i", "disk", "{}/other", "-o", "local", "-os", "{}", "-on", "g"],
    "source of qemu-img": [QEMU_IMG, "convert", "-O", "qcow2", "{}/g-sda", "{}/new"],
    "source of virt-v2v": [V2V, "-i", "disk", "{}/g-sda", "-o", "local", "-os", "{}", "-on", "new"],
    "guest of libvirt": [V2V, "-i", "libvirt", "-ic", "qemu:///system", NAME, "-o", "local", "-os", "{}", "-on", "new"],
}


ON_RAW = ("fix", "output of qemu-img")  # on which qemu-img itself would see no lock


@pytest.mark.parametrize(("place", "command"), [("qcow2", c) for c in COMMANDS] + [("raw", c) for c in ON_RAW], indirect=["place"])
def test_a_running_domain_keeps_its_disk(command: str, place: Path, host: VirtHost, drivers: Path, v2v_env: dict[str, str]) -> None:
    disk, before = place / "g-sda", set(place.iterdir())
    facts, digest = disk.stat(), hashlib.sha256(disk.read_bytes()).digest()
    form = json.loads(subprocess.run(["qemu-img", "info", "-U", "--output=json", disk], capture_output=True, check=True).stdout)["format"]
    argv = [str(a).replace("{}", str(place)).replace("FORM", form) for a in COMMANDS[command]]
    option = [] if command in ("rollback", "boot") else ["--drivers" if argv[0] == str(H2K) else "--h2k-drivers", str(drivers)]
    done = host.run("env", *(f"{k}={v}" for k, v in v2v_env.items()), *argv, *option, check=False)
    said = done.stdout + done.stderr
    who = "the domain runs" if command == "guest of libvirt" else f"in use by the running domain {NAME}"
    assert done.returncode == REFUSED and "source-running: " in said and who in said and NAME in said, said
    assert (disk.stat().st_ino, disk.stat().st_mtime_ns) == (facts.st_ino, facts.st_mtime_ns)
    assert hashlib.sha256(disk.read_bytes()).digest() == digest and not (place / "new").exists()
    assert {p.name for p in set(place.iterdir()) - before} <= {"new.h2k"}, "its record"


@pytest.mark.parametrize("place", ["qcow2"], indirect=True)
def test_the_refusal_is_a_finding_of_the_record(place: Path, host: VirtHost, drivers: Path) -> None:
    done = host.run(H2K, "fix", place / "g.xml", "--drivers", drivers, "--json", check=False)
    found = [f for f in json.loads(done.stdout)["findings"] if f["id"] == "source-running"]
    assert [(f["state"], f["subject"]) for f in found] == [("refused", str(place / "g-sda"))] and NAME in found[0]["evidence"]
