"""Where virt-v2v's -o sends a guest: what h2k does about each, where the result then is, and what is written beside it."""

from __future__ import annotations

import dataclasses
import functools
import glob
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Optional, Protocol

from h2k.base.errors import H2kError, UsageError
from h2k.base.run import run
from h2k.convert.libvirt_result import LibvirtOutput
from h2k.convert.v2v_command import V2vCommand, options_of
from h2k.domain import kubevirt
from h2k.domain.documents import DOCUMENTS, Reader
from h2k.domain.guest_files import GuestFiles, read_description
from h2k.domain.handles import open_guest_files, remembering
from h2k.engine.edited import write_editable
from h2k.engine.report import Report

Say = Callable[[str], None]
# Other names that virt-v2v has for an output.
ALIASES = {
    "osp": "openstack", "rhosp": "openstack", "rhev": "rhv", "ovirt": "rhv", "rhv_upload": "rhv-upload",
    "ovirt-upload": "rhv-upload", "ovirt_upload": "rhv-upload",
}  # fmt: skip
# The result is gone from this machine when virt-v2v ends, so that nothing can be repaired.
LEAVING = frozenset(("glance", "openstack", "rhv", "rhv-upload", "vdsm"))
_DOCUMENTS = {document.mode: document for document in DOCUMENTS}
REPAIRED = (*_DOCUMENTS, "libvirt")
_DISK = "disk="
DOCUMENT_SUFFIXES = {document.suffix: document.mode for document in DOCUMENTS}


class Output(Protocol):
    """One output mode whose result stays on this machine."""

    def fails_at_once(self) -> bool:
        """Whether virt-v2v refuses this output before it reads anything."""

    def require(self) -> None:
        """Refused before the copy where this output could not be written after it."""

    def begin(self, disks: Optional[int]) -> None:
        """What must be known from before virt-v2v runs; `disks` is how many it will write, where that is known."""

    def state(self, name: str) -> Path:
        """The report directory of a result of that name."""

    def earlier(self, name: str) -> Optional[GuestFiles]:
        """The result of an earlier run of the same name, where there is one that is about to be written anew."""

    def replaced(self, name: str) -> Sequence[Path]:
        """The files that a result of that name would take the place of."""

    def result(self, name: Optional[str]) -> GuestFiles:
        """What virt-v2v wrote; `name` is None when it alone knew it. H2kError when there is no such result."""

    def accepts(self, domains: Mapping[str, bytes]) -> None:
        """Asked before the first write: Refused for domains of which this output's own files can't be made."""

    def finish(self, target: GuestFiles, report: Report, say: Say) -> None:
        """What this output gets beside bootstrap.xml and final.xml; called when those are written. `say` tells people what
        of their own was kept."""


def leaves(command: V2vCommand) -> bool:
    """Whether the result leaves the machine while virt-v2v runs."""
    return ALIASES.get(command.output_mode, command.output_mode) in LEAVING


def is_nobodys(command: V2vCommand) -> bool:
    """Whether virt-v2v itself will refuse this output: neither it nor h2k knows it."""
    mode = command.output_mode
    if mode in (*REPAIRED, "null") or leaves(command):
        return False
    return f"output:{mode}" not in run(["virt-v2v", "--machine-readable"], check=False).stdout.decode("utf-8", "replace").split()


def choose(command: V2vCommand) -> Optional[Output]:
    """The output of a command; None where there is no result to look at: -o null, and what leaves the machine.

    UsageError for a mode that h2k does not know, and where virt-v2v would start the guest by itself.
    """
    mode = command.output_mode
    if mode == "null" or leaves(command):
        return None
    if mode not in REPAIRED:
        raise UsageError(f"-o {mode}: h2k does not know this output", hint=f"h2k repairs -o {', '.join(REPAIRED)}")
    if mode == "libvirt":
        return LibvirtOutput(command.output_connection, command.output_storage, command.h2k.report, command.define)
    directory = Path(command.output_storage or "")
    own = tuple(_given_places(command)) if mode == "kubevirt" else ()
    return FileOutput(mode, directory, command.h2k.report, command.output_format, command.output_storage is not None, own)


def _given_places(command: V2vCommand) -> Iterator[Path]:
    """The places that the disks are given by -oo disk=FILE, which -o kubevirt has from virt-v2v 2.10 on."""
    for name, value in options_of(command):
        if name == "oo" and value is not None and value.startswith(_DISK):
            yield Path(value[len(_DISK) :]).absolute()


@dataclasses.dataclass
class FileOutput:
    """Disks and a document in a directory: OS/NAME-sda … and OS/NAME.xml, .sh or .yaml."""

    mode: str
    directory: Path
    report: Optional[str] = None
    form: Optional[str] = None
    named: bool = True
    own: tuple[Path, ...] = ()  # the disks' own places in their order, where they were given some
    began: float = 0.0  # seconds since the epoch; before begin() every document counts
    disks: Optional[int] = None

    @property
    def _suffix(self) -> str:
        return _DOCUMENTS[self.mode].suffix

    def fails_at_once(self) -> bool:
        """Without a directory that exists."""
        return not self.named or not self.directory.is_dir()

    def require(self) -> None:
        """A directory asks for nothing else than rights and space, which are asked of every output."""

    def begin(self, disks: Optional[int]) -> None:
        """Remember when, to find the one document that is new."""
        self.began, self.disks = time.time(), disks

    def state(self, name: str) -> Path:
        """OS/NAME.h2k, or what --h2k-report says."""
        return Path(self.report) if self.report else self.directory / f"{name}.h2k"

    def earlier(self, name: str) -> Optional[GuestFiles]:
        """OS/NAME.xml of an earlier run with all of its disks."""
        document = self.directory / f"{name}{self._suffix}"
        if not document.exists():
            return None
        try:
            target = self._read(document)
        except UsageError:  # it names no disks, and they are gone
            return None
        return target if all(path.exists() for path, _ in target.images) else None

    def replaced(self, name: str) -> Sequence[Path]:
        """OS/NAME-sda and so on, or the places that the disks were given."""
        return [*sorted(self.directory.glob(f"{glob.escape(name)}-sd*")), *(path for path in self.own if path.exists())]

    def result(self, name: Optional[str]) -> GuestFiles:
        """OS/NAME.xml with its disks."""
        document = self.directory / f"{name}{self._suffix}"
        if name is None or "/" in name or not self._is_new(document):
            document = self._written(name)
        found = self._read(document)
        return self._as_written(found) if found.beside and self.began else found

    def _read(self, document: Path) -> GuestFiles:
        state = self.state(document.name[: -len(self._suffix)])
        own: Reader = functools.partial(kubevirt.read_target, disks=self.own)
        read = own if self.own else _DOCUMENTS[self.mode].read
        target = read(read_description(document), str(document), document.parent, state)
        images = tuple((path, form or self.form) for path, form in target.images)
        return dataclasses.replace(target, images=images, document=document)

    def _as_written(self, found: GuestFiles) -> GuestFiles:
        """The disks of a document that names none: those that are new. One behind them is that of an earlier conversion.
        H2kError when they are not as many as the source has."""
        count = sum(1 for _ in itertools.takewhile(lambda image: self._is_new(image[0]), found.images))
        if not count or self.disks not in (None, count):
            told = "" if self.disks is None else f", and the source has {self.disks}"
            raise H2kError(
                f"{found.document}: it names no disk; of those beside it virt-v2v wrote {count}{told}",
                hint="give them in their order: h2k fix DISK…, with --bus virtio-scsi where they are to be on that",
            )
        assert found.domain is not None
        domain = dataclasses.replace(found.domain, disks=found.domain.disks[:count])
        return dataclasses.replace(found, images=found.images[:count], domain=domain)

    def _is_new(self, path: Path) -> bool:
        return path.is_file() and path.stat().st_mtime > self.began - 0.1

    def _written(self, name: Optional[str]) -> Path:
        """What virt-v2v wrote under a name that it alone knew, or made of NAME: 2.12 writes a_b.xml for a/b. It is the
        one document that is new in -os, or the one of them in which the guest is called NAME."""
        new = sorted(path for path in self.directory.glob(f"*{self._suffix}") if self._is_new(path))
        if len(new) > 1 and name is not None:
            new = [path for path in new if self._called(path) == name]
        if len(new) != 1:
            hint = f"give -on NAME, or run: h2k post NAME{self._suffix}"
            if name is None or new:
                raise H2kError("virt-v2v alone knows the name of its result", hint=hint)
            raise H2kError(f"{self.directory / f'{name}{self._suffix}'}: virt-v2v wrote no such file", hint=hint)
        return new[0]

    def _called(self, document: Path) -> Optional[str]:
        try:
            domain = self._read(document).domain
        except H2kError:
            return None
        return domain.name if domain is not None else None

    def accepts(self, domains: Mapping[str, bytes]) -> None:
        """Make this output's own form of both domains, to see that it can be made."""
        form = _DOCUMENTS[self.mode].form
        if form is not None and "bootstrap" in domains:
            for phase, xml in domains.items():
                form(xml, phase)

    def finish(self, target: GuestFiles, report: Report, say: Say) -> None:
        """Our own form of the two domains, where this output has one: run scripts for -o qemu, machines for -o kubevirt."""
        writer = _DOCUMENTS[self.mode].write
        if writer is not None and "bootstrap" in report.files:
            report.files.update(writer(target.state, lambda path, data, mode: write_editable(path, data, say, mode)))


def open_result(
    argument: str, report: Optional[str] = None, connection: Optional[str] = None, define: Optional[str] = None
) -> tuple[Output, GuestFiles]:
    """What virt-v2v wrote elsewhere or earlier: NAME.xml, NAME.sh, NAME.yaml, or a domain that libvirt knows.

    `define`: the phase to leave a domain of libvirt defined as. UsageError when it is none of them.
    """
    path = Path(argument)
    mode = DOCUMENT_SUFFIXES.get(path.suffix.lower())
    output: Any
    if mode is not None and (path.exists() or "/" in argument):
        output = FileOutput(mode, path.parent, report)
        if mode == "local":
            return output, open_guest_files([argument], report)
        read_description(path)  # says what is wrong with it
        return output, remembering(output.result(path.name[: -len(path.suffix)]))
    if "/" in argument or path.exists():
        names = ", ".join(f"NAME{suffix}" for suffix in DOCUMENT_SUFFIXES)
        raise UsageError(f"{argument}: no result of virt-v2v", hint=f"give {names} or a domain of libvirt")
    output = LibvirtOutput(connection, None, report, define or "bootstrap")
    return output, remembering(output.result(argument))
