"""The table of virt-v2v's documents: each is read by its row, and what a row starts is what it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from h2k.domain.documents import DOCUMENTS, Document
from tests.guests.stand_in_outputs import MAC, MACHINE, SCRIPT
from tests.unit.machines import LIBVIRT_XML

GOLDEN = Path(__file__).parent / "golden" / "uefi-q35-virtio-1"
SCRIPT_DISK = "    -drive file=/images/g-sda,format=raw,if=none,id=d0,media=disk \\\n"
WRITTEN = {
    "local": LIBVIRT_XML.format(type="file", source="file='/images/g.vmdk'").encode(),
    "qemu": SCRIPT.format(name="g", disks=SCRIPT_DISK, mac=MAC).encode(),
    "kubevirt": MACHINE.format(
        name="g", mac=MAC, disks="{disk: {bus: virtio}, name: disk-0}", volumes="{hostDisk: {path: /images/g-sda, type: Disk}, name: disk-0}"
    ).encode(),
}


def test_each_mode_and_suffix_stands_once() -> None:
    assert len({d.mode for d in DOCUMENTS}) == len({d.suffix for d in DOCUMENTS}) == len(DOCUMENTS)
    assert {d.mode: d.suffix for d in DOCUMENTS} == {"local": ".xml", "qemu": ".sh", "kubevirt": ".yaml"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.mode)
def test_each_reads_its_own(document: Document, tmp_path: Path) -> None:
    found = document.read(WRITTEN[document.mode], f"g{document.suffix}", tmp_path, tmp_path / "g.h2k")
    assert found.images and found.state == tmp_path / "g.h2k"


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d.write is not None], ids=lambda d: d.mode)
def test_what_it_starts_is_what_it_writes(document: Document, tmp_path: Path) -> None:
    assert document.form is not None and document.write is not None and document.start
    written: dict[Path, Any] = {}
    for phase in ("bootstrap", "final"):
        (tmp_path / f"{phase}.xml").write_bytes(GOLDEN.with_suffix(f".{phase}.xml").read_bytes())
    told = document.write(tmp_path, lambda path, data, mode: written.update({path: data}))
    assert Path(told[document.bootstrap]) in written and len(told) == 2
    first, last = (document.form(GOLDEN.with_suffix(f".{phase}.xml").read_bytes(), phase) for phase in ("bootstrap", "final"))
    assert first and last and first != last
