"""Whether Windows loads a driver: the signatures of its file, judged by the plan's list of signers.

Microsoft's pages "Driver signing policy" and "Kernel-mode code signing requirements": on 64-bit Windows the loader wants a
signature in the file of each boot-start driver, Secure Boot or not; 32-bit Windows wants none but under Secure Boot. A
driver that starts later may also be listed in a catalogue whose signer is one of those, once its package is installed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from typing import Callable, Optional

from h2k.base.errors import BadData
from h2k.config.driver_plan import Plan, Role
from h2k.guest.guest import FILE_LIMIT, Guest
from h2k.guest.virtio_win import DriverPackage
from h2k.windows import bcd
from h2k.windows.services import driver_path
from h2k.windows.signature import Signature, read_catalogue, read_signatures
from h2k.windows.version import WindowsVersion

UNSIGNED, TEST_SIGNED, SHA2 = "driver-unsigned", "driver-test-signed", "driver-sha2-unsupported"
FIRST_WITHOUT_CROSS = 14393  # the build of Windows 10 1607
# The updates that teach Windows 7 and 2008 R2 SHA-2: Microsoft security advisory 3033929, and KB4474419.
SHA2_UPDATES = ("KB3033929", "KB4474419")
PACKAGES = "Microsoft\\Windows\\CurrentVersion\\Component Based Servicing\\Packages"
# CurrentState: superseded, installed, and installed for good (Microsoft's "CBS Servicing States Chart"); every other is
# staged or on its way in or out. A superseded package was replaced by a later one, which has its files in a newer version.
PRESENT = (0x50, 0x70, 0x80)
MAX_PACKAGES = 50_000  # keys; a 7 with all its updates has some 10,000


@dataclasses.dataclass(frozen=True)
class Loader:
    """What the loader of a guest takes: its Windows, whether test signatures count, SHA-2 is known (7 and 2008 R2), and
    the firmware has Secure Boot on."""

    windows: WindowsVersion
    test_signing: bool = False
    sha2: bool = True
    secure_boot: bool = False

    @property
    def strict(self) -> bool:
        """Whether a driver that does not pass is not loaded."""
        return self.windows.arch != "x86" or self.secure_boot

    def refuses(self, fault: Fault) -> bool:
        """Whether the fault keeps the driver from loading; 32-bit Windows takes any digest."""
        return self.strict and not (fault.found == SHA2 and self.windows.arch == "x86")


@dataclasses.dataclass(frozen=True)
class Fault:
    """Why a driver is not loaded: the finding's id, and the evidence."""

    found: str
    evidence: str


def read_loader(guest: Guest, secure_boot: bool) -> Loader:
    """What this guest's loader takes, from its BCD and its installed updates."""
    windows = guest.windows
    sha2 = windows.version > (6, 1) or _knows_sha2(guest)
    return Loader(windows, _test_signing(guest), sha2, secure_boot)


def _test_signing(guest: Guest) -> bool:
    """Whether the default loader has testsigning on; a store that can't be read is the boot loader hook's to tell."""
    try:
        loader = bcd.read_bcd(guest.hive("BCD")).default_loader() if guest.has_hive("BCD") else None
    except BadData:
        return False
    return loader is not None and bool(loader.number(bcd.TEST_SIGNING))


def _knows_sha2(guest: Guest) -> bool:
    key = guest.hive("SOFTWARE").key(PACKAGES)
    for package in (key.subkeys() if key is not None else ())[:MAX_PACKAGES]:
        named = any(update in package.name.upper() for update in SHA2_UPDATES)
        if named and package.dword("CurrentState") in PRESENT:
            return True
    return False


Read = Callable[[bytes, str], Sequence[Signature]]


@lru_cache(maxsize=32)
def read_package(data: bytes, name: str) -> tuple[Signature, ...]:
    """read_signatures for the files of a virtio-win, which its source keeps in memory anyway: many guests get the same."""
    return read_signatures(data, name)


def judge(data: bytes, name: str, plan: Plan, loader: Loader, read: Read = read_signatures) -> Optional[Fault]:
    """What keeps this loader from loading a driver's file, or None. The file is a PE that was looked at before."""
    try:
        return _judged(read(data, name), plan, loader)
    except BadData as bad:
        return Fault(UNSIGNED, bad.message.partition(": ")[2])


def judge_late(
    data: bytes, name: str, catalogues: Mapping[str, bytes], plan: Plan, loader: Loader, read: Read = read_signatures
) -> Optional[Fault]:
    """What keeps Windows from loading a driver that does not start at boot: neither its file nor one of these catalogues
    (by their names), which Windows has then, carries a signature that counts."""
    fault = judge(data, name, plan, loader, read)
    if fault is None or any(_listed(data, catalogue, at, plan, loader) for at, catalogue in catalogues.items()):
        return None
    return dataclasses.replace(fault, evidence=f"{fault.evidence}, and no catalogue that counts lists it")


def judge_package(package: DriverPackage, plan: Plan, loader: Loader) -> Optional[Fault]:
    """What keeps Windows from loading the driver of a package. A catalogue counts where the driver does not start at boot
    and the package is whole, so that the first boot installs it."""
    binary = package.driver.service.binary
    data = package.files[binary]
    if package.role.kind == "storage":
        return judge(data, binary, plan, loader, read_package)
    return judge_late(data, binary, {} if package.missing else catalogues_of(package.files), plan, loader, read_package)


def catalogues_of(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The catalogues among a package's files."""
    return {name: data for name, data in sorted(files.items()) if name.lower().endswith(".cat")}


def driver_files(guest: Guest, role: Role, also: str = "") -> dict[str, bytes]:
    """The driver's file of each control set, and the one at `also`, where it is one for this machine: it starts, and no
    other takes its place."""
    paths: dict[str, str] = {}
    for service in (guest.service(number, role.service) for number in guest.control_sets.boot):
        path = driver_path(service, guest.system_root) if service is not None else ""
        paths.setdefault(path.lower(), path)
    paths.setdefault(also.lower(), also)
    found: dict[str, bytes] = {}
    for path in filter(None, paths.values()):
        facts = guest.pe(path)[0]
        if facts is not None and facts.machine == guest.windows.arch:
            found[path] = guest.reader.read(guest.volume, path, FILE_LIMIT)
    return found


def _listed(data: bytes, catalogue: bytes, name: str, plan: Plan, loader: Loader) -> bool:
    try:
        return _judged([read_catalogue(catalogue, name, data)], plan, loader) is None
    except BadData:
        return False


def _judged(signatures: Sequence[Signature], plan: Plan, loader: Loader) -> Optional[Fault]:
    if not signatures:
        return Fault(UNSIGNED, "it carries no signature")
    holding = [s for s in signatures if s.holds]
    if not holding:
        return Fault(UNSIGNED, f"the signature of {signatures[0].signer} is not this file's: it was changed since")
    good = [s for s in holding if trusted(s, plan, loader)]
    if not good and not (loader.test_signing and not loader.secure_boot):
        return Fault(TEST_SIGNED, f"signed by {signer(holding)}, whom {_who(loader)} does not trust")
    if not loader.sha2 and all(s.digest != "sha1" for s in good or holding):
        return Fault(SHA2, f"its only signature is {holding[0].digest.upper()}, and {' or '.join(SHA2_UPDATES)} is not installed")
    return None


def other_drivers(fault: Fault) -> str:
    """How the owner gets a driver that Windows will load."""
    if fault.found == SHA2:
        return "install KB4474419 on the source, get a virtio-win with SHA-1 signatures"
    return "get a virtio-win whose drivers Microsoft has signed for this Windows"


def _who(loader: Loader) -> str:
    return "Windows under Secure Boot" if loader.secure_boot else "the loader of Windows"


def trusted(signature: Signature, plan: Plan, loader: Loader) -> bool:
    """Whether the plan has one of those who certify the signer."""
    known = {s.name.lower(): s for s in plan.signers}
    for issuer in signature.issuers:
        ca = known.get(issuer.lower())
        if ca is not None and not (ca.cross_until and _late(signature, ca.cross_until) and _without_cross(loader)):
            return True
    return False


def _late(signature: Signature, until: str) -> bool:
    return signature.since is None or signature.since >= date.fromisoformat(until)


def _without_cross(loader: Loader) -> bool:
    return loader.secure_boot and loader.windows.version >= (10, 0) and loader.windows.build >= FIRST_WITHOUT_CROSS


def signer(signatures: Sequence[Signature]) -> str:
    """Who signed, for people: "Red Hat, Inc. (VeriSign Class 3 Code Signing 2010 CA)"."""
    first = signatures[0]
    issuer = first.issuers[0] if first.issuers else "?"
    return f"{first.signer} (by its own word)" if issuer == first.signer else f"{first.signer} ({issuer})"
