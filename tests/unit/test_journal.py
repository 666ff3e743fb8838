"""The journal is hostile until it is checked: its shape, its size, whose it is, and which files it may name."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Callable

import pytest

from h2k.base.errors import H2kError, Refused
from h2k.disk import journal
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
    "files of another type": lambda j, _: j["work"].update(files="x"),
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
    assert spare.stat().st_blocks * 512 >= 2000
    file.use_reserve()
    file.use_reserve()
    assert not spare.exists()
