"""The machine as it will be: both domains side by side, their disks and cards, whatever lies in the directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from h2k.pages import machine
from h2k.pages.machine import cards_of, disks_of, name_of, side_by_side

XML = """<domain>
<name> web01 </name>
<devices>
<disk type="file" device="disk"><source file="/a/web-sda"/><target dev="{dev}" bus="{bus}"/></disk>
<disk type="block"><source dev="/dev/vg/b"/><target dev="sdb" bus="sata"/></disk>
<disk type="file" device="cdrom"><source file="/a/x.iso"/><target dev="sdc" bus="sata"/></disk>
<disk type="file"><target dev="sdd"/></disk>
<disk type="file"><source file="/a/none"/></disk>
<interface><mac address="52:54:00:00:00:01"/><model type="{nic}"/></interface>
<interface><mac address="52:54:00:00:00:02"/></interface>
<interface><model type="virtio"/></interface>
</devices>
</domain>
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "bootstrap.xml").write_text(XML.format(dev="sda", bus="sata", nic="e1000e"))
    (tmp_path / "final.xml").write_text(XML.format(dev="vda", bus="virtio", nic="virtio"))
    return tmp_path


def test_disks_and_cards_of_each_phase(place: Path) -> None:
    assert disks_of(place, "final") == [
        {"file": "/a/web-sda", "bus": "virtio", "target": "vda"}, {"file": "/dev/vg/b", "bus": "sata", "target": "sdb"},
        {"file": "", "bus": "", "target": "sdd"},
    ]  # fmt: skip
    assert disks_of(place, "bootstrap")[0]["bus"] == "sata"
    assert cards_of(place, "final") == {"52:54:00:00:00:01": "virtio", "52:54:00:00:00:02": ""}
    assert name_of(place, "final") == "web01"


def test_both_domains_side_by_side(place: Path) -> None:
    rows = list(side_by_side(place))
    assert [a for _, a, _ in rows] == XML.format(dev="sda", bus="sata", nic="e1000e").splitlines()
    assert [n for n, (differs, _, _) in enumerate(rows) if differs] == [3, 8] and all(a == b for differs, a, b in rows if not differs)
    with open(place / "final.xml", "a") as file:
        file.write("<!-- more -->\n")
    assert list(side_by_side(place))[-1] == (True, "", "<!-- more -->")


@pytest.mark.parametrize("missing", ["bootstrap", "final"])
def test_nothing_where_one_is_missing(missing: str, place: Path) -> None:
    (place / f"{missing}.xml").unlink()
    assert list(side_by_side(place)) == [] and disks_of(place, missing) == [] and cards_of(place, missing) == {} and name_of(place, missing) == ""


def test_what_is_no_domain_has_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "final.xml").write_text("<domain")
    assert disks_of(place, "final") == [] and name_of(place, "final") == ""
    (place / "final.xml").write_text("<domain/>")
    assert name_of(place, "final") == "" and cards_of(place, "final") == {}
    monkeypatch.setattr(machine, "DOMAIN_LIMIT", 8)
    assert list(side_by_side(place)) == [] and name_of(place, "bootstrap") == ""


def test_what_a_domain_says_is_fit_to_be_shown_and_bounded(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "final.xml").write_text("<domain><name>a\u202eb</name><graphics passwd='hunter2'/></domain>\n" * 3)
    assert "hunter2" not in str(list(side_by_side(place))) and "\u202e" not in "".join(b for _, _, b in side_by_side(place))
    monkeypatch.setattr(machine, "MAX_LINES", 1)
    assert len(list(side_by_side(place))) == 1
