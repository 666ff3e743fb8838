"""A directory as a team has it: many guests in every format that a survey reads, one in twenty broken, and what is true of each.

Few disks are made, each once: overlays share a qcow2, and hard links everything that can't be an overlay.

    python3 -m tests.guests.exports DIRECTORY [COUNT]
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from h2k.engine.finding_entry import REFUSE
from h2k.fleet.look import READY, REFUSED_CLASS, REPAIRS, UNKNOWN
from tests.guests.build import cached, descriptions
from tests.guests.faults import break_disk, by_name
from tests.guests.ova import ovf_text, pack

BROKEN_EVERY = 20
MIB = 1024 * 1024
# Guests whose registry is made too: a dozen.
GUESTS = tuple(name for name, guest in descriptions().items() if "corpus" not in guest)
# How it is called, qemu's name of the format, what qemu-img is told about it.
_FORMS = {
    "raw": ("raw", ()), "qcow2": ("qcow2", ()), "vmdk": ("vmdk", ("-o", "subformat=monolithicSparse")),
    "stream": ("vmdk", ("-o", "subformat=streamOptimized")), "flat": ("vmdk", ("-o", "subformat=monolithicFlat")),
    "vdi": ("vdi", ()), "vhd": ("vpc", ()), "vhdx": ("vhdx", ()), "ova": ("vmdk", ("-o", "subformat=streamOptimized")),
    "vmx": ("vmdk", ("-o", "subformat=monolithicSparse")), "xml": ("raw", ()),
}  # fmt: skip
FORMS = tuple(_FORMS)
_SEEN = {"ova": "qcow2"}  # a disk in an archive is seen through a view of h2k's
# Faults inside of guests. What becomes of each is the fault's own answer.
FAULTS = (
    "hive-dirty:new", "volume-dirty", "hive-unrecoverable", "volume-hibernated:hibr", "bcd-missing", "bcd-device-unresolved:device",
    "volume-encrypted", "disk-dynamic", "esp-type-wrong",
)  # fmt: skip
FAULTY = "win2022"
CUT = {"ova": "ends before", "vhdx": "qemu can't open this image"}  # how a copy that ended early is told; else "is truncated"


@dataclasses.dataclass(frozen=True)
class Made:
    """One source and what a survey must say of it: its class, the made guest on it ("" where none can be seen), qemu's
    name of its format, the ids of what is wrong, and words of the reason."""

    key: str
    kind: str
    guest: str = ""
    format: str = ""
    ids: frozenset[str] = frozenset()
    said: str = ""


class Exports:
    """Makes `count` sources below `top`/exports; what they are made of lies beside that."""

    def __init__(self, top: Path) -> None:
        self.top, self.parts = top / "exports", top / "parts"
        self.made: dict[str, Made] = {}
        self._known = {name: built.disks[0] for name, built in cached().items()}
        for place in (self.top, self.parts, *(self.top / form for form in FORMS)):
            place.mkdir(parents=True)
        self._broken: tuple[Callable[[str], Made], ...] = (
            self._cut("qcow2"), self._fault(0), self._empty, self._fault(1), self._text, self._fault(2), self._cut("ova"),
            self._fault(3), self._without_disk, self._fault(4), self._cut("vhdx"), self._fault(5), self._without_extent,
            self._fault(6), self._cut("vdi"), self._fault(7), self._data, self._fault(8), self._cut("vmdk"), self._no_vmx,
        )  # fmt: skip

    def add(self, count: int) -> None:
        """So many sources more."""
        for number in range(len(self.made), len(self.made) + count):
            name, turn = f"guest{number:04d}", number // BROKEN_EVERY
            if number % BROKEN_EVERY:
                made = self._good(name, FORMS[number % len(FORMS)], GUESTS[number % len(GUESTS)])
            else:
                made = self._broken[turn % len(self._broken)](name)
            self.made[made.key] = made

    def options(self) -> list[str]:
        """What a survey must be told: where the overlays' backing files are."""
        return [word for place in (self._known[FAULTY].parent, self.parts) for word in ("--allow-under", str(place))]

    # Whole guests

    def _good(self, name: str, form: str, guest: str) -> Made:
        place = self._source(name, form, guest, self._known[guest], guest)
        return Made(str(place), READY, guest, _SEEN.get(form, _FORMS[form][0]))

    def _source(self, name: str, form: str, guest: str, disk: Path, part: str) -> Path:
        """The guest in this form; `disk` is its qcow2, and `part` names it among those of which parts are made."""
        folder, uefi = self.top / form, descriptions()[guest]["firmware"] == "uefi"
        if form == "qcow2":
            return _overlay(disk, folder / f"{name}.qcow2")
        have = self._part(form, disk, part)
        if form == "flat":
            _link(have.with_name(f"{have.stem}-flat.vmdk"), folder / f"{name}-flat.vmdk")
            text = have.read_text(encoding="latin-1").replace(f"{have.stem}-flat", f"{name}-flat")
            return _written(folder / f"{name}.vmdk", text)
        if form == "ova":
            archive = self.parts / f"{part}.ova"
            if not archive.exists():
                work = self.parts / f"{part}-ova"
                work.mkdir()
                os.link(have, work / "disk.vmdk")
                (work / "guest.ovf").write_bytes(ovf_text(part, ["disk.vmdk"], uefi))
                pack([work / "guest.ovf", work / "disk.vmdk"], archive, "tar")
            return _link(archive, folder / f"{name}.ova")
        if form == "vmx":
            _link(have, folder / f"{name}.vmdk")
            return _written(folder / f"{name}.vmx", _vmx(name, f"{name}.vmdk", uefi))
        if form == "xml":
            _link(have, folder / f"{name}.disk.raw")
            return _written(folder / f"{name}.xml", _xml(name, folder / f"{name}.disk.raw", uefi))
        suffix = {"stream": "vmdk"}.get(form, form)
        return _link(have, folder / f"{name}.{suffix}")

    def _part(self, form: str, disk: Path, part: str) -> Path:
        """The disk in the form, made once."""
        kind, options = _FORMS[form]
        found = self.parts / f"{part}-{''.join(options[1:]).partition('=')[2]}.{kind}"
        if not found.exists():
            subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", kind, *options, str(disk), str(found)], check=True)
        return found

    # Broken ones

    def _fault(self, number: int) -> Callable[[str], Made]:
        def make(name: str) -> Made:
            fault, form = by_name(FAULTS[number]), FORMS[number % len(FORMS)]
            image = self.parts / f"fault{number}.qcow2"
            if not image.exists():
                image.write_bytes(self._known[FAULTY].read_bytes())
                break_disk(fault, image)
            place = self._source(name, form, FAULTY, image, image.stem)
            kind = REFUSED_CLASS if fault.answer == REFUSE else REPAIRS
            return Made(str(place), kind, FAULTY, _SEEN.get(form, _FORMS[form][0]), frozenset({fault.finding}))

        return make

    def _cut(self, form: str) -> Callable[[str], Made]:
        """A copy that ended early."""

        def make(name: str) -> Made:
            disk = self._known[FAULTY]
            if form == "qcow2":
                data, place = disk.read_bytes(), self.top / form / f"{name}.qcow2"
            else:
                place = self._source(name, form, FAULTY, disk, FAULTY)
                data = place.read_bytes()
                place.unlink()
            place.write_bytes(data[: len(data) // 3])
            return Made(str(place), REFUSED_CLASS, said=CUT.get(form, "is truncated"))

        return make

    def _empty(self, name: str) -> Made:
        return Made(str(_written(self.top / "raw" / f"{name}.raw", "")), REFUSED_CLASS, said="empty")

    def _text(self, name: str) -> Made:
        return Made(str(_written(self.top / "vmdk" / f"{name}.vmdk", "<html>404 Not Found</html>\n")), REFUSED_CLASS, said="a text")

    def _no_vmx(self, name: str) -> Made:
        return Made(str(_written(self.top / "vmx" / f"{name}.vmx", "not a vmx at all\n")), REFUSED_CLASS, said="not key")

    def _without_disk(self, name: str) -> Made:
        return Made(str(_written(self.top / "vmx" / f"{name}.vmx", _vmx(name, f"{name}.vmdk", True))), REFUSED_CLASS, said=f"{name}.vmdk")

    def _without_extent(self, name: str) -> Made:
        place = self._source(name, "flat", FAULTY, self._known[FAULTY], FAULTY)
        (place.parent / f"{name}-flat.vmdk").unlink()
        return Made(str(place), REFUSED_CLASS, said=f"{name}-flat.vmdk")

    def _data(self, name: str) -> Made:
        """A disk without a system."""
        place = self.top / "raw" / f"{name}.raw"
        with open(place, "wb") as file:
            file.write(bytes(510) + b"\x55\xaa")
            file.truncate(64 * MIB)
        return Made(str(place), UNKNOWN, said="not Windows")


def _link(part: Path, place: Path) -> Path:
    os.link(part, place)
    return place


def _written(place: Path, text: str) -> Path:
    place.write_text(text, encoding="latin-1")
    return place


def _overlay(base: Path, place: Path) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(base), str(place)], check=True)
    return place


def _vmx(name: str, disk: str, uefi: bool) -> str:
    firmware = 'firmware = "efi"\n' if uefi else ""
    return (
        f'.encoding = "UTF-8"\nconfig.version = "8"\nvirtualHW.version = "19"\ndisplayName = "{name}"\nmemsize = "2048"\n'
        f'guestOS = "windows2019srvnext-64"\nnumvcpus = "2"\nscsi0.present = "TRUE"\nscsi0.virtualDev = "lsisas1068"\n'
        f'scsi0:0.present = "TRUE"\nscsi0:0.fileName = "{disk}"\nethernet0.present = "TRUE"\nethernet0.virtualDev = "vmxnet3"\n{firmware}'
    )


def _xml(name: str, disk: Path, uefi: bool) -> str:
    firmware = " firmware='efi'" if uefi else ""
    return (
        f"<domain type='kvm'><name>{name}</name><memory unit='MiB'>2048</memory><vcpu>2</vcpu><os{firmware}>"
        "<type arch='x86_64' machine='pc'>hvm</type></os><devices><disk type='file' device='disk'>"
        f"<driver name='qemu' type='raw'/><source file='{disk}'/><target dev='sda' bus='sata'/></disk></devices></domain>\n"
    )


def main(argv: Sequence[str]) -> int:
    """The command of the first lines of this file."""
    exports = Exports(Path(argv[0]))
    exports.add(int(argv[1]) if len(argv) > 1 else 500)
    print(f"{len(exports.made)} sources: h2k survey {shlex.join(exports.options())} {exports.top}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
