"""A virtio-win source, directory or ISO: finds the package that the plan names for a Windows, and checks it whole."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Optional, Protocol

from h2k.disk.reader import Reader, VolumeRef, open_reader
from h2k.errors import BadData, Refused, UsageError
from h2k.plan import Plan, Role
from h2k.windows.inf import Inf, InfDriver, parse_inf
from h2k.windows.pe import read_pe
from h2k.windows.version import WindowsVersion

MAX_FILE = 64 * 1024 * 1024
_AGENT = {"amd64": "qemu-ga-x86_64.msi", "x86": "qemu-ga-i386.msi"}


class PackageMissing(Refused):
    """The source has no directory for this Windows and architecture."""


class PackageBad(Refused):
    """The directory is there, and what is in it would not boot."""


@dataclasses.dataclass(frozen=True)
class DriverPackage:
    """A driver for one Windows: where it came from, its INF, and the files that are worth staging."""

    role: Role
    directory: str
    inf: Inf
    driver: InfDriver
    files: dict[str, bytes] = dataclasses.field(repr=False)


class _Tree(Protocol):
    """Files of a source; paths are '/'-separated and case-insensitive."""

    def names(self, path: str) -> Optional[list[str]]: ...

    def read(self, path: str) -> bytes: ...


class _Directory:
    def __init__(self, root: Path) -> None:
        self.root = root

    def _find(self, path: str) -> Optional[Path]:
        here = self.root
        for part in filter(None, path.split("/")):
            if not here.is_dir():
                return None
            found = next((e for e in sorted(here.iterdir()) if e.name.lower() == part.lower()), None)
            if found is None:
                return None
            here = found
        return here

    def names(self, path: str) -> Optional[list[str]]:
        found = self._find(path)
        return sorted(e.name for e in found.iterdir()) if found is not None and found.is_dir() else None

    def read(self, path: str) -> bytes:
        found = self._find(path)
        if found is None or not found.is_file() or found.stat().st_size > MAX_FILE:
            raise BadData(f"{self.root / path}: no such driver file")
        return found.read_bytes()


class _Iso:
    def __init__(self, reader: Reader) -> None:
        self.reader, self.ref = reader, VolumeRef(0, 0)

    def names(self, path: str) -> Optional[list[str]]:
        stat = self.reader.stat(self.ref, path)
        if stat is None or not stat.directory:
            return None
        return sorted(e.path.rsplit("/", 1)[-1] for e in self.reader.listdir(self.ref, path))

    def read(self, path: str) -> bytes:
        return self.reader.read(self.ref, path, MAX_FILE)


class DriverSource:
    """An opened virtio-win directory or ISO."""

    def __init__(self, path: Path, tree: _Tree) -> None:
        self.path, self._tree = path, tree
        self._found: dict[tuple[str, WindowsVersion], DriverPackage] = {}

    def find(self, plan: Plan, role: Role, windows: WindowsVersion) -> DriverPackage:
        """The package of a role for this Windows, checked: INF parsed, every .sys a PE of its machine type.

        PackageMissing or PackageBad otherwise; another Windows' directory is never taken instead.
        """
        if (role.name, windows) not in self._found:
            self._found[role.name, windows] = self._load(role, windows, *self._locate(plan, role, windows))
        return self._found[role.name, windows]

    def _locate(self, plan: Plan, role: Role, windows: WindowsVersion) -> tuple[str, list[str]]:
        bucket = plan.bucket(windows)
        way_out = "get a virtio-win that has it, or convert with --h2k-bus sata"
        if bucket is None:
            raise PackageMissing(f"the driver plan has no bucket for {windows.name}", hint=way_out)
        tried = []
        for layout in plan.layouts:
            for directory in bucket.directories:
                for arch in plan.architectures.get(windows.arch, ()):
                    path = layout.format(driver=role.driver, os=directory, arch=arch)
                    names = self._tree.names(path)
                    if names is not None and role.inf.lower() in (n.lower() for n in names):
                        kept = [n for n in names if not any(fnmatch.fnmatch(n.lower(), s.lower()) for s in plan.skip)]
                        return path, kept
                    tried.append(path)
        raise PackageMissing(f"{self.path}: no {role.inf} for {windows.name} (looked in {tried[0]} …)", hint=way_out)

    def _load(self, role: Role, windows: WindowsVersion, directory: str, names: list[str]) -> DriverPackage:
        shown = f"{self.path}/{directory}"
        stem = role.inf.rsplit(".", 1)[0].lower()
        try:
            content = {n: self._tree.read(f"{directory}/{n}") for n in names if n.lower().startswith(stem + ".")}
            name = next(n for n in content if n.lower() == role.inf.lower())
            inf = parse_inf(content[name], f"{shown}/{name}")
            driver = inf.driver(windows.version, windows.build, windows.arch)
            files = {n.lower(): data for n, data in content.items()}
            binary = driver.service.binary.lower()
            if binary not in files:
                raise BadData(f"{shown}/{driver.service.binary}: missing, though {role.inf} installs it")
            facts = read_pe(files[binary], f"{shown}/{driver.service.binary}")
            if facts.machine != windows.arch:
                raise BadData(f"{shown}/{driver.service.binary}: for {facts.machine}, Windows is {windows.arch}")
            if driver.service.name.lower() != role.service.lower():
                raise BadData(f"{shown}/{name}: installs service {driver.service.name}, the plan says {role.service}")
            if inf.class_guid.lower() != role.class_guid.lower():
                raise BadData(f"{shown}/{name}: class {inf.class_guid}, the plan says {role.class_guid}")
            self._check_ids(role, driver, f"{shown}/{name}")
        except BadData as bad:
            raise PackageBad(bad.message, hint="get an intact virtio-win, or convert with --h2k-bus sata") from bad
        driver = dataclasses.replace(driver, service=dataclasses.replace(driver.service, binary=binary))
        return DriverPackage(role, directory, inf, driver, files)

    def _check_ids(self, role: Role, driver: InfDriver, name: str) -> None:
        """The INF drives at least one device of the role: a plan with another vendor's ids is caught here."""
        wanted = {f"PCI\\VEN_{d[0]:04X}&DEV_{d[1]:04X}" for d in role.devices}
        if not any(i.startswith(w) for i in driver.ids for w in wanted):
            raise BadData(f"{name}: lists none of {', '.join(sorted(wanted))}")

    def has_guest_agent_msi(self, arch: str) -> bool:
        """Whether the tree has the guest agent's installer, which virt-v2v then runs at first boot."""
        names = self._tree.names("guest-agent")
        return names is not None and _AGENT.get(arch, "") in (n.lower() for n in names)


@contextmanager
def open_source(path: Path) -> Iterator[DriverSource]:
    """Open a virtio-win directory or ISO; UsageError when it is missing, empty, or neither."""
    if path.is_dir():
        if not any(path.iterdir()):
            raise UsageError(f"{path}: the virtio-win directory is empty", hint="unpack virtio-win.iso into it")
        yield DriverSource(path, _Directory(path))
        return
    if not path.exists():
        raise UsageError(f"{path}: no such virtio-win ISO or directory", hint="give --h2k-drivers PATH")
    with open_reader([(path, "raw")]) as reader:
        kinds = [v.kind for d in reader.disks for v in d.volumes]
        if kinds != ["iso9660"]:
            raise UsageError(f"{path}: neither a directory nor an ISO 9660 image", hint="give virtio-win.iso")
        yield DriverSource(path, _Iso(reader))
