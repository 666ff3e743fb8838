"""Undo data: what proves a disk, until when a run can have written, how much room a commit takes, firmware variables."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from h2k.base.errors import H2kError, Refused
from h2k.disk import undo
from h2k.disk.blocks import Mark
from tests.unit.fake_images import Guest

SIZE = 4096
OLD, NEW, OTHER, ZERO = (list(vars(Mark.of(bytes([n]) * SIZE)).values()) for n in (1, 2, 3, 0))


def disk(now: list[list[str]], monkeypatch: pytest.MonkeyPatch, new: list[list[str]]) -> dict[str, Any]:
    monkeypatch.setattr(undo, "marks", lambda _: undo.as_marks(now))
    return {"path": "/x", "format": "raw", "pieces": [[n * SIZE, SIZE] for n in range(len(new))], "old": [OLD] * len(new), "new": new}


@pytest.mark.parametrize(
    ("now", "new", "proves"),
    [
        ([NEW, OTHER], [NEW, NEW], True), ([OTHER, OTHER], [NEW, NEW], False), ([ZERO, ZERO], [ZERO, NEW], False),
        ([ZERO], [ZERO], False), ([OLD], [OLD], False), ([ZERO, NEW], [ZERO, NEW], True),
    ],
)  # fmt: skip
def test_zeros_and_what_was_there_before_prove_nothing(
    now: list[list[str]], new: list[list[str]], proves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert undo.holds_any(disk(now, monkeypatch, new)) == proves


def test_all_pieces_are_old_or_new(monkeypatch: pytest.MonkeyPatch) -> None:
    assert undo.holds(disk([NEW, NEW], monkeypatch, [NEW, NEW]), "new")
    assert not undo.holds(disk([NEW, OLD], monkeypatch, [NEW, NEW]), "new")
    assert not undo.holds(disk([NEW, OLD], monkeypatch, [NEW, NEW]), "old")
    assert undo.holds(disk([OLD, OLD], monkeypatch, [NEW, NEW]), "old")


def test_a_write_of_somebody_else_shows_in_size_and_time(tmp_path: Path) -> None:
    (tmp_path / "g").write_bytes(b"12345")
    os.utime(tmp_path / "g", ns=(1, 1_000_000_007))
    assert undo.found(tmp_path / "g") == {"bytes": 5, "mtime": 1_000_000_007}


@pytest.mark.parametrize(
    ("same_time", "size", "now", "another"),
    [
        (False, 2 * SIZE, [OTHER, OTHER], True), (True, 2 * SIZE, [OTHER, OTHER], False), (False, 2 * SIZE, [OTHER, NEW], False),
        (False, 2 * SIZE - 1, [NEW, NEW], True), (False, 2 * SIZE, [ZERO, OLD], True),
        (False, 3 * SIZE, [NEW, NEW], False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("later", [-1, 1])
def test_a_disk_that_was_converted_anew(
    later: int, same_time: bool, size: int, now: list[list[str]], another: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "g").touch()
    known = disk(now, monkeypatch, [NEW, NEW])
    known.update(path=str(tmp_path / "g"), mtime=(tmp_path / "g").stat().st_mtime_ns + later * (not same_time))
    monkeypatch.setattr(undo, "probe", lambda path, form: SimpleNamespace(size=size))
    assert undo.is_another(known) == another


def test_the_time_stamp_goes_down_to_the_commit_below(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in "abc"]
    for path in paths:
        Path(path).touch()
    undone = [{"path": path, "found": found} for path, found in zip(paths, (5, 5, 5))]
    below = [{"path": path, "mtime": mtime} for path, mtime in zip((paths[0], paths[1], paths[0]), (5, 4, 5))]
    undo.hand_down(undone, below)
    now = Path(paths[0]).stat().st_mtime_ns
    assert [disk["mtime"] for disk in below] == [now, 4, 5]  # the second was written in between, the third is another


def test_what_is_saved_before_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(tmp_path, monkeypatch)
    disks = guest.prepared(0xA0)
    found = guest.journal["work"]["disks"][0]
    (guest.state / "undo-3-1.qcow2").write_text("of a run that was killed")
    saved = undo.save_undo(guest.state, 3, 1, disks.overlays[0], found)
    image = guest.state / "undo-3-1.qcow2"
    page = guest.first[0][SIZE : 2 * SIZE]
    assert json.loads(image.read_bytes())["pieces"] == {str(SIZE): page.hex(), str(3 * SIZE): guest.first[0][3 * SIZE :].hex()}
    assert json.loads(image.read_bytes())["size"] == 4 * SIZE and (image.stat().st_mode & 0o777) == 0o600
    assert (saved["pieces"], saved["found"], saved["mtime"]) == ([[SIZE, SIZE], [3 * SIZE, SIZE]], found["mtime"], found["mtime"])
    assert [mark[0] for mark in saved["old"]] == [Mark.of(page).digest, Mark.of(guest.first[0][3 * SIZE :]).digest]
    assert [mark[0] for mark in saved["new"]] == [Mark.of(bytes([n]) * SIZE).digest for n in (0xA0, 0xA1)]
    assert "sync overlay-0.qcow2" in guest.storage.log
    disks.release()


@pytest.mark.parametrize(
    ("pieces", "extents", "bytes_"),
    [
        ([[0, 10]], [[0, 10]], 10), ([[0, 10]], [], 0), ([[5, 10]], [[0, 10]], 5), ([[0, 10], [10, 10]], [[5, 10]], 10),
        ([[0, 4], [8, 4]], [[0, 2], [3, 6]], 4), ([[0, 100]], [[10, 10], [30, 10], [200, 9]], 20),
    ],
)  # fmt: skip
def test_how_much_of_the_pieces_lies_in_the_extents(pieces: list[list[int]], extents: list[list[int]], bytes_: int) -> None:
    assert undo._overlap(pieces, extents) == bytes_


def test_room_is_counted_for_each_file_system(tmp_path: Path) -> None:
    undo.require_room([(tmp_path, 0), (tmp_path, 1)])
    free = os.statvfs(tmp_path).f_bfree * os.statvfs(tmp_path).f_frsize
    with pytest.raises(H2kError, match=r"No space left for the commit.*the disks are what they were.*free some space"):
        undo.require_room([(tmp_path, free // 2), (tmp_path, free // 2)])


EXTENTS = [
    {"start": 0, "length": 10, "depth": 0, "data": True, "zero": False, "offset": 0},
    {"start": 10, "length": 10, "depth": 0, "data": True, "zero": False},  # compressed: it is written anew elsewhere
    {"start": 20, "length": 10, "depth": 1, "data": True, "zero": False, "offset": 0},
    {"start": 30, "length": 10, "depth": 0, "data": False, "zero": True, "offset": 30},
]


def test_the_room_that_a_commit_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, commands = tmp_path / "g", []
    image.touch()

    def run(argv: list[str]) -> Any:
        commands.append(argv)
        return SimpleNamespace(stdout=json.dumps(EXTENTS).encode())

    monkeypatch.setattr(undo, "run", run)
    monkeypatch.setattr(undo, "pieces_of", lambda overlay: [[5, 20], [28, 4]])
    needs = list(undo.room_needed(tmp_path, [(image, "vmdk"), (Path("/dev/null"), "raw")], [tmp_path, tmp_path], 1000))
    # Saved: data in 5…25 and 28…30, of both disks. Taken in the image: all but 5…10. A device takes none.
    assert needs == [(image, 24 - 5), (tmp_path, 1000 + 2 * 22)]
    assert commands[0] == ["qemu-img", "map", "-f", "vmdk", "--output=json", str(image)]


@pytest.mark.parametrize(("root", "free"), [(True, 100 << 20), (False, 50 << 20)])
def test_room_that_root_alone_may_use(root: bool, free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = SimpleNamespace(f_frsize=1, f_bfree=100 << 20, f_bavail=50 << 20)
    monkeypatch.setattr(os, "statvfs", lambda path: facts)
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
    most = (free - (4 << 20)) * 64 // 65  # 4 MiB and a 64th stay free
    undo.require_room([(tmp_path, most - 1)])
    with pytest.raises(H2kError, match=rf"way back: {most / (1 << 20) + 4:.1f} MiB are needed, {free >> 20}\.0 MiB are free"):
        undo.require_room([(tmp_path, most + 2)])
    facts.f_bfree = facts.f_bavail = 0
    undo.require_room([(tmp_path, 0)])  # a commit that takes nothing


@pytest.mark.parametrize("name", ["shadow", "passwd.txt"])
def test_what_could_be_no_firmware_variables(name: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="not a name of firmware variables"):
        undo.require_nvram(tmp_path / name)
    (tmp_path / name).write_text("x" * 100)
    with pytest.raises(Refused, match="holds no firmware variables"):
        undo.require_nvram(tmp_path / name)


def test_what_are_firmware_variables(tmp_path: Path) -> None:
    undo.require_nvram(tmp_path / "new_VARS.fd")
    for name, data in (("raw", bytes(40) + b"_FVH" + bytes(50)), ("qcow2", b"QFI\xfb" + bytes(50)), ("fresh", b"")):
        (tmp_path / name).write_bytes(data)
        undo.require_nvram(tmp_path / name)
    (tmp_path / "link.fd").symlink_to(tmp_path / "raw")
    with pytest.raises(Refused, match="a link"):
        undo.require_nvram(tmp_path / "link.fd")


VARIABLES, BOOTED = (b"QFI\xfb" + bytes([n]) * 60 for n in (1, 2))


def test_too_much_for_firmware_variables(tmp_path: Path) -> None:
    path = tmp_path / "g.fd"
    path.write_bytes(VARIABLES)
    os.truncate(path, undo.NVRAM_LIMIT)
    undo.require_nvram(path)
    os.truncate(path, undo.NVRAM_LIMIT + 1)
    with pytest.raises(Refused, match=r"67108865 bytes are too many"):
        undo.require_nvram(path)
    with pytest.raises(Refused, match="or not a file"):
        undo.require_nvram(tmp_path)


def test_a_companion_is_kept_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, work, synced = tmp_path / "g.fd", tmp_path / "work", []
    monkeypatch.setattr(undo, "sync", synced.append)
    work.write_bytes(BOOTED)
    assert undo.save_file(tmp_path, 2, 0, work, path) == {"work": str(work), "path": str(path), "undo": None}
    path.write_bytes(VARIABLES)
    path.chmod(0o644)
    (tmp_path / "undo-2-file0").write_bytes(b"of a run that was killed")
    saved = undo.save_file(tmp_path, 2, 0, work, path)
    assert (saved["undo"], saved["mode"], saved["uid"]) == (str(tmp_path / "undo-2-file0"), 0o644, os.geteuid())
    assert (tmp_path / "undo-2-file0").read_bytes() == VARIABLES == path.read_bytes()
    assert (tmp_path / "undo-2-file0").stat().st_mode & 0o777 == 0o600 and synced == [work, work]
    path.write_bytes(b"root:x:0:0" * 10)
    with pytest.raises(Refused, match="holds no firmware variables"):
        undo.save_file(tmp_path, 2, 0, work, path)


@pytest.mark.parametrize(("there", "given", "mode"), [(0o640, 0o666, 0o640), (None, 0o4755, 0o755), (None, None, 0o600)])
def test_a_companion_takes_its_place(there: Any, given: Any, mode: int, tmp_path: Path) -> None:
    path, source = tmp_path / "g.fd", tmp_path / "work"
    source.write_bytes(BOOTED)
    (tmp_path / ".g.fd.h2k-new").write_bytes(b"of a run that was killed")
    if there is not None:
        path.write_bytes(VARIABLES)
        path.chmod(there)
    undo.place_file(source, path, None if given is None else {"mode": given})
    assert (path.read_bytes(), path.stat().st_mode & 0o7777) == (BOOTED, mode)
    assert [file.name for file in tmp_path.iterdir()] == ["g.fd"]


def test_a_companion_keeps_its_owner_and_its_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, done = tmp_path / "g.fd", []
    path.write_bytes(VARIABLES)
    monkeypatch.setattr(os, "chown", lambda path, *owner: done.append(owner))
    monkeypatch.setattr(os, "getxattr", lambda path, name: b"system_u:svirt_image_t:s0\0")
    monkeypatch.setattr(os, "setxattr", lambda path, name, label: done.append((name, label)))
    kept = undo._attributes(path)
    undo._give(path, {**kept, "uid": 107, "gid": 108})
    assert done == [(107, 108), ("security.selinux", b"system_u:svirt_image_t:s0\0")]
    done.clear()
    undo._give(path, {})
    assert done == [(-1, -1)] and path.stat().st_mode & 0o777 == 0o600, "the owner stays"
    undo._give(path, {"label": "not base64!"})  # of a journal that somebody has edited


def test_a_companion_that_can_not_take_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, source = tmp_path / "g.fd", tmp_path / "work"
    source.write_bytes(BOOTED)
    path.write_bytes(VARIABLES)

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(undo, "_give", fail)
    with pytest.raises(OSError, match="No space left"):
        undo.place_file(source, path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["g.fd", "work"] and path.read_bytes() == VARIABLES


def test_what_is_no_companion_is_neither_replaced_nor_removed(tmp_path: Path) -> None:
    path, source = tmp_path / "g.fd", tmp_path / "work"
    source.write_bytes(BOOTED)
    path.write_bytes(b"root:x:0:0" * 10)
    for call in (lambda: undo.place_file(source, path), lambda: undo.remove_file(path)):
        with pytest.raises(Refused, match="holds no firmware variables"):
            call()
    path.write_bytes(VARIABLES)
    undo.remove_file(path)
    undo.remove_file(path)
    assert not path.exists()
