"""A disk of a real Windows, opened for the faults of the matrix: the same interface as tests.guests.surgery, by libguestfs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Optional

from tests.guests.surgery import Surgery, Volume
from tests.windows.steps import StepFailed


class GuestDisk(Surgery):
    """Like Surgery, but nothing is copied out: an appliance mounts the first partition and the last, which is Windows."""

    def __init__(self, image: Path) -> None:
        self.image = image
        self._volumes: dict[str, Volume] = {}
        self._appliance: Any = None

    def __enter__(self) -> GuestDisk:
        import guestfs

        self._appliance = guestfs.GuestFS(python_return_dict=True)
        self._appliance.add_drive_opts(str(self.image), format="qcow2")
        self._appliance.launch()
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        try:
            if kind is None:
                self.flush()
                self._appliance.shutdown()
        finally:
            self._appliance.close()

    def flush(self) -> None:
        self._appliance.umount_all()
        for name in self._volumes:
            self._appliance.rmmountpoint(f"/{name}")
        self._volumes.clear()

    @property
    def size(self) -> int:
        return int(self._appliance.blockdev_getsize64("/dev/sda"))

    def read(self, offset: int, length: int) -> bytes:
        data: bytes = self._appliance.pread_device("/dev/sda", length, offset)
        return data

    def write(self, offset: int, data: bytes) -> None:
        self._appliance.pwrite_device("/dev/sda", data, offset)

    def volume(self, name: str) -> Volume:
        if name not in self._volumes:
            number = 0 if name == "boot" else len(self.partitions()) - 1
            start, size = self.partitions()[number]
            device = f"/dev/sda{number + 1}"
            self._appliance.mkmountpoint(f"/{name}")
            try:
                self._appliance.mount_vfs("", self._appliance.vfs_type(device), device, f"/{name}")
            except RuntimeError as e:
                raise StepFailed("fault", f"{device} can't be mounted to be written: {e}", str(self.image)) from e
            self._volumes[name] = _Mounted(self, self._appliance, f"/{name}", start, size)
        return self._volumes[name]


class _Mounted(Volume):
    """A volume at a mount point of the appliance; names are found without regard to case, as Windows does."""

    def __init__(self, disk: Surgery, appliance: Any, place: str, start: int, size: int) -> None:
        super().__init__(disk, Path(place), start, size)
        self._appliance = appliance

    def _path(self, path: str) -> str:
        """The path as it is spelled on the volume; the last name may be new."""
        parent, _, name = f"{self.file}/{path}".rpartition("/")
        there = str(self._appliance.case_sensitive_path(parent))
        known = [each for each in self._appliance.ls(there) if each.lower() == name.lower()]
        return f"{there}/{known[0] if known else name}"

    def get(self, path: str) -> bytes:
        with tempfile.NamedTemporaryFile() as local:
            self._appliance.download(self._path(path), local.name)
            return Path(local.name).read_bytes()

    def put(self, path: str, data: bytes) -> None:
        with tempfile.NamedTemporaryFile() as local:
            Path(local.name).write_bytes(data)
            self._appliance.upload(local.name, self._path(path))  # over the old content: a hive keeps its descriptor

    def remove(self, path: str) -> None:
        self._appliance.rm(self._path(path))
