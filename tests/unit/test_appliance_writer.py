"""The appliance writer with a libguestfs that notes what it is asked for."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from h2k.base.errors import H2kError
from h2k.disk.reader import Volume, VolumeRef
from h2k.engine import appliance_writer
from h2k.engine.appliance_writer import ApplianceWriter
from h2k.engine.writing import FileWrite, VolumeWrite, Work

SYSTEM = VolumeWrite(
    Volume(VolumeRef(0, 2), 1 << 20, 64 << 20, "ntfs", ""), ("/d", "/d/e"), (FileWrite("/d/a", b"A"), FileWrite("/d/e/b", b"B", b"old"))
)
ESP = VolumeWrite(Volume(VolumeRef(1, 1), 1 << 20, 64 << 20, "fat", ""), (), (FileWrite("/BCD", b"store"),))


class Appliance:
    """A libguestfs appliance: every call is noted, an upload by what the file holds; the call named `fails` does."""

    def __init__(self, fails: str = "", log: str = "EXT4-fs (sdc): mounted\nFAT-fs (sda1): error, dev\n") -> None:
        self.fails, self.log = fails, log
        self.done: list[Any] = []

    def fall(self) -> None:
        raise RuntimeError("appliance closed the connection unexpectedly")

    def __getattr__(self, name: str) -> Any:
        def call(*given: Any, **options: Any) -> Any:
            first, *rest = given or ("",)
            self.done.append((name, Path(first).read_bytes() if name == "upload" else first, *rest, *options.values()))
            if name == self.fails:
                raise RuntimeError(f"{name}: No space left on device")
            return self.log if name == "dmesg" else None

        return call


@pytest.fixture
def appliance(monkeypatch: pytest.MonkeyPatch) -> Appliance:
    found = Appliance()
    monkeypatch.setitem(sys.modules, "guestfs", SimpleNamespace(GuestFS=lambda: found))
    monkeypatch.setattr(appliance_writer, "guestfs_settings", lambda say: None)
    return found


def test_everything_is_written_in_one_session_on_the_overlays(appliance: Appliance) -> None:
    ApplianceWriter().write([Path("/o0"), Path("/o1")], Work(((1, 446, b"table"),), (SYSTEM, ESP)))
    _, (_, [files, sockets]), _, *done = appliance.done
    place = Path(files.partition("=")[2])
    assert (files, sockets) == (f"TMPDIR={place}", f"XDG_RUNTIME_DIR={place}") and not place.exists()
    assert done == [
        ("add_drive_opts", "/o0", "qcow2", "unsafe"), ("add_drive_opts", "/o1", "qcow2", "unsafe"),
        ("config", "-global", "scsi-hd.werror=report"), ("launch", ""),
        ("pwrite_device", "/dev/sdb", b"table", 446),
        ("mount_vfs", "", "ntfs-3g", "/dev/sda2", "/"), ("mkdir", "/d"), ("mkdir", "/d/e"),
        ("upload", b"A", "/d/a"), ("upload", b"B", "/d/e/b"), ("umount", "/"),
        ("mount_vfs", "", "vfat", "/dev/sdb1", "/"), ("upload", b"store", "/BCD"), ("umount", "/"),
        ("sync", ""), ("dmesg", ""), ("shutdown", ""), ("close", ""),
    ]  # fmt: skip


@pytest.mark.parametrize("call", ["launch", "upload", "sync", "shutdown"])
def test_a_failure_is_told_and_the_appliance_ends(appliance: Appliance, call: str) -> None:
    appliance.fails = call
    with pytest.raises(H2kError, match=rf"changes.*: {call}: No space left") as caught:
        ApplianceWriter().write([Path("/o0"), Path("/o1")], Work((), (SYSTEM,)))
    assert caught.value.hint.startswith("the image is as it was")
    assert [name for name, *_ in appliance.done][-2:] == [call, "close"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("critical space allocation error, dev sda, sector 311616", "/place: no space left (the appliance's kernel: critical space allocation error)"),
        ("I/O error, dev sdab, sector 8 op 0x1:(WRITE)", "/place: a write failed (the appliance's kernel: I/O error)"),
    ],
)
def test_a_write_that_only_the_kernel_saw_fail(appliance: Appliance, line: str, told: str) -> None:
    appliance.log = f"[   43.4] SCSI\n[   43.447186] {line}\n"
    with pytest.raises(H2kError) as caught:
        ApplianceWriter().write([Path("/place/o0")], Work((), (SYSTEM,)))
    assert caught.value.message == f"libguestfs could not carry out the changes: {told}"
    assert ("; free some space, then give the same command" in caught.value.hint) == ("space" in line)
    assert [name for name, *_ in appliance.done][-2:] == ["dmesg", "close"]


def test_an_appliance_that_stands_still_is_ended(appliance: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(appliance_writer, "LIMIT", 0.01)
    monkeypatch.setattr(appliance_writer, "launch", lambda *given, **options: frozenset({77}))
    monkeypatch.setattr(os, "kill", lambda pid, number: ended.set() if (pid, number) == (77, signal.SIGKILL) else None)
    monkeypatch.setattr(appliance, "mkdir", lambda path: ended.wait(20) and appliance.fall(), raising=False)
    with pytest.raises(H2kError, match="changes: it took longer than 0 s") as caught:
        ApplianceWriter().write([Path("/o0"), Path("/o1")], Work((), (SYSTEM,)))
    assert caught.value.hint == "the image is as it was" and ended.is_set()
