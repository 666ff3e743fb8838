"""The journal is hostile until it is checked: its shape, its size, whose it is, and which files it may name."""

from __future__ import annotations

import copy
import errno
import json
import os
from pathlib import Path
from typing import Any, Callable

import pytest

from h2k.base.errors import H2kError, Refused
from h2k.disk import journal, overlay
from h2k.disk.blocks import PIECE, Mark
from h2k.disk.journal import JournalFile, checked

MARK = ["ab" * 32, "AAAA"]
DISK = {
    "path": "/vm/g-sda", "format": "raw", "found": 1, "mtime": 2, "pieces": [[0, 512]], "old": [MARK], "new": [MARK],
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "g.h2k"
    path.mkdir(mode=0o711)
    return path


def committing(place: Path, **entry: Any) -> dict[str, Any]:
    file = {"path": "/nvram/g.fd", "work": str(place / "boot" / "nvram.fd"), "undo": str(place / "undo-0-file0")}
    work = {"kind": "boot", "depth": 0, "disks": [copy.deepcopy(DISK)], "files": [file], **entry}
    return {"phase": "committing", "work": work, "stack": []}


def test_what_is_stored_can_be_loaded(place: Path) -> None:
    content = committing(place)
    file = JournalFile(place)
    assert file.load() == {"phase": "idle", "work": None, "stack": []}
    file.store(**content)
    assert file.load() == content
    assert (file.path.stat().st_mode & 0o777) == 0o600


WRONG: dict[str, Callable[[dict[str, Any], Path], object]] = {
    "another phase": lambda j, _: j.update(phase="x"),
    "no stack": lambda j, _: j.pop("stack"),
    "a stack of numbers": lambda j, _: j.update(stack=[1]),
    "work when idle": lambda j, _: j.update(phase="idle"),
    "no work": lambda j, _: j.update(work=None),
    "work of another type": lambda j, _: j.update(work=[]),
    "no disks": lambda j, _: j["work"].update(disks=[]),
    "disks of another type": lambda j, _: j["work"].update(disks={"0": {}}),
    "kind of another type": lambda j, _: j["work"].update(kind=3),
    "depth": lambda j, _: j["work"].update(depth="../.."),
    "a relative path": lambda j, _: j["work"]["disks"][0].update(path="g"),
    "a path that climbs": lambda j, _: j["work"]["disks"][0].update(path="/vm/../etc/x"),
    "a format with options": lambda j, _: j["work"]["disks"][0].update(format="raw,file.filename=/etc/shadow"),
    "a time of another type": lambda j, _: j["work"]["disks"][0].update(mtime=None),
    "true for a number": lambda j, _: j["work"]["disks"][0].update(mtime=True),
    "no pieces": lambda j, _: j["work"]["disks"][0].pop("pieces"),
    "a negative piece": lambda j, _: j["work"]["disks"][0].update(pieces=[[-1, 512]]),
    "a huge piece": lambda j, _: j["work"]["disks"][0].update(pieces=[[0, 1 << 40]]),
    "fewer marks than pieces": lambda j, _: j["work"]["disks"][0].update(old=[]),
    "a mark that is no digest": lambda j, _: j["work"]["disks"][0].update(new=[["x", ""]]),
    "pages that are no base64": lambda j, _: j["work"]["disks"][0].update(new=[["ab" * 32, "A"]]),
    "a work file elsewhere": lambda j, _: j["work"]["files"][0].update(work="/etc/passwd"),
    "an undo file elsewhere": lambda j, _: j["work"]["files"][0].update(undo="/etc/passwd"),
    "an undo file of another commit": lambda j, p: j["work"]["files"][0].update(undo=str(p / "undo-7-file0")),
    "a companion that climbs": lambda j, _: j["work"]["files"][0].update(path="/nvram/../etc/x"),
    "many companions": lambda j, _: j["work"].update(files=j["work"]["files"] * 2),
    "two companions": lambda j, _: j["work"].update(files=[{**j["work"]["files"][0], "undo": None}] * 2),
    "files of another type": lambda j, _: j["work"].update(files="x"),
    "files by name": lambda j, _: j["work"].update(files={}),
    "a piece of one number": lambda j, _: j["work"]["disks"][0].update(pieces=[[0]]),
    "a mark without its pages": lambda j, _: j["work"]["disks"][0].update(old=[["ab" * 32]]),
    "pages of other letters": lambda j, _: j["work"]["disks"][0].update(new=[["ab" * 32, "!!!!"]]),
    "a time after all times": lambda j, _: j["work"]["disks"][0].update(mtime=1 << 80),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_another_shape_is_refused(wrong: str, place: Path) -> None:
    content = committing(place)
    checked(copy.deepcopy(content), place)
    WRONG[wrong](content, place)
    JournalFile(place).path.write_text(json.dumps(content))
    with pytest.raises(Refused, match=r"journal\.json: can't be read.*move the report directory away"):
        JournalFile(place).load()


@pytest.mark.parametrize("text", ["", "[" * 200_000, "\udcff", "7", '{"phase": NaN}'])
def test_what_is_no_journal_is_one_line(text: str, place: Path) -> None:
    JournalFile(place).path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(Refused, match=r"journal\.json: can't be read"):
        JournalFile(place).load()


def test_what_is_wrong_is_told_in_short(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=f"^phase '{'x' * 40}' makes no sense$"):
        checked({"phase": "x" * 41, "work": None, "stack": []}, place)

    def fail(*_: Any) -> None:
        raise ValueError("x" * 201)

    file = JournalFile(place)
    file.store("idle", None, [])
    monkeypatch.setattr(journal, "checked", fail)
    with pytest.raises(Refused, match=f"can't be read: {'x' * 200} "):
        file.load()


def test_one_that_could_not_be_read_back_is_not_written(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = JournalFile(place)
    file.store("idle", None, [])
    monkeypatch.setattr(journal, "JOURNAL_LIMIT", 200)
    with pytest.raises(H2kError, match="more than can be read back"):
        file.store(**committing(place))
    assert file.load()["phase"] == "idle"
    monkeypatch.setattr(journal, "JOURNAL_LIMIT", 10)
    with pytest.raises(Refused, match="larger than 10 bytes"):
        file.load()


def test_one_of_somebody_else_is_not_read(place: Path) -> None:
    file = JournalFile(place)
    file.store("idle", None, [])
    file.path.chmod(0o666)
    with pytest.raises(Refused, match="others can write"):
        file.load()
    file.path.chmod(0o600)
    place.chmod(0o777)
    with pytest.raises(Refused, match="others can write"):
        file.load()


def test_the_reserve_is_there_until_it_is_used(place: Path) -> None:
    file = JournalFile(place)
    file.reserve(1000)
    spare = place / "journal.spare"
    assert spare.stat().st_blocks * 512 >= 2000 and spare.stat().st_mode & 0o777 == 0o600
    file.use_reserve()
    file.use_reserve()
    assert not spare.exists()


def test_the_reserve_has_room_for_the_smallest_journal(place: Path) -> None:
    file = JournalFile(place)
    for size in (0, 100):
        file.reserve(size)
        assert (place / "journal.spare").stat().st_size == 2 * size + 256 * 1024
        file.use_reserve()
    assert (place.stat().st_mode & 0o777) == 0o711


def test_a_reserve_that_there_is_no_room_for_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int, *_: int) -> None:
        handles.append(handle)
        raise OSError(errno.ENOSPC, "No space left on device")

    handles: list[int] = []
    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(H2kError, match=r"no room for it: No space left on device \(free some space"):
        JournalFile(place).reserve(100)
    assert list(place.iterdir()) == []
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handles[0])


def test_a_reserve_is_no_link(place: Path) -> None:
    (place / "journal.spare").symlink_to(place / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        JournalFile(place).reserve(100)
    assert not (place / "elsewhere").exists()


def test_a_boot_that_rewrote_10_gib_has_a_journal() -> None:
    mark = list(vars(Mark.of(bytes(PIECE))).values())
    size = len(json.dumps([[1 << 40, PIECE], mark, mark]))
    assert 10 * 1024 * size < journal.JOURNAL_LIMIT / 4
    assert size < overlay._MARK_SIZE  # what is reserved for a piece


def test_whether_there_is_one(place: Path) -> None:
    file = JournalFile(place)
    assert not file.exists()
    file.path.symlink_to(place / "nowhere")
    assert file.exists()  # and will be refused
    with pytest.raises(Refused, match="a link"):
        file.load()


@pytest.mark.parametrize("phase", ["applying", "kept"])
def test_before_the_commit_the_size_is_known_and_no_pieces(phase: str, place: Path) -> None:
    disk = {"path": "/vm/g-sda", "format": "raw", "mtime": 2, "bytes": 512}
    work = {"kind": "fix", "depth": 0, "disks": [disk], "files": []}
    assert checked({"phase": phase, "work": work, "stack": []}, place)["phase"] == phase
    del disk["bytes"]
    with pytest.raises(ValueError, match="a disk's size makes no sense"):
        checked({"phase": phase, "work": work, "stack": []}, place)
    with pytest.raises(ValueError, match="a disk's pieces"):
        checked({"phase": "rolling-back", "work": work, "stack": []}, place)


def test_the_stack_is_checked_as_the_work_is(place: Path) -> None:
    entry = committing(place)["work"]
    content = {"phase": "idle", "work": None, "stack": [entry]}
    assert checked(copy.deepcopy(content), place) == content
    del entry["depth"]  # as 0.1 has it: the place in the stack is the number
    assert checked(copy.deepcopy(content), place) == content
    with pytest.raises(ValueError, match="undo file"):
        checked({"phase": "idle", "work": None, "stack": [{**entry, "files": []}, entry]}, place)
    entry["disks"][0]["old"] = []
    with pytest.raises(ValueError, match=r"the marks \(old\)"):
        checked(content, place)


@pytest.mark.parametrize(
    ("most", "wrong"),
    [
        (lambda w: w.update(kind="k" * 40), lambda w: w.update(kind="k" * 41)),
        (lambda w: w.update(depth=(1 << 20) - 1, files=[]), lambda w: w.update(depth=1 << 20, files=[])),
        (lambda w: w.update(disks=w["disks"] * 64), lambda w: w.update(disks=w["disks"] * 65)),
        (lambda w: w["disks"][0].update(pieces=[[0, PIECE]]), lambda w: w["disks"][0].update(pieces=[[0, PIECE + 1]])),
        (lambda w: w["disks"][0].update(pieces=[[0, 1]]), lambda w: w["disks"][0].update(pieces=[[0, 0]])),
        (lambda w: w["disks"][0].update(path="/" + "a" * 4095), lambda w: w["disks"][0].update(path="/" + "a" * 4096)),
        (lambda w: w["disks"][0].update(format="f" * 32), lambda w: w["disks"][0].update(format="f" * 33)),
        (lambda w: w["disks"][0].update(mtime=0), lambda w: w["disks"][0].update(mtime=-1)),
        (lambda w: w["disks"][0].update(mtime=(1 << 63) - 1), lambda w: w["disks"][0].update(mtime=1 << 63)),
        (lambda w: w["disks"][0].update(new=[["0" * 64, "A" * 2048]]), lambda w: w["disks"][0].update(new=[["0" * 64, "A" * 2052]])),
        (lambda w: w["disks"][0].update(new=[["0" * 64, ""]]), lambda w: w["disks"][0].update(new=[["0" * 65, ""]])),
        (lambda w: w["files"][0].update(undo=None), lambda w: w["files"][0].update(work=None)),
        (lambda w: w["disks"][0].update(path="/a..b"), lambda w: w["disks"][0].update(path="/a\0b")),
        (lambda w: w["disks"][0].update(new=[["0" * 64, "AA=="]]), lambda w: w["disks"][0].update(new=[["0" * 64, "AA==", ""]])),
    ],
)  # fmt: skip
def test_the_bounds(most: Callable[[Any], object], wrong: Callable[[Any], object], place: Path) -> None:
    content = committing(place)
    most(content["work"])
    checked(content, place)
    content = committing(place)
    wrong(content["work"])
    with pytest.raises(ValueError, match="makes no sense"):
        checked(content, place)


def test_counts_are_bounded(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = committing(place)["work"]
    work["files"] = []
    monkeypatch.setattr(journal, "_MAX_COMMITS", 2)
    checked({"phase": "idle", "work": None, "stack": [work] * 2}, place)
    with pytest.raises(ValueError, match="stack makes no sense"):
        checked({"phase": "idle", "work": None, "stack": [work] * 3}, place)
    monkeypatch.setattr(journal, "_MAX_PIECES", 0)
    with pytest.raises(ValueError, match="a disk's pieces"):
        checked({"phase": "idle", "work": None, "stack": [work]}, place)
