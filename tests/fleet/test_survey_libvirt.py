"""h2k survey of a real libvirt: domains that are shut off are looked at, those that run are named, or looked at when asked."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import NOT_READY, READY
from tests.guests.build import cached
from tests.integration.virthost import H2K, VirtHost, own_libvirt

pytest.importorskip("libvirt", reason="needs python3-libvirt")

URI = "qemu:///system"
DOMAIN = """<domain type="qemu"><name>{name}</name><memory unit="MiB">32</memory><os><type arch="x86_64">hvm</type></os><devices>
<disk type="file" device="disk"><driver name="qemu" type="qcow2"/><source file="{disk}"/><target dev="sda" bus="sata"/></disk>
</devices></domain>"""


@pytest.fixture
def host() -> Iterator[VirtHost]:
    with own_libvirt() as found:
        yield found


def test_domains_that_are_shut_off_and_that_run(host: VirtHost, drivers: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="h2k-survey-test-", dir="/var/tmp") as name:
        top = Path(name)
        top.chmod(0o711)
        for domain in ("rests", "works"):
            disk = Path(shutil.copy(cached()["win2012r2"].disks[0], top / f"{domain}.qcow2"))
            (top / f"{domain}.xml").write_text(DOMAIN.format(name=domain, disk=disk))
        host.run("virsh", "-q", "define", top / "rests.xml")
        host.run("virsh", "-q", "create", top / "works.xml")
        try:
            told = surveyed(host, drivers, top, NOT_READY)
            assert told["rests"]["class"] == "ready to convert" and told["rests"]["flags"] == [], told
            assert (told["works"]["class"], told["works"]["reason"], told["works"]["windows"]) == ("unknown", "running", "")
            told = surveyed(host, drivers, top, READY, "--running")
            assert told["works"]["class"] == "ready to convert" and told["works"]["flags"] == ["running"] and told["works"]["running"], told
            assert told["works"]["windows"].startswith("Windows Server 2012 R2")
        finally:
            host.stop_domains_of("works")


def surveyed(host: VirtHost, drivers: Path, top: Path, status: int, *more: str) -> dict[str, dict[str, Any]]:
    """The rows by the domains' names."""
    out = top / "survey.json"
    env = (f"VIRTIO_WIN={drivers}", f"XDG_STATE_HOME={top}")
    done = host.run("env", *env, H2K, "survey", "--libvirt", URI, "-o", out, *more, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return {row["name"]: row for row in json.loads(out.read_text())["guests"]}
