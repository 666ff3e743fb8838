"""Files at one stroke and never through a link; and whose directories and files h2k works with."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from h2k.base.errors import H2kError, Refused
from h2k.base.files import (
    PASSABLE,
    PRIVATE,
    SHARED,
    create,
    drop_temporaries,
    open_own,
    opened_directory,
    own_directory,
    require_trusted,
    write_bytes,
    write_json,
)

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    old = os.umask(request.param)
    yield
    os.umask(old)


def test_the_mode_is_what_was_asked_whatever_the_umask(umask: None, tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"1")
    write_bytes(tmp_path / "b", b"1", SHARED)
    assert (mode(tmp_path / "a"), mode(tmp_path / "b")) == (PRIVATE, SHARED)
    assert mode(own_directory(tmp_path / "deep" / "g.h2k")) == PASSABLE


@pytest.mark.parametrize("there", ["a file", "a link", "a link to nothing"])
def test_what_is_made_was_not_there(there: str, tmp_path: Path) -> None:
    path, victim = tmp_path / "new", tmp_path / "victim"
    (path if there == "a file" else victim).write_text("kept")
    if there != "a file":
        path.symlink_to("victim" if there == "a link" else "nothing")
    with opened_directory(tmp_path) as directory, pytest.raises(FileExistsError):
        create(directory, "new")
    assert not (tmp_path / "nothing").exists() and (path if there == "a file" else victim).read_text() == "kept"


def test_a_file_replaces_another_whole_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_json(path, {"old": 1})
    with path.open() as reader:
        write_json(path, {"new": 2})
        assert "old" in reader.read() and "new" in path.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    for name in ("report.json", "report.json.new", ".report.json.new"):
        (tmp_path / name).symlink_to(victim)
    write_json(tmp_path / "report.json", {})
    assert victim.read_text() == "kept" and not (tmp_path / "report.json").is_symlink()


@pytest.mark.parametrize("name", ["pipe", "stdout"])
def test_a_device_or_a_pipe_is_not_replaced(name: str, tmp_path: Path) -> None:
    """Root would put a file in the place of /dev/null, or of /dev/stdout, which is a link."""
    path = tmp_path / name
    if name == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/proc/self/fd/1")
    before = path.lstat()
    with pytest.raises(H2kError, match=f"{name}: a device or a pipe"):
        write_bytes(path, b"new")
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)


def test_a_failed_write_is_one_line_and_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(H2kError, match=r"x: can't be written: No space left.*free some space"):
        write_bytes(path, b"new")
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_very_long_name_is_one_line(tmp_path: Path) -> None:
    write_bytes(tmp_path / ("ü" * 120), b"")  # 240 bytes: the temporary name is cut
    with pytest.raises(H2kError, match="shorter name"):
        write_bytes(tmp_path / ("x" * 300), b"")


def test_what_a_killed_run_was_writing_goes(tmp_path: Path) -> None:
    (tmp_path / ".report.json.0123456789ab.h2k-new").touch()
    (tmp_path / "report.json").touch()
    drop_temporaries(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


# Report directories


def test_a_report_directory_that_is_a_link_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "g.h2k").symlink_to(tmp_path / "real")
    (tmp_path / "f.h2k").touch()
    with pytest.raises(Refused, match=r"g\.h2k: a link"):
        own_directory(tmp_path / "g.h2k")
    with pytest.raises(Refused, match="not a directory"):
        own_directory(tmp_path / "f.h2k")
    (tmp_path / "way").symlink_to(tmp_path)  # a link on the way is the user's own affair
    assert own_directory(tmp_path / "way" / "n.h2k") == tmp_path / "n.h2k"


def test_a_report_directory_that_others_can_write(tmp_path: Path) -> None:
    (tmp_path / "g.h2k").mkdir()
    (tmp_path / "g.h2k").chmod(0o777)
    with pytest.raises(Refused, match="others can write"):
        own_directory(tmp_path / "g.h2k")


@as_root
def test_a_report_directory_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "g.h2k").mkdir()
    os.chown(tmp_path / "g.h2k", NOBODY, NOBODY)
    with pytest.raises(Refused, match="belongs to nobody"):
        own_directory(tmp_path / "g.h2k")


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@as_root
@pytest.mark.parametrize(
    "spoil", [_link, _pipe, lambda path: path.chmod(0o666), lambda path: os.chown(path, NOBODY, NOBODY)]
)
def test_a_journal_that_h2k_did_not_write(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "journal.json"
    path.touch(mode=0o600)
    os.close(open_own(path))
    spoil(path)
    with pytest.raises(Refused, match=r"journal\.json"):
        open_own(path)


# What root obeys


@pytest.fixture
def hook(tmp_path: Path) -> Path:
    path = tmp_path / "hooks.d" / "10-x.py"
    path.parent.mkdir()
    path.touch(mode=0o644)
    return path


def _through_a_link_of_nobody(hook: Path) -> None:
    hook.rename(hook.parent.parent / "real.py")
    hook.symlink_to(hook.parent.parent / "real.py")
    os.chown(hook, NOBODY, NOBODY, follow_symlinks=False)


def _to_a_file_of_nobody(hook: Path) -> None:
    real = hook.parent.parent / "real.py"
    hook.rename(real)
    os.chown(real, NOBODY, NOBODY)
    hook.symlink_to(real)


def _into_an_open_directory(hook: Path) -> None:
    place = hook.parent.parent / "open"
    place.mkdir()
    place.chmod(0o777)
    hook.rename(place / "real.py")
    hook.symlink_to("../open/real.py")


@as_root
@pytest.mark.parametrize(
    "spoil",
    [
        lambda hook: os.chown(hook, NOBODY, NOBODY), lambda hook: hook.chmod(0o666), lambda hook: hook.chmod(0o664),
        lambda hook: hook.parent.chmod(0o777), lambda hook: hook.parent.parent.chmod(0o773),
        lambda hook: os.chown(hook.parent, NOBODY, NOBODY), _through_a_link_of_nobody, _to_a_file_of_nobody, _into_an_open_directory,
    ],
)  # fmt: skip
def test_root_obeys_nothing_that_others_could_have_made(spoil: Callable[[Path], None], hook: Path) -> None:
    require_trusted(hook, "a hook")
    spoil(hook)
    with pytest.raises(Refused, match=r"chmod go-w|chown root"):
        require_trusted(hook, "a hook")


@as_root
def test_root_obeys_what_is_roots_alone(hook: Path) -> None:
    hook.parent.chmod(0o1777)  # like /tmp: nobody else removes the file from it
    require_trusted(hook, "a hook")
    link = hook.with_name("20-y.py")
    link.symlink_to(hook.name)
    require_trusted(link, "a hook")
    loop = hook.with_name("30-z.py")
    loop.symlink_to(loop.name)
    with pytest.raises(Refused, match="too many links"):
        require_trusted(loop, "a hook")
