"""The look at one guest of a survey, in a worker of the pool: what it is, what becomes of it, what its owner must do."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

from h2k.base.errors import REFUSED, H2kError, InUse, Refused, Unknown, UsageError
from h2k.base.finding import Finding
from h2k.base.option_table import H2K, spelled
from h2k.convert.h2k_options import H2kOptions
from h2k.convert.source import open_source, require_unwritten
from h2k.convert.v2v_command import V2vCommand
from h2k.convert.v2v_scripts import installed_version, restarts, scripts_for
from h2k.disk.checkpoints import checkpoint_beside, is_checkpoint
from h2k.disk.direct_reader import OTHER_WAY
from h2k.disk.image import ImageInfo, probe
from h2k.disk.open_reader import reader_of
from h2k.disk.reader import Reader, ReaderEnded
from h2k.disk.recognize import check_disk
from h2k.domain.facts import DomainFacts
from h2k.domain.guest_files import GuestFiles, read_description
from h2k.engine.examination import SOURCE, Examination, examine_guest
from h2k.engine.pool import Ended
from h2k.engine.report import installed_drivers, windows_facts
from h2k.engine.request import Request, Tools, open_tools
from h2k.fleet.flags import SNAPSHOT, flags_of_domain, flags_of_ovf, flags_of_vmx, roles_of
from h2k.fleet.sources import DISK, LIBVIRT, MISSING, OVA, VMX, XML, Source
from h2k.guest.guest import Guest

READY, REPAIRS, REFUSED_CLASS, UNKNOWN = "ready to convert", "repairs itself", "refused", "unknown"
CLASSES = (READY, REPAIRS, UNKNOWN, REFUSED_CLASS)  # from the best to the worst
_BLOCK = 512  # bytes of st_blocks
# Findings of every guest that changes its hypervisor: a step of the move and no fault of the source.
_OF_THE_MOVE = ("nic-static-stranded", "nic-ghost")
Row = dict[str, Any]


class SurveyLook:
    """The task of the pool: a Source in, its row of the survey out. `scratch` holds what an archive must be unpacked
    into; whoever made it removes it, also after a worker that was killed."""

    def __init__(self, request: Request, scratch: str) -> None:
        self.request, self.scratch = request, scratch
        self._tools: Optional[Tools] = None
        self._open = contextlib.ExitStack()

    def __reduce__(self) -> Any:
        return SurveyLook, (self.request, self.scratch)

    def __call__(self, source: Source) -> Row:
        if self._tools is None:
            os.environ["LIBGUESTFS_CACHEDIR"] = self.scratch  # of this worker process alone
            self._tools = self._open.enter_context(open_tools(self.request))
        return look(self._tools, source)

    def close(self) -> None:
        """Close the tools."""
        self._open.close()


def look(tools: Tools, source: Source) -> Row:
    """The row of one guest; H2kError for what can't be read."""
    if source.kind == MISSING:
        raise Unknown("no such file")
    if source.running and not source.place:
        raise Unknown("running")
    if source.kind == DISK:
        _require_disk(Path(source.place))
    command = V2vCommand(
        passed=(), h2k=H2kOptions(), arguments=(source.place,), input_mode=source.kind, input_connection=source.connection or None
    )
    with open_source(command, lambda _: None) as (files, why):
        if files is None:
            raise Unknown(why)
        infos = [probe(path, form) for path, form in files.images]
        if not source.running:  # who asks for those that run knows that they do
            _require_shut_down(infos)
        with _reading(infos) as reader:
            guest = Guest(reader, tools.request.root)
            seen = examine_guest(tools, guest, SOURCE, files.domain)
            row = {**blank(source), **_seen(seen, files.domain)}
            row["disks"] = [_disk(str(d.info.path), d.info.format, d.info.size, d.info.chain) for d in guest.disks]
            row.update(_windows(guest) if seen.windows else {})
            row["restarts"] = _restarts(tools, source, seen) if row["arch"] else None
        row["flags"] = _flags(source, files)
        row["name"] = files.domain.name if files.domain is not None else source.name
    row["bytes"] = _on_disk([source.place]) if source.kind == OVA else sum(disk["allocated"] for disk in row["disks"])
    return row


@contextlib.contextmanager
def _reading(infos: Sequence[ImageInfo]) -> Iterator[Reader]:
    """The reader of the images; Unknown when it crashed or hung, whoever met it: that is no fault of the guest's."""
    try:
        with reader_of(infos) as reader:
            yield reader
            if reader.failure:
                raise Unknown(reader.failure, hint=OTHER_WAY)
    except ReaderEnded as e:
        raise Unknown(e.message, e.hint) from e


def _require_shut_down(infos: Sequence[ImageInfo]) -> None:
    """Unknown while somebody has the guest's images open for writing: what is read then holds for no moment."""
    try:
        require_unwritten(infos)
    except InUse as e:
        raise Unknown(e.message, e.hint) from e


def _windows(guest: Guest) -> Row:
    """What Windows it is and its roles, of a guest that is refused too; nothing where its hives can't be read."""
    try:
        facts = windows_facts(guest)
        found = {"windows": facts["product"], "build": facts["build"], "arch": facts["arch"], "firmware": guest.firmware}
        return {**found, "roles": roles_of(guest)}
    except H2kError:
        return {}


_virt_v2v = functools.lru_cache(maxsize=1)(installed_version)  # asked once in each worker


def _restarts(tools: Tools, source: Source, seen: Examination) -> int:
    """How often the first boot restarts the guest for virt-v2v's scripts: h2k-qemu-img, which copies disks, stages none."""
    if source.kind == DISK:
        return 0
    version = _virt_v2v()
    return restarts(version, scripts_for(seen, tools.drivers, version))


def _require_disk(path: Path) -> None:
    """Refused for a text or an archive under a disk's name."""
    try:
        check_disk(path)
    except UsageError as e:
        raise Refused(e.message, e.hint) from e


def row_of(ended: Ended) -> Row:
    """The row of a guest, whatever became of the look at it."""
    source: Source = ended.job
    if not ended.error:
        row: Row = ended.result
    else:
        refused = ended.exit_status == REFUSED
        row = {**blank(source), "class": REFUSED_CLASS if refused else UNKNOWN, "reason": spelled(_without_path(ended.error, source), H2K)}
        row["actions"] = [spelled(ended.hint, H2K)] if ended.hint else []
        if source.kind == DISK:
            row["bytes"], place = _on_disk([source.place]), Path(source.place)
            row["flags"] = [SNAPSHOT] if is_checkpoint(place) or checkpoint_beside(place) is not None else []
    row["seconds"] = round(ended.seconds, 3)
    return row


def _without_path(reason: str, source: Source) -> str:
    """The reason without the guest's own file before it, which the row has anyway."""
    for between in (": ", " "):
        while source.place and reason.startswith(source.place + between):
            reason = reason[len(source.place + between) :]
    return reason


def blank(source: Source) -> Row:
    """What is known of a guest before anything is read."""
    return {
        "key": source.key, "name": source.name, "kind": source.kind, "source": source.place or source.name,
        "connection": source.connection, "datastore": source.datastore, "running": source.running,
        "class": UNKNOWN, "reason": "", "windows": "", "build": None, "firmware": "", "arch": "", "disks": [], "nics": [],
        "installs": [], "restarts": None, "repairs": [], "actions": [], "flags": [], "roles": [], "findings": [], "bytes": 0,
        "estimate": None, "seconds": 0.0,
    }  # fmt: skip


def _seen(seen: Examination, domain: Optional[DomainFacts]) -> Row:
    outcome = seen.outcome
    findings = [f.spelled(H2K) for f in seen.report.findings if f.state != "ok"]
    row: Row = {"reason": spelled(outcome.sentence, H2K), "findings": [f.as_json() for f in findings]}
    if not seen.windows:
        return {**row, "class": UNKNOWN, "reason": f"not Windows ({seen.system}): h2k leaves it as it is"}
    row["repairs"] = [found for found in seen.repairs if found not in _OF_THE_MOVE]
    row["class"] = REFUSED_CLASS if outcome.status == REFUSED else REPAIRS if row["repairs"] else READY
    row["installs"] = list(installed_drivers(seen.todo))
    row["actions"] = actions(findings)
    row["nics"] = _nics(seen.report.documents.get("network.json", {}), domain)
    return row


def actions(findings: Iterable[Finding]) -> list[str]:
    """What the owner must do or may want to do, what stops the guest first."""
    wanted = sorted((f for f in findings if f.state in ("refused", "warning") and f.repair), key=lambda f: f.state != "refused")
    return list(dict.fromkeys(f"{f.id}: {f.repair}" for f in wanted))


def _nics(network: dict[str, Any], domain: Optional[DomainFacts]) -> list[Row]:
    """Each adapter that stays behind with what becomes of it, else the cards of the description."""
    if not network:
        cards = domain.nics if domain is not None else ()
        return [{"name": "", "model": c.model or "", "mac": c.mac, "network": c.source, "addresses": [], "fate": "DHCP"} for c in cards]
    found, leaving, assignments = [], set(network.get("leaving", ())), network.get("assignments", {})
    for adapter in network.get("adapters", ()):
        if adapter["guid"] not in leaving:
            continue
        addresses = [*adapter["addresses"], *adapter["addresses6"]]
        to = assignments.get(adapter["guid"], {})
        found.append({
            "name": adapter["name"] or adapter["description"], "model": adapter["description"], "mac": adapter["mac"],
            "network": None, "addresses": addresses, "fate": _fate(addresses, to),
        })  # fmt: skip
    return found


def _fate(addresses: Sequence[str], to: dict[str, Any]) -> str:
    if not addresses:
        return "DHCP"
    return f"carried: {to.get('why', '')}" if to.get("certain") else f"not carried: {to.get('why', 'unknown card')}"


def _disk(path: str, form: str, size: int, chain: Sequence[Path]) -> Row:
    return {"path": path, "format": form, "size": size, "allocated": _on_disk([str(file) for file in chain])}


def _on_disk(places: Iterable[str]) -> int:
    """The bytes that files take on their file system; a directory counts by its files."""
    total = 0
    for place in places:
        with contextlib.suppress(OSError):
            path = Path(place)
            files = [entry for entry in path.iterdir() if entry.is_file()] if path.is_dir() else [path]
            total += sum(file.stat().st_blocks * _BLOCK for file in files)
    return total


def _flags(source: Source, files: GuestFiles) -> list[str]:
    found = ["running"] if source.running else []
    if source.kind == VMX:
        return found + flags_of_vmx(read_description(Path(source.place)).decode("utf-8", "replace"))
    if source.kind in (XML, LIBVIRT) and files.description is not None:
        return found + flags_of_domain(files.description, source.place)
    if source.kind == OVA and files.ovf is not None:
        return found + flags_of_ovf(files.ovf, source.place)
    return found

