"""What changes become, file by file: paths as the disk spells them, directories to make, status bytes, backups."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import BadData, Refused
from h2k.engine import apply as engine
from h2k.engine.apply import Backups, apply, work_of
from h2k.engine.writing import FileWrite
from h2k.guest.boot_files import ESP_TYPE
from h2k.guest.changes import DeleteKey, ReplayLogs, SetActive, SetPartitionType, SetValue, WriteFile
from h2k.windows import hive_edit
from h2k.windows.values import dword
from tests.guests.hivelog import make_dirty_pair
from tests.guests.tables import gpt
from tests.unit.memory_reader import MemoryReader, windows_guest


def written(guest: Any, path: str, data: bytes = b"new") -> WriteFile:
    return WriteFile(guest.volume, path, data, "a test")


def test_paths_are_spelt_as_the_disk_has_them(tmp_path: Path) -> None:
    guest = windows_guest(files={"/Windows/System32/drivers/acpi.sys": b"old"})
    changes = [written(guest, "\\windows\\SYSTEM32\\DRIVERS\\ACPI.SYS"), written(guest, "windows/system32/drivers/viostor.sys")]
    (volume,) = work_of(guest, changes, Backups(tmp_path)).volumes
    assert volume.volume.ref == guest.volume and volume.directories == ()
    assert volume.files == (
        FileWrite("/Windows/System32/drivers/acpi.sys", b"new", b"old"),
        FileWrite("/Windows/System32/drivers/viostor.sys", b"new", None),
    )
    assert [p.read_bytes() for p in tmp_path.glob("*ACPI.SYS")] == [b"old"]


def test_missing_directories_are_made_once_each_after_its_parent(tmp_path: Path) -> None:
    guest = windows_guest(files={"/Windows/Temp/.keep": b""})
    changes = [written(guest, "/ProgramData/h2k/a"), written(guest, "/programdata/H2K/b"), written(guest, "/windows/temp/new/c")]
    (volume,) = work_of(guest, changes, Backups(tmp_path)).volumes
    assert volume.directories == ("/ProgramData", "/ProgramData/h2k", "/Windows/Temp/new")
    assert [f.path for f in volume.files] == ["/ProgramData/h2k/a", "/ProgramData/h2k/b", "/Windows/Temp/new/c"]


def test_the_last_content_of_a_file_counts(tmp_path: Path) -> None:
    guest = windows_guest()
    (volume,) = work_of(guest, [written(guest, "/a", b"1"), written(guest, "/a", b"2")], Backups(tmp_path)).volumes
    assert [f.data for f in volume.files] == [b"2"]


def test_a_file_on_the_way_is_no_directory(tmp_path: Path) -> None:
    guest = windows_guest(files={"/Windows/file": b""})
    with pytest.raises(BadData, match="no such directory"):
        work_of(guest, [written(guest, "/Windows/file/below")], Backups(tmp_path))


def test_the_active_flag_is_a_byte_of_each_entry_that_differs(tmp_path: Path) -> None:
    guest = windows_guest(firmware="bios")
    active = [p.number for p in guest.disks[0].table.partitions if p.active]
    other = next(p.number for p in guest.disks[0].table.partitions if not p.active)
    work = work_of(guest, [SetActive(0, other)], Backups(tmp_path))
    assert work.volumes == ()
    assert set(work.bytes) == {(0, 446 + 16 * (n - 1), b"\0") for n in active} | {(0, 446 + 16 * (other - 1), b"\x80")}


def test_a_partition_s_type_is_written_in_both_copies_of_the_table(tmp_path: Path) -> None:
    guest = windows_guest()
    assert isinstance(guest.reader, MemoryReader)
    size = guest.disks[0].info.size
    pieces = gpt(size, {p.number: (p.start, p.size) for p in guest.disks[0].table.partitions})
    image = {at: bytes(data) for at, data in pieces.items()}

    def read_at(disk: int, offset: int, length: int) -> bytes:
        return image.get(offset, b"").ljust(length, b"\0")[:length]

    guest.reader.read_at = read_at  # type: ignore[method-assign]
    work = work_of(guest, [SetPartitionType(0, 1, ESP_TYPE)], Backups(tmp_path))
    assert work.volumes == () and [(disk, offset) for disk, offset, _ in work.bytes] == [
        (0, 1024), (0, 512), (0, size - 512 - 16384), (0, size - 512),
    ]  # fmt: skip
    assert all(uuid.UUID(ESP_TYPE).bytes_le == data[:16] for _, _, data in work.bytes[::2])


# Hives

CONFIG = "/Windows/System32/config"
SET = SetValue("SYSTEM", "Added", "Start", dword(0))


@pytest.fixture
def edits(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The (name, content, edits) of each hive that is edited; the edits are made here instead of in a child."""
    found: list[Any] = []

    def edit(path: Path, wanted: Any) -> None:
        found.append((path.name, path.read_bytes(), list(wanted)))
        hive_edit.edit_hive(path, wanted)

    monkeypatch.setattr(engine, "edit_hive_apart", edit)
    return found


def dirty_guest() -> tuple[Any, bytes, dict[str, bytes]]:
    """(a guest whose SYSTEM is dirty, SYSTEM's bytes, its logs); the logs hold the key Logged."""
    guest, newer = windows_guest(), windows_guest('[Logged]\n"Start"=dword:00000007\n')
    files = guest.reader.files[guest.volume]  # type: ignore[attr-defined]
    data, logs = make_dirty_pair(guest.hive_bytes("SYSTEM"), newer.hive_bytes("SYSTEM"), "new")
    files[f"{CONFIG}/SYSTEM"] = data
    files.update({f"{CONFIG}/SYSTEM.{suffix}": log for suffix, log in logs.items()})
    return windows_guest_of(guest), data, logs


def windows_guest_of(guest: Any) -> Any:
    return type(guest)(guest.reader)


def test_a_hive_and_its_logs_are_backed_up_before_it_is_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guest, data, logs = dirty_guest()
    backups = tmp_path / "backup"
    wanted = {"SYSTEM": data, **{f"SYSTEM.{suffix}": log for suffix, log in logs.items()}}
    seen = []

    def edit(path: Path, wanted: Any) -> None:
        seen.extend(p.name for p in backups.iterdir())

    monkeypatch.setattr(engine, "edit_hive_apart", edit)
    work_of(guest, [SET], Backups(backups))
    assert set(seen) == {*wanted, "SHA256SUMS"} and len(logs) == 2
    assert {name: (backups / name).read_bytes() for name in wanted} == wanted
    sums = dict(reversed(line.split("  ")) for line in (backups / "SHA256SUMS").read_text().splitlines())  # type: ignore[misc]
    assert sums == {name: hashlib.sha256(content).hexdigest() for name, content in wanted.items()}


def test_edits_are_made_on_the_replayed_content(tmp_path: Path, edits: list[Any]) -> None:
    guest, data, _ = dirty_guest()
    (volume,) = work_of(guest, [ReplayLogs("SYSTEM", "1 entry"), SET], Backups(tmp_path / "b")).volumes
    (file,) = volume.files
    assert edits == [("SYSTEM", guest.complete_hive("SYSTEM"), [SET.edit()])] and edits[0][1] != data
    assert (file.path, file.old) == (f"{CONFIG}/SYSTEM", data)
    guest.reader.files[guest.volume] = {f"{CONFIG}/SYSTEM": file.data}
    written = windows_guest_of(guest).hive("SYSTEM")
    assert written.key("Logged") is not None and written.key("Added") is not None


def test_a_replay_alone_edits_nothing(tmp_path: Path, edits: list[Any]) -> None:
    guest, data, _ = dirty_guest()
    (volume,) = work_of(guest, [ReplayLogs("SYSTEM", "1 entry")], Backups(tmp_path / "b")).volumes
    assert [(f.data, f.old) for f in volume.files] == [(guest.complete_hive("SYSTEM"), data)] and edits == []
    assert (tmp_path / "b" / "SYSTEM").read_bytes() == data


def test_all_edits_of_a_hive_are_made_in_one_go_in_their_order(tmp_path: Path, edits: list[Any]) -> None:
    guest = windows_guest("[Old]\n")
    changes = [SET, DeleteKey("SYSTEM", "Old"), SetValue("SOFTWARE", "Made", "Start", dword(1))]
    (volume,) = work_of(guest, changes, Backups(tmp_path / "b")).volumes
    assert [(name, made) for name, _, made in edits] == [
        ("SYSTEM", [changes[0].edit(), changes[1].edit()]), ("SOFTWARE", [changes[2].edit()])
    ]  # fmt: skip
    assert [f.path for f in volume.files] == [f"{CONFIG}/SYSTEM", f"{CONFIG}/SOFTWARE"]
    assert {p.name for p in (tmp_path / "b").iterdir()} == {"SYSTEM", "SOFTWARE", "SHA256SUMS"}


def test_a_hive_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="the DRIVERS hive is missing"):
        work_of(windows_guest(), [SetValue("DRIVERS", "Made", "Start", dword(1))], Backups(tmp_path))


def test_backups_are_their_owner_s_alone_and_none_is_lost(tmp_path: Path) -> None:
    place = tmp_path / "of" / "backup"
    backups = Backups(place)
    for content in (b"one", b"two", b"one", b"three"):
        backups.keep("SYSTEM", content)
    assert {p.name: p.read_bytes() for p in place.iterdir() if p.name != "SHA256SUMS"} == {
        "SYSTEM": b"one", "SYSTEM.1": b"two", "SYSTEM.2": b"three"
    }  # fmt: skip
    assert (place / "SHA256SUMS").read_text().splitlines() == [
        f"{hashlib.sha256(content).hexdigest()}  {name}"
        for name, content in (("SYSTEM", b"one"), ("SYSTEM.1", b"two"), ("SYSTEM.2", b"three"))
    ]
    assert place.stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in place.iterdir()} == {0o600}


@pytest.mark.parametrize(("path", "name"), [("/Windows/a b.sys", "Windows_a_b.sys"), ("/../x\\y", ".._x_y"), ("/" + "a" * 300, "a" * 120)])
def test_a_backup_s_name_is_no_path(path: str, name: str) -> None:
    assert engine._backup_name(path) == name


def test_the_backups_are_kept_before_the_writer_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = windows_guest(files={"/Windows/a": b"old"})
    said: list[str] = []

    def write(overlays: Any, work: Any, writer: str, say: Any) -> str:
        assert (overlays, writer, say) == ([Path("/overlay")], "appliance", said.append)
        assert [f.data for f in work.volumes[0].files] == [b"new"] and (tmp_path / "Windows_a").read_bytes() == b"old"
        return "made"

    monkeypatch.setattr(engine, "write", write)
    assert apply([Path("/overlay")], guest, [written(guest, "/Windows/a")], Backups(tmp_path), "appliance", said.append) == "made"


def test_what_can_not_be_read_is_written_without_a_backup(tmp_path: Path) -> None:
    guest = windows_guest(files={"/Windows/a": b"old"})
    guest.reader.unreadable[(guest.volume, "/windows/a")] = "compressed"  # type: ignore[attr-defined]
    (volume,) = work_of(guest, [written(guest, "/Windows/a")], Backups(tmp_path)).volumes
    assert [(f.data, f.old) for f in volume.files] == [(b"new", None)] and list(tmp_path.iterdir()) == []


def test_backups_follow_no_link(tmp_path: Path) -> None:
    """A report directory came from elsewhere with links in it: of an archive that root unpacked, root's own."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (tmp_path / "backup").symlink_to(victim)
    with pytest.raises(Refused, match="backup: a link"):
        Backups(tmp_path / "backup").keep("SYSTEM", b"x")
    assert list(victim.iterdir()) == []
    (tmp_path / "backup").unlink()
    Backups(tmp_path / "backup").keep("SYSTEM", b"x")
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o700
    (victim / "list").write_text("kept")
    (tmp_path / "backup" / "SHA256SUMS").unlink()
    (tmp_path / "backup" / "SHA256SUMS").symlink_to(victim / "list")
    with pytest.raises(OSError, match="symbolic links"):
        Backups(tmp_path / "backup").keep("SOFTWARE", b"y")
    assert (victim / "list").read_text() == "kept"
