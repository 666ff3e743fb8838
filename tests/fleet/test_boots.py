"""h2k fleet run --boot on real libvirt: a guest is converted and goes through both boots, with the lab's stand-in as the guest."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from h2k.engine.records import records
from tests.boot import lab
from tests.guests import build
from tests.integration.virthost import H2K, VirtHost, own_libvirt

pytest.importorskip("libvirt", reason="needs python3-libvirt")
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
POLICY = "validation: {minutes: 0}\ntimeouts: {start: 900, settle: 60, shutdown: 300}\n"


@pytest.fixture
def host() -> Iterator[VirtHost]:
    """A libvirt that has the network which a disk without a description is given."""
    with own_libvirt() as found, tempfile.NamedTemporaryFile("w", suffix=".xml") as network:
        network.write("<network><name>default</name><bridge name='h2k-fleet0'/></network>")
        network.flush()
        found.run("virsh", "net-define", network.name)
        found.run("virsh", "net-start", "default")
        try:
            yield found
        finally:
            found.stop_domains()
            found.run("virsh", "net-destroy", "default", check=False)


@pytest.fixture
def place() -> Iterator[Path]:
    """Where QEMU's user can come."""
    with tempfile.TemporaryDirectory(prefix="h2k-fleet-", dir="/var/tmp") as found:
        Path(found).chmod(0o711)
        yield Path(found)


def test_a_guest_is_converted_and_booted_and_then_left_alone(host: VirtHost, place: Path, drivers: Path) -> None:
    disk = place / "web01.qcow2"
    shutil.copy(build.cached()["win7-x86"].disks[0], disk)
    lab.install(disk, "qcow2", "bios", place)
    (place / "policy.yaml").write_text(POLICY)
    guest = {
        "name": "web01", "source": str(disk), "kind": "disk", "datastore": "store", "bytes": disk.stat().st_size,
        "options": ["--h2k-drivers", str(drivers), "--h2k-policy", str(place / "policy.yaml")],
    }  # fmt: skip
    file, out = place / "waves.yaml", place / "out"
    file.write_text(json.dumps({"version": 1, "output": str(out), "waves": [{"wave": 1, "guests": [guest]}]}))
    done = host.run(H2K, "fleet", "run", file, "--boot", check=False)
    log = out / "web01.h2k" / "fleet.log"
    assert done.returncode == 0, done.stdout + done.stderr + (log.read_text() if log.exists() else "")
    assert "booted" in done.stdout + done.stderr and host.domains() == {"web01": "running"}
    commands = [record["command"] for record in records(out / "web01.h2k")]
    assert [command.split()[-1] for command in commands] == ["h2k-qemu-img", "boot"]
    again = host.run(H2K, "fleet", "run", file, "--boot", check=False)
    assert again.returncode == 0 and len(records(out / "web01.h2k")) == 2, "what is booted is not begun again"
