"""The writer that works everywhere: one libguestfs appliance for all the disks of a guest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

from h2k.base.appliance import ended_after, launch, placed
from h2k.base.children import temporary_directory
from h2k.base.host import guestfs_settings
from h2k.disk.reader import VolumeRef
from h2k.engine.writing import VolumeWrite, Work, not_carried_out
from h2k.guest.guest import device

LIMIT = 1800.0  # seconds for all the changes of a guest; then the appliance is ended
_LOST = re.compile(r"(?P<what>[\w /]{1,60} error), dev sd[a-z]{1,2}\b")  # a line of Linux, block/blk-core.c, blk_errors
_TYPES = {"ntfs": "ntfs-3g", "fat": "vfat"}  # of a volume's kind, for mount


class ApplianceWriter:
    """Uploads each file over the old one, so that NTFS keeps its security descriptor."""

    name = "appliance"

    def __init__(self, say: Callable[[str], None] = lambda text: None) -> None:
        self._say = say

    def write(self, overlays: Sequence[Path], work: Work) -> None:
        """Carry the work out in one libguestfs session. Raises H2kError."""
        import guestfs

        guestfs_settings(self._say)
        appliance = guestfs.GuestFS()
        with placed(appliance):
            try:
                self._carry_out(appliance, overlays, work)
            except RuntimeError as e:
                raise not_carried_out("libguestfs", str(e)) from e
            finally:
                appliance.close()

    def _carry_out(self, appliance: Any, overlays: Sequence[Path], work: Work) -> None:
        for overlay in overlays:
            appliance.add_drive_opts(str(overlay), format="qcow2", cachemode="unsafe")
        started = launch(appliance, "the changes could not be carried out", hint="the image is as it was; see h2k doctor, and what LIBGUESTFS_DEBUG=1 shows")
        with ended_after(LIMIT, lambda: started) as late:
            try:
                for disk, offset, data in work.bytes:
                    appliance.pwrite_device(device(VolumeRef(disk, 0)), data, offset)
                for volume in work.volumes:
                    _write_volume(appliance, volume)
                _check_written(appliance, overlays)
                appliance.shutdown()
            except RuntimeError as e:
                if late.is_set():
                    raise not_carried_out("libguestfs", f"it took longer than {LIMIT:.0f} s") from e
                raise


def _check_written(appliance: Any, overlays: Sequence[Path]) -> None:
    """A write that failed behind the file systems' backs: libguestfs' calls succeed, and only the kernel's log tells."""
    appliance.sync()
    lost = _LOST.search(appliance.dmesg())
    if lost:
        what = "no space left" if "space" in lost["what"] else "a write failed"
        raise not_carried_out("libguestfs", f"{overlays[0].parent}: {what} (the appliance's kernel: {lost['what'].strip()})")


def _write_volume(appliance: Any, work: VolumeWrite) -> None:
    # By its type: what mount finds out by itself changes with util-linux, and 2.42 does not know some FAT volumes.
    appliance.mount_vfs("", _TYPES[work.volume.kind], device(work.volume.ref), "/")
    for directory in work.directories:
        appliance.mkdir(directory)
    with temporary_directory("h2k-") as place:
        for number, file in enumerate(work.files):
            local = place / str(number)
            local.write_bytes(file.data)
            appliance.upload(str(local), file.path)
    appliance.umount("/")
