"""What this host can do: KVM that works and not only exists, and the tools that a conversion needs."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Optional

from h2k.base.kvm import probe

VIRT_TOOLS = "/usr/share/virt-tools"
VIRTIO_WIN = (Path("/usr/share/virtio-win/virtio-win.iso"), Path("/usr/share/virtio-win"))
DESCRIPTORS = Path("/usr/share/qemu/firmware")
_KNOWN = "H2K_KVM"  # what a parent process found out, so that its children need not ask again
_MODULES = ("guestfs", "hivex", "libvirt", "nbd", "lxml", "yaml", "click", "jsonschema", "pefile")
# Not in every distribution, and what h2k does without them.
_OPTIONAL = {
    "pytsk3": "disks are read in an appliance, seconds slower",
    "rich": "plain lines instead of progress bars",
    "PIL": "screenshots are kept unread: a guest without signals settles later",
}


@lru_cache(maxsize=1)
def kvm_works() -> bool:
    """Whether a KVM guest really runs here: QEMU is made to show it (h2k/base/kvm.py), once per process tree."""
    if _KNOWN not in os.environ:
        qemu = shutil.which("qemu-system-x86_64") or shutil.which("qemu-kvm", path=f"{os.environ.get('PATH', '')}:/usr/libexec")
        works = os.access("/dev/kvm", os.R_OK | os.W_OK) and qemu is not None and probe(qemu)
        os.environ[_KNOWN] = "yes" if works else "no"
    return os.environ[_KNOWN] == "yes"


def guestfs_settings() -> Optional[str]:
    """Make libguestfs and virt-v2v work here, through the environment; returns the line that tells the user."""
    os.environ.setdefault("LIBGUESTFS_BACKEND", "direct")
    settings = [s for s in os.environ.get("LIBGUESTFS_BACKEND_SETTINGS", "").split(":") if s]
    if kvm_works() or "force_tcg" in settings:
        return None
    os.environ["LIBGUESTFS_BACKEND_SETTINGS"] = ":".join([*settings, "force_tcg"])
    state = "exists and does not work" if os.path.exists("/dev/kvm") else "is missing"
    return f"/dev/kvm {state}: libguestfs and virt-v2v run without it (force_tcg), several times slower"


def runner_programs() -> Optional[Path]:
    """rhsrvany.exe or pvvxsvc.exe, where virt-v2v looks for them; None when neither is there."""
    directory = Path(os.environ.get("VIRT_TOOLS_DATA_DIR", VIRT_TOOLS))
    return next((directory / n for n in ("rhsrvany.exe", "pvvxsvc.exe") if (directory / n).exists()), None)


def virtio_win_path(option: Optional[str] = None) -> Optional[Path]:
    """The virtio-win ISO or directory: the option, $VIRTIO_WIN, then where distributions put it."""
    wanted = option or os.environ.get("VIRTIO_WIN")
    if wanted:
        return Path(wanted)
    return next((path for path in VIRTIO_WIN if path.exists()), None)


@dataclasses.dataclass(frozen=True)
class Check:
    """One fact about the host, and what to do when it is not as it should be."""

    name: str
    ok: bool
    detail: str
    hint: str = ""


def doctor() -> tuple[Check, ...]:
    """Everything that a conversion needs of this host."""
    return (
        Check(
            "KVM",
            kvm_works(),
            "works" if kvm_works() else "does not work; h2k goes on with TCG",
            "enable virtualization, or accept slow boots",
        ),
        *_programs(),
        _kernel(),
        *(
            Check(f"python {name}", importlib.util.find_spec(name) is not None, "", f"install the {name} bindings")
            for name in _MODULES
        ),
        *(
            Check(f"python {name}", True, "" if importlib.util.find_spec(name) else f"not here: {instead}")
            for name, instead in _OPTIONAL.items()
        ),
        _firmware(),
        _drivers(),
        _runner(),
    )


def _programs() -> list[Check]:
    names = ("virt-v2v", "qemu-img", "qemu-nbd", "virsh", "libvirtd")
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [Check(n, shutil.which(n, path=path) is not None, shutil.which(n, path=path) or "missing", f"install {n}") for n in names]


def _kernel() -> Check:
    kernels = sorted(Path("/boot").glob("vmlinuz-*"))
    readable = [k for k in kernels if os.access(k, os.R_OK)]
    detail = str(readable[-1]) if readable else "no kernel in /boot that this user can read"
    return Check("kernel", bool(readable), detail, "libguestfs needs one: chmod +r /boot/vmlinuz-*")


def _firmware() -> Check:
    found = sorted(DESCRIPTORS.glob("*.json")) if DESCRIPTORS.is_dir() else []
    return Check("UEFI firmware", bool(found), f"{len(found)} descriptors in {DESCRIPTORS}", "install ovmf (edk2-ovmf)")


def _drivers() -> Check:
    path = virtio_win_path()
    found = path is not None and path.exists()
    return Check("virtio-win", found, str(path) if found else "not found", "set VIRTIO_WIN or give --h2k-drivers")


def _runner() -> Check:
    path = runner_programs()
    hint = "rhsrvany.exe of Fedora/RHEL into /usr/share/virt-tools; virt-v2v needs it for first-boot scripts"
    return Check("rhsrvany.exe", path is not None, str(path or "not found"), hint)
