"""What an owner edited is kept with a line; what h2k itself wrote is not, nor is what stays the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from h2k.base.errors import Refused
from h2k.engine.edited import WRITTEN, write_editable


def write(directory: Path, data: bytes) -> list[str]:
    said: list[str] = []
    write_editable(directory / "final.xml", data, said.append, 0o644)
    assert (directory / "final.xml").read_bytes() == data
    return said


def test_what_h2k_wrote_is_written_over(tmp_path: Path) -> None:
    for data in (b"one", b"two", b"two", b"three"):
        assert write(tmp_path, data) == []
    assert {path.name for path in tmp_path.iterdir()} == {"final.xml", WRITTEN}


def test_an_edit_is_kept_with_a_line(tmp_path: Path) -> None:
    write(tmp_path, b"one")
    (tmp_path / "final.xml").write_bytes(b"edited")
    (line,) = write(tmp_path, b"two")
    assert "final.xml had been edited" in line and str(tmp_path / "final.xml.edited") in line
    assert (tmp_path / "final.xml.edited").read_bytes() == b"edited"
    (tmp_path / "final.xml").write_bytes(b"edited again")
    assert "final.xml.edited-2" in write(tmp_path, b"two")[0]
    (tmp_path / "final.xml").write_bytes(b"edited")
    assert "final.xml.edited" in write(tmp_path, b"three")[0] and not (tmp_path / "final.xml.edited-3").exists()


def test_an_edit_that_h2k_would_make_itself_is_none(tmp_path: Path) -> None:
    write(tmp_path, b"one")
    (tmp_path / "final.xml").write_bytes(b"two")
    assert write(tmp_path, b"two") == []


def test_a_directory_of_an_older_h2k(tmp_path: Path) -> None:
    (tmp_path / "final.xml").write_bytes(b"whoever wrote it")
    assert write(tmp_path, b"one") != []


@pytest.mark.parametrize("text", ["", "[]", "nonsense", '{"final.xml": 5}', "[" * 60_000])
def test_a_list_that_makes_no_sense(text: str, tmp_path: Path) -> None:
    write(tmp_path, b"one")
    (tmp_path / WRITTEN).write_text(text)
    assert write(tmp_path, b"two") != []


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "final.xml").symlink_to("/etc/passwd")
    with pytest.raises(Refused, match="a link"):
        write_editable(tmp_path / "final.xml", b"one", print)
