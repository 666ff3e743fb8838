"""A virtio-win source, directory or ISO: finds the package that the plan names for a Windows, and checks it whole."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Optional, Protocol

from h2k.base.errors import BadData, Refused, UsageError
from h2k.config.driver_plan import Plan, Role
from h2k.disk.open_reader import open_reader
from h2k.disk.reader import Reader, VolumeRef
from h2k.windows.inf import Inf, InfDriver, parse_inf
from h2k.windows.pe import read_pe
from h2k.windows.version import WindowsVersion

MAX_FILE = 64 * 1024 * 1024  # bytes
MAX_PACKAGE = 128 * 1024 * 1024  # bytes of one driver's files
_AGENT = {"amd64": "qemu-ga-x86_64.msi", "x86": "qemu-ga-i386.msi"}


class PackageMissing(Refused):
    """The source has no directory for this Windows and architecture."""


class PackageBad(Refused):
    """The directory is there, and what is in it would not boot."""


@dataclasses.dataclass(frozen=True)
class DriverPackage:
    """A driver for one Windows: where it came from, its INF, and every file that the INF installs, by its lower-case
    name. `missing` names those that the source lacks: the driver boots without them, but can't be installed."""

    role: Role
    directory: str
    inf: Inf
    driver: InfDriver
    files: dict[str, bytes] = dataclasses.field(repr=False)
    missing: tuple[str, ...] = ()


class _Tree(Protocol):
    """Files of a source; paths are '/'-separated and case-insensitive. BadData for what can't be read."""

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
        try:
            found = self._find(path)
            return sorted(e.name for e in found.iterdir()) if found is not None and found.is_dir() else None
        except OSError as e:
            raise BadData(f"{self.root / path}: can't read this directory: {e.strerror}") from e

    def read(self, path: str) -> bytes:
        try:
            found = self._find(path)
            if found is None or not found.is_file():
                raise BadData(f"{self.root / path}: no such driver file")
            if found.stat().st_size > MAX_FILE:
                raise BadData(f"{found}: larger than {MAX_FILE} bytes; not a driver file")
            return found.read_bytes()
        except OSError as e:
            raise BadData(f"{self.root / path}: can't read this driver file: {e.strerror}") from e


class _Iso:
    def __init__(self, reader: Reader) -> None:
        self.reader, self.ref = reader, VolumeRef(0, 0)

    def names(self, path: str) -> Optional[list[str]]:
        stat = self.reader.stat(self.ref, path)
        if stat is None or not stat.directory:
            return None
        return sorted(e.path.rpartition("/")[2] for e in self.reader.listdir(self.ref, path))

    def read(self, path: str) -> bytes:
        return self.reader.read(self.ref, path, MAX_FILE)


class DriverSource:
    """An opened virtio-win directory or ISO."""

    def __init__(self, path: Path, tree: _Tree) -> None:
        self.path, self._tree = path, tree
        self._found: dict[tuple[Role, WindowsVersion], DriverPackage] = {}

    def find(self, plan: Plan, role: Role, windows: WindowsVersion) -> DriverPackage:
        """The package of a role for this Windows, checked: INF parsed, every .sys a PE of its machine type.

        PackageMissing or PackageBad otherwise; another Windows' directory is never taken instead.
        """
        if (role, windows) not in self._found:
            self._found[role, windows] = self._load(plan, role, windows)
        return self._found[role, windows]

    def _load(self, plan: Plan, role: Role, windows: WindowsVersion) -> DriverPackage:
        try:
            directory, names = self._locate(plan, role, windows)
            return self._package(role, windows, directory, names)
        except BadData as bad:
            raise PackageBad(bad.message, hint=f"get an intact virtio-win{_other_bus(role)}") from bad

    def _locate(self, plan: Plan, role: Role, windows: WindowsVersion) -> tuple[str, dict[str, str]]:
        """(directory, lower-case name → name of the files in it that count) of the only place that is right."""
        bucket = plan.bucket(windows)
        way_out = f"get a virtio-win that has it{_other_bus(role)}"
        if bucket is None:
            raise PackageMissing(f"the driver plan has no bucket for {windows.name}", hint=way_out)
        tried = []
        for layout in plan.layouts:
            for os in bucket.directories:
                for arch in plan.architectures.get(windows.arch, ()):
                    path = layout.format(driver=role.driver, os=os, arch=arch)
                    names = {n.lower(): n for n in self._tree.names(path) or ()}
                    if role.inf.lower() in names:
                        skipped = {n for n in names for s in plan.skip if fnmatch.fnmatchcase(n, s.lower())}
                        return path, {low: name for low, name in names.items() if low not in skipped}
                    tried.append(path)
        if not tried:
            raise PackageMissing(f"the driver plan has no directory for {windows.arch}", hint=way_out)
        places = ", ".join(dict.fromkeys(tried))
        raise PackageMissing(f"{self.path}: no {role.inf} for {windows.name} (looked in {places})", hint=way_out)

    def _package(self, role: Role, windows: WindowsVersion, directory: str, names: dict[str, str]) -> DriverPackage:
        shown = f"{self.path}/{directory}"
        name = names.get(role.inf.lower())
        if name is None:
            raise BadData(f"{shown}/{role.inf}: left out by the plan's skip list")
        inf = parse_inf(self._tree.read(f"{directory}/{name}"), f"{shown}/{name}")
        driver = inf.driver(windows, role.ids())
        service = driver.service
        if service.name.lower() != role.service.lower():
            raise BadData(f"{shown}/{name}: installs service {service.name}, the plan says {role.service}")
        if inf.class_guid.lower() != role.class_guid.lower():
            raise BadData(f"{shown}/{name}: class {inf.class_guid or 'missing'}, the plan says {role.class_guid}")
        binary = service.binary.lower()
        wanted = inf.files(windows.arch)
        if binary not in (path.lower() for path in wanted):
            wanted = (*wanted, service.binary)
        files, missing = self._files(wanted, directory, names)
        if binary not in files:
            raise BadData(f"{shown}/{service.binary}: missing, though {role.inf} installs it")
        for driver_file in (f for f in files if f.endswith(".sys")):
            facts = read_pe(files[driver_file], f"{shown}/{driver_file}")
            if facts.machine != windows.arch:
                raise BadData(f"{shown}/{driver_file}: for {facts.machine}, Windows is {windows.arch}")
        driver = dataclasses.replace(driver, service=dataclasses.replace(service, binary=binary))
        return DriverPackage(role, directory, inf, driver, files, missing)

    def _files(
        self, wanted: tuple[str, ...], directory: str, names: dict[str, str]
    ) -> tuple[dict[str, bytes], tuple[str, ...]]:
        """(the package's files by lower-case name, the names that are not there); subdirectories as the INF has them."""
        files: dict[str, bytes] = {}
        missing = []
        for path in wanted:
            below, _, name = path.rpartition("/")
            there = {n.lower() for n in self._tree.names(f"{directory}/{below}") or ()} if below else names
            if name.lower() in there:
                files[path.lower()] = self._tree.read(f"{directory}/{path}")
            else:
                missing.append(path)
            if sum(map(len, files.values())) > MAX_PACKAGE:
                raise BadData(f"{self.path}/{directory}: the package has more than {MAX_PACKAGE} bytes")
        return files, tuple(missing)

    def guest_agent_msi(self, arch: str) -> Optional[tuple[str, bytes]]:
        """(file name, content) of the guest agent's installer, None where the tree has none."""
        wanted = _AGENT.get(arch, "")
        if not self.has_guest_agent_msi(arch):
            return None
        return wanted, self._tree.read(f"guest-agent/{wanted}")

    def has_guest_agent_msi(self, arch: str) -> bool:
        """Whether the tree has the guest agent's installer, which virt-v2v then runs at first boot."""
        return _AGENT.get(arch, "") in (n.lower() for n in self._tree.names("guest-agent") or ())


def _other_bus(role: Role) -> str:
    return ", or convert with --h2k-bus sata" if role.kind == "storage" else ""


@contextmanager
def open_source(path: Path) -> Iterator[DriverSource]:
    """Open a virtio-win directory or ISO; UsageError when it is missing, empty, unreadable or neither."""
    try:
        is_directory = path.is_dir()
        if is_directory and not any(path.iterdir()):
            raise UsageError(f"{path}: the virtio-win directory is empty", hint="unpack virtio-win.iso into it")
        if not path.exists():
            raise UsageError(f"{path}: no such virtio-win ISO or directory", hint="give --h2k-drivers PATH")
    except OSError as e:
        raise UsageError(f"{path}: can't read the virtio-win: {e.strerror}", hint="give --h2k-drivers PATH") from e
    if is_directory:
        yield DriverSource(path, _Directory(path))
        return
    with open_reader([(path, "raw")]) as reader:
        kinds = [v.kind for d in reader.disks for v in d.volumes]
        if kinds != ["iso9660"]:
            raise UsageError(f"{path}: neither a directory nor an ISO 9660 image", hint="give virtio-win.iso")
        yield DriverSource(path, _Iso(reader))
