"""What this host can do: KVM that works and not only exists, and where virtio-win and rhsrvany.exe are."""

from __future__ import annotations

import os
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Callable, Optional

from h2k.base.kvm import probe

VIRT_TOOLS = "/usr/share/virt-tools"
RUNNER_STEPS = (
    "Debian 13: apt install rhsrvany; Fedora, EL: dnf install mingw-srvany-redistributable; elsewhere put its rhsrvany.exe "
    f"into {VIRT_TOOLS}, or set VIRT_TOOLS_DATA_DIR"
)
VIRTIO_WIN = (Path("/usr/share/virtio-win/virtio-win.iso"), Path("/usr/share/virtio-win"))
_KNOWN = "H2K_KVM"  # what a parent process found out, so that its children need not ask again


@lru_cache(maxsize=1)
def kvm_works() -> bool:
    """Whether a KVM guest really runs here: QEMU is made to show it (h2k/base/kvm.py), once per process tree."""
    if _KNOWN not in os.environ:
        qemu = shutil.which("qemu-system-x86_64") or shutil.which("qemu-kvm", path=f"{os.environ.get('PATH', '')}:/usr/libexec")
        works = os.access("/dev/kvm", os.R_OK | os.W_OK) and qemu is not None and probe(qemu)
        os.environ[_KNOWN] = "yes" if works else "no"
    return os.environ[_KNOWN] == "yes"


def guestfs_settings(say: Callable[[str], None] = lambda text: None) -> None:
    """Make libguestfs and virt-v2v work here, through the environment; `say` hears that they will be slow.

    To be called before an appliance is started, and not earlier: it starts QEMU to see whether KVM works.
    """
    os.environ.setdefault("LIBGUESTFS_BACKEND", "direct")
    settings = [s for s in os.environ.get("LIBGUESTFS_BACKEND_SETTINGS", "").split(":") if s]
    if "force_tcg" in settings or kvm_works():
        return
    os.environ["LIBGUESTFS_BACKEND_SETTINGS"] = ":".join([*settings, "force_tcg"])
    state = "exists and does not work" if os.path.exists("/dev/kvm") else "is missing"
    say(f"/dev/kvm {state}: libguestfs and virt-v2v run without it (force_tcg), several times slower")


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
