"""`h2k doctor`: everything that a conversion or a boot needs of this host, its version, and the way to what lacks."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable

from h2k import __version__
from h2k.base.host import VIRT_TOOLS, kvm_works, runner_programs, virtio_win_path
from h2k.base.run import CommandFailed, run

DESCRIPTORS = Path("/usr/share/qemu/firmware")
BOOT = Path("/boot")
PATH = "/usr/sbin:/sbin:/usr/libexec"  # beside the user's own
_ANSWER = 30  # seconds
# The virtio-win project's stable builds (virtio-win-pkg-scripts, README).
_ISO = "https://fedorapeople.org/groups/virt/virtio-win/direct-downloads/stable-virtio/virtio-win.iso"
_EL_RUNNER = "dnf install mingw-srvany-redistributable"


@dataclasses.dataclass(frozen=True)
class Check:
    """One fact about the host, and what to do when it is not as it should be: in words, on Debian, on EL and Fedora.

    `needed` is the job that lacks it: "conversions", "boots" (h2k boot alone), or "" for what is only better to have.
    """

    name: str
    ok: bool
    detail: str
    hint: str = ""
    debian: str = ""
    el: str = ""
    needed: str = "conversions"


@dataclasses.dataclass(frozen=True)
class Module:
    """A Python module: its distribution's packages, and what h2k does without it ("" when it does not run)."""

    name: str
    debian: str
    el: str
    instead: str = ""


_MODULES = (
    Module("guestfs", "python3-guestfs", "python3-libguestfs"),
    Module("hivex", "python3-hivex", "python3-hivex"),
    Module("libvirt", "python3-libvirt", "python3-libvirt"),
    Module("nbd", "python3-libnbd", "python3-libnbd"),
    Module("lxml", "python3-lxml", "python3-lxml"),
    Module("yaml", "python3-yaml", "python3-pyyaml"),
    Module("click", "python3-click", "python3-click"),
    Module("jsonschema", "python3-jsonschema", "python3-jsonschema"),
    Module("pefile", "python3-pefile", "python3-pefile"),
    Module("asn1crypto", "python3-asn1crypto", "python3-asn1crypto"),
    Module("pytsk3", "python3-tsk", "python3-pytsk3", "disks are read in an appliance, seconds slower"),
    Module("rich", "python3-rich", "python3-rich", "plain lines instead of progress bars"),
    Module("jinja2", "python3-jinja2", "python3-jinja2", "h2k report --html writes no page"),
    Module("PIL", "python3-pil", "python3-pillow", "screenshots are kept unread: a guest without signals settles later"),
)
_DISTRIBUTIONS = {"yaml": "PyYAML", "PIL": "Pillow", "jinja2": "Jinja2"}
_SAYS: Mapping[str, Callable[[Any], str]] = {
    "guestfs": lambda module: "{major}.{minor}.{release}".format(**module.GuestFS(python_return_dict=True).version()),
    "nbd": lambda module: str(module.NBD().get_version()),
}
# Program → its packages, the argument that shows its version, and what needs it.
_PROGRAMS = (
    ("virt-v2v", "virt-v2v", "virt-v2v", "--version", "conversions"),
    ("qemu-img", "qemu-utils", "qemu-img", "--version", "conversions"),
    ("qemu-nbd", "qemu-utils", "qemu-img", "--version", "conversions"),
    ("nbdkit", "nbdkit", "nbdkit", "--version", "conversions"),
    ("nbdcopy", "libnbd-bin", "libnbd", "--version", "conversions"),
    ("qemu-system-x86_64", "qemu-system-x86", "qemu-kvm", "--version", "conversions"),
    ("virsh", "libvirt-clients", "libvirt-client", "--version", "boots"),
    ("swtpm", "swtpm swtpm-tools", "swtpm swtpm-tools", "--version", ""),
)
_OTHER_NAMES = {"qemu-system-x86_64": ("qemu-kvm",)}
# A host runs one libvirtd, or a daemon for each part (libvirt's documentation, "daemons").
_DAEMONS = ("virtqemud", "libvirtd")
_NETWORKS = "virtnetworkd"
_SOCKETS = {"virtqemud": Path("/run/libvirt/virtqemud-sock"), "libvirtd": Path("/run/libvirt/libvirt-sock")}


def doctor() -> tuple[Check, ...]:
    """Every check, in the order in which they are shown."""
    return (
        Check("h2k", True, f"{__version__}, Python {platform.python_version()}"),
        _kvm(),
        *_programs(),
        _libvirt(),
        _kernel(),
        *map(_module, _MODULES),
        _firmware(),
        _drivers(),
        _runner(),
    )


def summary(checks: Sequence[Check]) -> str:
    """The last line: what this host is ready for."""
    lacking = {job: ", ".join(c.name for c in checks if not c.ok and c.needed == job) for job in ("conversions", "boots", "")}
    if lacking["conversions"]:
        return f"NOT READY for conversions: {lacking['conversions']}"
    if lacking["boots"]:
        return f"READY for conversions, NOT READY for h2k boot: {lacking['boots']}"
    return f"READY for conversions and boots, slower: {lacking['']}" if lacking[""] else "READY for conversions and boots"


def lines(checks: Sequence[Check]) -> Iterator[str]:
    """What people see: a line for each check, the way to what lacks below it, and one line at the end."""
    for check in checks:
        yield f"{'ok  ' if check.ok else 'LOOK'} {check.name:<18} {check.detail}".rstrip()
        if not check.ok:
            ways = (("", check.hint), ("Debian: ", check.debian), ("EL, Fedora: ", check.el))
            yield from (f"     → {who}{way}" for who, way in ways if way)
    yield f"h2k: {summary(checks)}"


def _kvm() -> Check:
    works = kvm_works()
    detail = "works" if works else "does not work; h2k goes on with TCG, several times slower"
    way = "enable virtualization in firmware and host; where /dev/kvm is there: usermod -aG kvm USER; or accept slow runs"
    return Check("KVM", works, detail, way, needed="")


def _programs() -> Iterator[Check]:
    for name, debian, el, argument, needed in _PROGRAMS:
        found = next(filter(None, map(_find, (name, *_OTHER_NAMES.get(name, ())))), None)
        detail = f"{_version([found, argument])} {found}".strip() if found else "missing"
        way = f"install {name}"
        ok = found is not None or not needed
        yield Check(name, ok, detail, way, f"apt install {debian}", f"dnf install {el}", needed)


def _find(name: str) -> str:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{PATH}") or ""


def _version(argv: Sequence[str]) -> str:
    """The version that a program prints; "" when it does not say."""
    try:
        text = run(argv, check=False, timeout=_ANSWER).stdout.decode("utf-8", "replace")
    except CommandFailed:
        return ""
    found = re.search(r"\b\d+\.\d+[\w.+~-]*", text)
    return found[0] if found else ""


def _libvirt() -> Check:
    """One daemon of libvirt's or the modular ones; which runs is told by its socket, for neither must run to convert."""
    installed = [name for name in _DAEMONS if _find(name)]
    running = next((name for name in installed if _SOCKETS[name].exists()), None)
    if not installed:
        way = "install libvirt's daemon"
        return Check(
            "libvirt", False, "neither libvirtd nor virtqemud", way,
            "apt install libvirt-daemon-system", "dnf install libvirt-daemon-kvm", "boots",
        )  # fmt: skip
    if "libvirtd" not in installed and not _find(_NETWORKS):
        way = "libvirt's networks have a daemon of their own here, and guests are on one"
        return Check(
            "libvirt", False, f"{installed[0]} without {_NETWORKS}", way,
            "apt install libvirt-daemon-system", "dnf install libvirt-daemon-driver-network", "boots",
        )  # fmt: skip
    state = f"{running} listens" if running else f"{installed[0]} is installed; it listens on no socket of the system's"
    return Check("libvirt", True, state, needed="boots")


def _kernel() -> Check:
    kernels = sorted(BOOT.glob("vmlinuz-*"))
    readable = [k for k in kernels if os.access(k, os.R_OK)]
    detail = str(readable[-1]) if readable else f"no kernel in {BOOT} that this user can read"
    readable_ = f"chmod +r {BOOT}/vmlinuz-*"
    install = ("apt install linux-image-amd64", "dnf install kernel") if not kernels else (readable_, readable_)
    return Check("kernel", bool(readable), detail, "libguestfs needs one", *install)


def _module(module: Module) -> Check:
    here = importlib.util.find_spec(module.name) is not None
    detail = _module_version(module.name) if here else f"not here: {module.instead}" if module.instead else "missing"
    return Check(
        f"python {module.name}", here or bool(module.instead), detail, f"install the {module.name} bindings",
        f"apt install {module.debian}", f"dnf install {module.el}", "" if module.instead else "conversions",
    )  # fmt: skip


def _module_version(name: str) -> str:
    """What the bindings' library says, or their distribution; hivex says nothing."""
    if name in _SAYS:
        try:
            return _SAYS[name](importlib.import_module(name))
        except (ImportError, RuntimeError, AttributeError) as e:
            return f"can't be used: {e}"
    for distribution in (name, f"{name}-python", _DISTRIBUTIONS.get(name, name)):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def _firmware() -> Check:
    found = sorted(DESCRIPTORS.glob("*.json")) if DESCRIPTORS.is_dir() else []
    detail = f"{len(found)} descriptors in {DESCRIPTORS}"
    return Check("UEFI firmware", bool(found), detail, "install ovmf", "apt install ovmf", "dnf install edk2-ovmf")


def _drivers() -> Check:
    path = virtio_win_path()
    found = path is not None and path.exists()
    get = f"curl -LO {_ISO}; export VIRTIO_WIN=$PWD/virtio-win.iso"
    way = "set VIRTIO_WIN or give --h2k-drivers" if path is None else f"{path} is not there"
    return Check("virtio-win", found, str(path.resolve()) if path is not None and found else "not found", way, get, "dnf install virtio-win (Fedora: from the project's virtio-win.repo)")


def _runner() -> Check:
    path = runner_programs()
    way = "virt-v2v needs it for first-boot scripts: from 2.4 on for every Windows"
    debian = f"from 13 on: apt install rhsrvany; 12: dpkg -i that package of 13, or its rhsrvany.exe into {VIRT_TOOLS}"
    return Check("rhsrvany.exe", path is not None, str(path or "not found"), way, debian, _EL_RUNNER)
