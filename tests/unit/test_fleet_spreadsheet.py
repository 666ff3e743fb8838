"""The CSV of a survey, read back as a spreadsheet reads it."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from h2k.fleet.look import blank
from h2k.fleet.sources import DISK, Source
from h2k.fleet.spreadsheet import COLUMNS, as_csv, cell


def read(**more: Any) -> dict[str, str]:
    data = as_csv([{**blank(Source("k", DISK, "/x", "web")), **more}])
    assert data.startswith(b"\xef\xbb\xbf")  # Excel takes it for its code page otherwise
    (found,) = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
    return found


def test_every_column_is_there() -> None:
    assert tuple(read()) == COLUMNS


@pytest.mark.parametrize("name", ['web, the "first"', "two\nlines", "semi;colon", "Zürich 東京"])
def test_names_survive(name: str) -> None:
    assert read(name=name)["name"] == name


@pytest.mark.parametrize("name", ["=cmd|'/c calc'!A1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =1", "\n=1"])
def test_nothing_is_a_formula(name: str) -> None:
    assert read(name=name)["name"].startswith("'")


def test_control_characters_steer_nothing() -> None:
    assert cell("a\x1b[2Jb\u202ec") == "a [2Jb c"
    assert cell(None) == "" and cell(7) == "7"


def test_lists_are_lines() -> None:
    nics = [{"name": "LAN", "addresses": ["192.0.2.1/24"], "fate": "carried: the only card"}, {"name": "B", "addresses": [], "fate": "DHCP"}]
    found = read(nics=nics, actions=["a: b", "c: d"], disks=[{"size": 5}, {"size": 6}])
    assert found["network"] == "LAN 192.0.2.1/24: carried: the only card\nB DHCP: DHCP"
    assert read(restarts=0)["restarts"] == "0" and read()["restarts"] == ""
    assert found["owner's actions"] == "a: b\nc: d" and found["virtual bytes"] == "11" and found["disks"] == "2"
