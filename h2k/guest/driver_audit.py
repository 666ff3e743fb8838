"""What a virtio-win source would do for each Windows: the driver chosen, its directory, who signed it, whether it starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from h2k.base.errors import BadData
from h2k.config.driver_plan import Bucket, Plan, Role
from h2k.guest.driver_signatures import Loader, catalogues_of, judge_package, signer
from h2k.guest.virtio_win import DriverPackage, DriverSource, PackageBad, PackageMissing
from h2k.windows.signature import Signature, read_catalogue, read_signatures
from h2k.windows.version import WindowsVersion

KINDS = ("storage", "network")
LAST_BUILD = 65535  # stands for the builds of a bucket that has no limit


@dataclasses.dataclass(frozen=True)
class Row:
    """One driver for one Windows. `starts`: "yes", "no", or "without Secure Boot"; `why` not. `signed`: the signer
    and the digests, '' without a signature."""

    windows: str
    arch: str
    role: str
    directory: str
    signed: str
    starts: str
    why: str = ""

    def as_json(self) -> dict[str, Any]:
        """The row as `h2k drivers --audit --json` prints it."""
        return dataclasses.asdict(self)

    def text(self) -> str:
        """The row for people."""
        if not self.directory:
            return f"{self.windows} {self.arch}: {self.role}: not there: {self.why}"
        by = f"signed by {self.signed}" if self.signed else "not signed"
        starts = {"yes": "starts", "no": "WILL NOT START", "without Secure Boot": "STARTS ONLY WITHOUT SECURE BOOT"}[self.starts]
        return f"{self.windows} {self.arch}: {self.role}: {self.directory}, {by}: {starts}" + (f" ({self.why})" if self.why else "")


def audit(source: DriverSource, plan: Plan) -> tuple[Row, ...]:
    """Every boot and network driver for every Windows of the plan. Of an architecture for which the source has none of
    them there is no row, but for amd64, which every Windows has."""
    found: list[Row] = []
    for bucket in plan.buckets:
        for arch in plan.architectures:
            rows = list(_rows(source, plan, bucket, arch))
            if arch == "amd64" or any(row.directory for row in rows):
                found += rows
    return tuple(found)


def _rows(source: DriverSource, plan: Plan, bucket: Bucket, arch: str) -> Iterator[Row]:
    windows = _windows(bucket, arch)
    for role in plan.roles:
        if role.kind not in KINDS:
            continue
        try:
            package = source.find(plan, role, windows)
        except (PackageMissing, PackageBad) as e:
            yield Row(bucket.name, arch, role.name, "", "", "no", e.message)
            continue
        yield _row(plan, bucket, role, windows, package)


def _windows(bucket: Bucket, arch: str) -> WindowsVersion:
    """A Windows of the bucket, without any update."""
    build = bucket.min_build or min(bucket.max_build, LAST_BUILD)
    return WindowsVersion(bucket.name, bucket.version, build, arch, bucket.product == "server", "", "", bucket.name)


def _row(plan: Plan, bucket: Bucket, role: Role, windows: WindowsVersion, package: DriverPackage) -> Row:
    def row(starts: str, why: str = "") -> Row:
        return Row(bucket.name, windows.arch, role.name, package.directory, _signed(package), starts, why)

    plain = Loader(windows, sha2=windows.version > (6, 1))
    fault = judge_package(package, plan, plain)
    if fault is not None:
        return row("no" if plain.strict else "yes", fault.evidence)
    secure = judge_package(package, plan, dataclasses.replace(plain, secure_boot=True))
    return row("yes") if secure is None else row("without Secure Boot", secure.evidence)


def _signed(package: DriverPackage) -> str:
    """"Red Hat, Inc. (VeriSign …), SHA1 and SHA256", with "by its catalogue" behind it where that is so; '' without a
    signature."""
    binary = package.driver.service.binary
    try:
        found = read_signatures(package.files[binary], binary)
    except BadData:
        found = ()
    by = ""
    if not found and package.role.kind != "storage":
        found, by = _of_catalogue(package, package.files[binary]), ", by its catalogue"
    digests = " and ".join(dict.fromkeys(s.digest.upper() for s in found))
    return f"{signer(found)}, {digests}{by}" if found else ""


def _of_catalogue(package: DriverPackage, program: bytes) -> tuple[Signature, ...]:
    """The signature of a catalogue of the package that lists its driver."""
    for name, catalogue in catalogues_of(package.files).items():
        try:
            found = read_catalogue(catalogue, name, program)
        except BadData:
            continue
        if found.holds:
            return (found,)
    return ()
