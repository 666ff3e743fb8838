"""From what the user names to the guest's files: NAME, NAME.xml or NAME.h2k, another description, or disk images.

Whichever is given, the others are found: the images, the description that names them, the report directory.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

from h2k.base.errors import BadData, H2kError, UsageError
from h2k.disk.recognize import check_disk
from h2k.domain import documents
from h2k.domain.documents import Reader
from h2k.domain.facts import BUSES, MAX_DISKS, DomainFacts, remembered, with_a_card
from h2k.domain.guest_files import GuestFiles, described, images_of, read_description
from h2k.domain.libvirt_reader import read_domain_xml, storage_bus
from h2k.domain.ovf import read_ovf
from h2k.domain.vmx import read_vmx

log = logging.getLogger("h2k.files")

REPORT_SUFFIX = ".h2k"
MAX_RECORDS = 64  # earlier records that are looked at
MAX_CANDIDATES = 64  # descriptions beside an image that are looked at
_HINT = "give NAME, NAME.xml, NAME.h2k, a description of the guest, or its disk images"


def _of_vmx(data: bytes, name: str, base: Path, state: Path) -> GuestFiles:
    """The disks of a VMware guest that lie here; its networks are another host's."""
    facts = _moved(read_vmx(data, name))
    return GuestFiles(images_of(facts, base), state, facts)


def _of_ovf(data: bytes, name: str, base: Path, state: Path) -> GuestFiles:
    """The disks of an unpacked OVF that qemu reads as they are."""
    ovf = read_ovf(data, name)
    for file in ovf.files:
        if file.gzip or not (base / file.href).exists():
            if file.chunked and not (base / file.href).exists():
                raise UsageError(
                    f"{name}: {file.href[:80]} was cut into pieces (ovf:chunkSize)",
                    hint="join them in their order: cat HREF.0* > HREF",
                )
            raise UsageError(
                f"{name}: {file.href[:80]} is compressed, or not there", hint=f"h2k-v2v -i ova {base} unpacks it on the way"
            )
    facts = _moved(ovf.domain)
    return GuestFiles(images_of(facts, base), state, facts)


def _moved(facts: DomainFacts) -> DomainFacts:
    """The facts with the cards on libvirt's default network: another hypervisor's networks are not on this host."""
    nics = tuple(dataclasses.replace(nic, kind="network", source="default") for nic in facts.nics)
    return dataclasses.replace(facts, nics=nics)


# In this order NAME and NAME.h2k look for the description beside them.
DOCUMENTS: dict[str, Reader] = {**{document.suffix: document.read for document in documents.DOCUMENTS}, ".vmx": _of_vmx, ".ovf": _of_ovf}


def open_guest_files(arguments: Sequence[str], report_dir: Optional[str] = None) -> GuestFiles:
    """The guest that is meant: NAME, NAME.xml or NAME.h2k, a .vmx, .ovf, .sh or .yaml, or disk images in the domain's
    order. UsageError, in one line, for anything else, a file that is no disk image too. Of a guest that was converted
    its facts are whole: those too that only its source told."""
    return remembering(_named_guest(arguments, report_dir))


def _named_guest(arguments: Sequence[str], report_dir: Optional[str]) -> GuestFiles:
    first = Path(arguments[0])
    found = _handle(first, Path(report_dir) if report_dir else None)
    if found is not None:
        if len(arguments) > 1:
            raise UsageError(
                f"{arguments[1]}: {first} names the whole guest", hint="give it alone, or the disk images alone"
            )
        return found
    images = [Path(argument) for argument in arguments]
    for image in images:
        warning = check_disk(image)
        if warning is not None:
            log.warning("%s", warning)
    return _of_images(images, Path(report_dir) if report_dir else None)


def _handle(path: Path, report_dir: Optional[Path]) -> Optional[GuestFiles]:
    """The guest that a name, a description or a report directory stands for; None when it must be an image."""
    if path.suffix.lower() in DOCUMENTS:
        return open_document(path, report_dir)
    if path.suffix.lower() == ".ova" and path.is_file():
        raise UsageError(f"{path}: an archive", hint=f"h2k-v2v -i ova {path} converts the guest in it")
    if path.is_dir() and (path.suffix == REPORT_SUFFIX or (path / "report.json").is_file()):
        return _of_report(path, report_dir)
    if path.exists():
        return None
    name = path.with_suffix("") if path.suffix == REPORT_SUFFIX else path
    document = _beside(name)
    if document is not None:
        return open_document(document, report_dir)
    state = name.with_name(name.name + REPORT_SUFFIX)
    if state.is_dir():
        return _of_report(state, report_dir)
    raise UsageError(f"{path}: No such file, and neither {name.name}.xml nor {name.name}.h2k", hint=_HINT)


def is_handle(name: str) -> bool:
    """Whether a word names a guest: by a path that is there, by a description's suffix, or by a NAME with one beside it."""
    path = Path(name)
    if path.exists() or "/" in name or path.suffix.lower() in (*DOCUMENTS, REPORT_SUFFIX):
        return True
    return bool(path.suffix) or _beside(path) is not None or path.with_name(f"{path.name}{REPORT_SUFFIX}").is_dir()


def open_document(path: Path, report_dir: Optional[Path] = None) -> GuestFiles:
    """The guest of a description, by its suffix; NAME.h2k beside it is the report directory."""
    state = report_dir or path.with_name(path.stem + REPORT_SUFFIX)
    found = DOCUMENTS[path.suffix.lower()](read_description(path), str(path), path.parent, state)
    return dataclasses.replace(found, document=path)


def _beside(name: Path) -> Optional[Path]:
    """NAME.xml, or another description of that name."""
    paths = (name.with_name(name.name + suffix) for suffix in DOCUMENTS)
    return next((path for path in paths if path.is_file()), None)


# A report directory


def _of_report(path: Path, report_dir: Optional[Path]) -> GuestFiles:
    """The guest of NAME.h2k: by the description beside it, else by the domain in it, else by the disks of its report."""
    state = report_dir or path
    document = _beside(path.with_suffix("")) if path.suffix == REPORT_SUFFIX else None
    if document is not None:
        return open_document(document, state)
    final = path / "final.xml"
    if final.is_file():
        return dataclasses.replace(described(read_description(final), str(final), path, state), document=final)
    return GuestFiles(tuple(_reported(path / "report.json", path.parent)), state)


def _reported(report: Path, base: Path) -> Iterator[tuple[Path, Optional[str]]]:
    """The disks that a report names, or else the newest record that names some: a rollback looks at no guest. BadData
    when none does."""
    if not report.is_file():
        raise UsageError(f"{report.parent}: no report of h2k in it, and no description beside it", hint=_HINT)
    records = sorted((report.parent / "runs").glob("*.json"), reverse=True)[:MAX_RECORDS]
    disks = next(filter(None, map(_disks_of, (report, *records))), None)
    if disks is None or len(disks) > MAX_DISKS:
        raise BadData(f"{report}: names no disks", hint="give the disk images")
    for disk in disks:
        place, form = (disk.get("path"), disk.get("format")) if isinstance(disk, dict) else (None, None)
        if not isinstance(place, str) or not place or "\0" in place or not isinstance(form, str):
            raise BadData(f"{report}: a disk without path or format", hint="give the disk images")
        path = Path(place)
        yield (path if path.exists() or not (base / path.name).exists() else base / path.name), form


def _disks_of(record: Path) -> Optional[list[Any]]:
    try:
        content = json.loads(read_description(record))
    except (ValueError, RecursionError) as e:
        raise BadData(f"{record}: no JSON: {' '.join(str(e).split())[:200]}", hint="give the disk images") from e
    guest = content.get("guest") if isinstance(content, dict) else None
    disks = guest.get("disks") if isinstance(guest, dict) else None
    return disks if isinstance(disks, list) else None


# Disk images


def _of_images(images: Sequence[Path], report_dir: Optional[Path]) -> GuestFiles:
    """The images, with the one domain XML beside them that names just these."""
    own = images[0].with_name(images[0].stem + REPORT_SUFFIX)
    plain = GuestFiles(tuple((image, None) for image in images), report_dir or own)
    naming = list(_naming(images))
    if len(naming) != 1:
        return plain
    document, found = naming[0]
    if len(found.images) != len(images):
        log.warning(
            "%s names %d disks, and %d of them is given: h2k looks at that alone", document, len(found.images), len(images)
        )
        return plain
    if report_dir is None and own.is_dir() and not found.state.is_dir():
        found = dataclasses.replace(found, state=own)  # an earlier run was on the images alone
    return dataclasses.replace(found, state=report_dir or found.state)


def _naming(images: Sequence[Path]) -> Iterator[tuple[Path, GuestFiles]]:
    """The domain XMLs in the first image's directory that name these images in this order, others perhaps too."""
    try:
        candidates = sorted(p for p in images[0].parent.iterdir() if p.suffix.lower() == ".xml" and p.is_file())
    except OSError:  # a directory that may be entered and not listed
        return
    candidates.sort(key=lambda p: not images[0].name.startswith(p.stem))
    for path in candidates[:MAX_CANDIDATES]:
        try:
            found = open_document(path)
        except H2kError:
            continue  # another XML, or a description of something else
        named = [p for p, _ in found.images]
        same = [next((n for n in named if _same(n, image)), None) for image in images]
        if None not in same and (len(named) > len(images) or same == named):
            yield path, found


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


# What was known and decided before


def remembering(files: GuestFiles) -> GuestFiles:
    """The guest with what only the source of its conversion told: virt-v2v's description leaves it out, and the domain in
    its report directory has it."""
    if files.domain is None or files.document == files.state / "final.xml":
        return files
    for name in ("final.xml", "bootstrap.xml"):
        path = files.state / name
        try:
            if path.is_file():
                return dataclasses.replace(files, domain=remembered(files.domain, read_domain_xml(read_description(path), str(path))))
        except (H2kError, OSError) as e:
            log.warning("what the source told is not known any more: %s", e)
    return with_cards(files)


def with_cards(files: GuestFiles) -> GuestFiles:
    """The guest with a card where nothing here tells its cards, and a line that says so."""
    domain = with_a_card(files.domain) if files.domain is not None else None
    if domain is files.domain:
        return files
    final = files.state / "final.xml"
    log.warning("%s does not tell the network cards: one is assumed. Change it in %s, then run h2k domains", files.document, final)
    return dataclasses.replace(files, domain=domain)


def known_bus(target: GuestFiles) -> str:
    """The bus that this guest's disks are meant for: what the newer of NAME.h2k/final.xml and its description says (NAME.xml,
    NAME.sh, NAME.yaml), else virtio. It is the default of --bus, so that a guest made for virtio-scsi is not judged for
    virtio-blk."""
    final = target.state / "final.xml"
    told = []
    if final.is_file():
        told.append((final.stat().st_mtime, storage_bus(read_description(final), str(final)), True))
    if target.document != final:
        when = target.document.stat().st_mtime if target.document is not None else 0.0  # libvirt does not tell
        told.append((when, described_bus(target), False))
    for _, bus, ours in sorted(told, key=lambda entry: entry[0], reverse=True):
        if bus is not None and (bus != "sata" or ours):  # virt-v2v's SATA is for want of a driver, or a bootstrap's
            return bus
    return "virtio"


def described_bus(target: GuestFiles) -> Optional[str]:
    """The bus of the disk that a guest starts from, as its description says: one of h2k's, else None."""
    if target.description is not None:
        return storage_bus(target.description, str(target.document or target.state))
    disks = target.domain.disks if target.domain is not None else ()
    first = min(disks, key=lambda disk: (disk.boot_order is None, disk.boot_order or 0), default=None)
    return first.bus if first is not None and first.bus in BUSES else None
