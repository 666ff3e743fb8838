"""Domains that libvirt has defined: the result of -o libvirt, its bootstrap phase, and the report directory of each."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

from lxml import etree

from h2k.base.errors import H2kError, Refused, UsageError
from h2k.base.files import write_bytes
from h2k.base.libvirt_connection import connected
from h2k.base.xml import parse_xml
from h2k.boot.definition import BEFORE, free_name
from h2k.boot.phase_domain import MARK
from h2k.boot.tcg import emulate
from h2k.convert.source import volumes_as_files
from h2k.domain.guest_files import GuestFiles, described, read_description
from h2k.engine.report import Report

STATE = f"{{{MARK}}}state"  # of a domain that h2k has defined: its report directory, and the phase it is in


def _xml(connection: Any, name: str) -> Optional[bytes]:
    """The definition of a domain, its disks named by their files; None when there is no such domain."""
    import libvirt

    try:
        domain = connection.lookupByName(name)
    except libvirt.libvirtError as e:
        if e.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise
    return volumes_as_files(connection, domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE).encode(), name)


def _defined(connection: Any, name: str) -> Optional[bytes]:
    """The definition as libvirt has it, with its secrets, so that it can be given back; None where there is none."""
    import libvirt

    try:
        text = connection.lookupByName(name).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
    except libvirt.libvirtError as e:
        if e.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise
    return str(text).encode()


@dataclasses.dataclass
class LibvirtOutput:
    """-o libvirt: the disks are volumes of a pool, and NAME is a domain; `phase` is what it is left defined as."""

    uri: Optional[str]
    pool: Optional[str]
    report: Optional[str]
    phase: str
    known: frozenset[str] = frozenset()

    def fails_at_once(self) -> bool:
        """Never: what virt-v2v notices late, `require` tells before the copy."""
        return False

    def _pool(self, connection: Any) -> Any:
        """The pool by name or UUID, "default" when none is named, as virt-v2v has it."""
        import libvirt

        name = self.pool or "default"
        try:
            return connection.storagePoolLookupByName(name)
        except libvirt.libvirtError:
            return connection.storagePoolLookupByUUIDString(name)

    def require(self) -> None:
        """libvirt answers, and has the pool: virt-v2v itself would only notice when all is copied."""
        import libvirt

        try:
            with connected(self.uri) as connection:
                self._pool(connection)
        except H2kError as e:
            raise Refused(e.message, hint="systemctl start libvirtd (or virtqemud virtstoraged), then the same command") from e
        except libvirt.libvirtError as e:
            raise Refused(f"-os {self.pool or 'default'}: libvirt has no such pool: {e}", hint="virsh pool-list --all") from e

    def begin(self, disks: Optional[int]) -> None:
        """Remember the domains that there are, to find the one that is new."""
        with connected(self.uri) as connection:
            self.known = frozenset(domain.name() for domain in connection.listAllDomains())

    def state(self, name: str) -> Path:
        """NAME.h2k in the pool's directory, or what --h2k-report says."""
        if self.report:
            return Path(self.report)
        with connected(self.uri) as connection:
            path = parse_xml(self._pool(connection).XMLDesc().encode(), "the pool").findtext("target/path")
        if not path:
            raise UsageError(f"-os {self.pool or 'default'}: no pool of type dir", hint="virsh pool-list --details")
        return Path(path) / f"{name}.h2k"

    def earlier(self, name: str) -> Optional[GuestFiles]:
        """None: virt-v2v refuses a name that is taken."""
        return None

    def replaced(self, name: str) -> Sequence[Path]:
        """NAME-sda and so on in the pool."""
        directory = dataclasses.replace(self, report=None).state(name).parent
        return sorted(directory.glob(f"{glob.escape(name)}-sd*"))

    def result(self, name: Optional[str]) -> GuestFiles:
        """The domain that virt-v2v has defined, and NAME.h2k beside its first disk."""
        with connected(self.uri) as connection:
            name = name or self._name_written(connection)
            xml = _xml(connection, name)
        if xml is None:
            raise H2kError(
                f"{name}: libvirt has no such domain", hint="virsh define what virt-v2v wrote, and run: h2k post NAME"
            )
        target = described(xml, name, Path("/"), Path())
        state = Path(self.report) if self.report else target.images[0][0].parent / f"{name}.h2k"
        return dataclasses.replace(target, state=state)

    def _name_written(self, connection: Any) -> str:
        new = {domain.name() for domain in connection.listAllDomains()} - self.known
        if len(new) != 1:
            raise H2kError("virt-v2v alone knows the name of its result", hint="give -on NAME, or run: h2k post NAME")
        return str(new.pop())

    def accepts(self, domains: Mapping[str, bytes]) -> None:
        """libvirt takes every domain that h2k writes."""

    def finish(self, target: GuestFiles, report: Report, say: Callable[[str], None]) -> None:
        """Leave NAME defined as the phase that was asked for, with the way to its report directory in its metadata. What
        it was defined as before, by virt-v2v or by its owner, is kept as a file."""
        if self.phase not in report.files or "bootstrap" not in report.files:
            return  # not ready, or not Windows: as virt-v2v defined it
        state = target.state.resolve()
        state.chmod(state.stat().st_mode | 0o011)  # QEMU's user has to reach the scratch disk
        xml = read_description(state / f"{self.phase}.xml")
        with connected(self.uri, write=True) as connection:
            kvm = has_kvm(connection.getCapabilities())
            name = parse_xml(xml, self.phase).findtext("name") or ""
            before = _defined(connection, name)
            if before is not None:
                copy = free_name(state / BEFORE, before)
                write_bytes(copy, before)
            connection.defineXML(marked_xml(xml, state, self.phase, kvm).decode())
            if before is not None and _defined(connection, name) == before:
                copy.unlink()
            elif before is not None and parse_xml(before, name).find(f"metadata/{STATE}") is not None:
                say(f"{name} was defined otherwise: its former definition is kept in {copy}")
        how = "" if kvm else ", emulated, for this libvirt has no KVM"
        report.files["defined"] = f"{report.guest.get('name', '')} in libvirt, as its {self.phase} domain{how}".lstrip()


def has_kvm(capabilities: str) -> bool:
    """Whether a libvirt takes domains of type kvm, by its own capabilities; it refuses to define others."""
    found = parse_xml(capabilities.encode(), "libvirt's capabilities").iterfind("guest/arch[@name='x86_64']/domain")
    return any(domain.get("type") == "kvm" for domain in found)


def marked_xml(xml: bytes, state: Path, phase: str, kvm: bool = True) -> bytes:
    """The domain with its report directory and phase in its metadata; without `kvm` one that QEMU emulates."""
    domain = parse_xml(xml, phase)
    if not kvm:
        emulate(domain)
    metadata = domain.find("metadata")
    if metadata is None:
        metadata = etree.Element("metadata")
        domain.insert(2, metadata)  # after name and UUID
    etree.SubElement(metadata, STATE, {"phase": phase, "directory": str(state)}, nsmap={"h2k": MARK})
    return bytes(etree.tostring(domain))


def report_directory(argument: str, uri: Optional[str] = None) -> Path:
    """The report directory that is meant: itself, or that of a domain of libvirt, from its metadata or beside its disks.

    UsageError when it is neither.
    """
    if (Path(argument) / "report.json").is_file() or "/" in argument:
        return Path(argument)
    try:
        with connected(uri) as connection:
            xml = _xml(connection, argument)
    except H2kError as e:
        raise UsageError(f"{argument}: no report directory of h2k, and {e.message}", hint="h2k boot NAME.h2k") from e
    if xml is None:
        raise UsageError(f"{argument}: no report directory of h2k, and no domain of libvirt", hint="h2k boot NAME.h2k")
    mark = parse_xml(xml, argument).find(f"metadata/{STATE}")
    places = [Path(mark.get("directory", ""))] if mark is not None else []
    places += [path.parent / f"{argument}.h2k" for path, _ in described(xml, argument, Path("/"), Path()).images]
    for place in places:
        if (place / "report.json").is_file():
            return place
    raise UsageError(f"{argument}: no report of h2k beside its disks", hint=f"run: h2k post {argument}")
