"""Rights are asked before the first write, with the way out that helps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from h2k.base.errors import Refused
from h2k.domain.guest_files import GuestFiles
from h2k.engine import preconditions
from h2k.engine.preconditions import SUDO, require_rights, require_writable_directory


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The paths that this user may not write; root may write all, so that the system is not asked."""
    found: set[str] = set()
    monkeypatch.setattr(preconditions.os, "access", lambda path, mode: str(path) not in found and bool(mode & os.W_OK))
    return found


def test_images_and_the_report_directory(forbidden: set[str], tmp_path: Path) -> None:
    images = (tmp_path / "a", tmp_path / "b")
    for path in images:
        path.touch()
    files = GuestFiles(tuple((path, "raw") for path in images), tmp_path / "g.h2k")
    require_rights(files)
    forbidden.add(str(images[1]))
    with pytest.raises(Refused, match=f"{images[1]}: this user may not write it"):
        require_rights(files)
    images[1].unlink()
    require_rights(files)  # that it is missing is told elsewhere
    forbidden.add(str(tmp_path))
    with pytest.raises(Refused, match=f"{tmp_path}: this user may not write there"):
        require_rights(files)


def test_a_directory_that_is_there_is_asked_and_not_the_one_above(forbidden: set[str], tmp_path: Path) -> None:
    (tmp_path / "g.h2k").mkdir()
    forbidden.add(str(tmp_path))
    require_writable_directory(tmp_path / "g.h2k")
    forbidden.add(str(tmp_path / "g.h2k"))
    with pytest.raises(Refused, match=r"g\.h2k: this user may not write there"):
        require_writable_directory(tmp_path / "g.h2k")
    require_writable_directory(tmp_path / "none" / "g.h2k")


@pytest.mark.parametrize(("user", "hint"), [(0, "give h2k a copy that it may write"), (12345, SUDO)])
def test_sudo_is_the_way_out_of_another_users_file(user: int, hint: str, forbidden: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preconditions.os, "geteuid", lambda: user)
    forbidden.add(str(tmp_path))
    with pytest.raises(Refused) as told:
        require_writable_directory(tmp_path)
    assert told.value.hint == hint


def test_ones_own_file_that_is_read_only_was_meant_so(forbidden: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(tmp_path, 12345, -1) if os.geteuid() == 0 else None
    monkeypatch.setattr(preconditions.os, "geteuid", lambda: tmp_path.stat().st_uid)
    forbidden.add(str(tmp_path))
    with pytest.raises(Refused, match="give h2k a copy"):
        require_writable_directory(tmp_path)
