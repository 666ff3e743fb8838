"""The files of a guest: images in the domain's order, and descriptions that are too large or not there."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from h2k.base.errors import UsageError
from h2k.domain import guest_files
from h2k.domain.facts import DiskFacts
from h2k.domain.guest_files import GuestFiles, described, images_of, read_description
from tests.unit.engine_world import made_domain

XML = b"""<domain><name>web</name><memory>1048576</memory><devices>
<disk type="file"><source file="/a/web-sda"/><target dev="sda" bus="sata"/></disk>
<disk type="file"><driver type="qcow2"/><source file="web-sdb"/><target dev="sdb" bus="sata"/></disk></devices></domain>"""


def test_the_images_of_a_domain_in_its_order(tmp_path: Path) -> None:
    found = described(XML, "web", tmp_path, tmp_path / "web.h2k")
    assert found.images == ((Path("/a/web-sda"), None), (tmp_path / "web-sdb", "qcow2")), "relative ones lie beside the description"
    assert (found.state, found.description) == (tmp_path / "web.h2k", XML)
    assert found.domain is not None and found.domain.name == "web"


def test_a_domain_whose_disks_are_no_files_has_no_images() -> None:
    elsewhere = (DiskFacts(None, None, "sata", "sda"),)
    assert len(images_of(made_domain(disks=2), Path())) == 2
    with pytest.raises(UsageError, match="made: the domain names no disk image file"):
        images_of(dataclasses.replace(made_domain(), disks=elsewhere), Path())


def test_a_format_that_nobody_named_is_asked_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_files, "probe", lambda path: SimpleNamespace(format=f"that of {path}"))
    files = GuestFiles(((Path("/a"), "raw"), (Path("/b"), None)), Path("/s"))
    assert files.writable() == ((Path("/a"), "raw"), (Path("/b"), "that of /b"))


def test_a_description_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "g.xml").write_bytes(b"12345")
    monkeypatch.setattr(guest_files, "DESCRIPTION_LIMIT", 5)
    assert read_description(tmp_path / "g.xml") == b"12345"
    monkeypatch.setattr(guest_files, "DESCRIPTION_LIMIT", 4)
    with pytest.raises(UsageError, match=r"g\.xml: larger than 4 bytes"):
        read_description(tmp_path / "g.xml")
    with pytest.raises(UsageError, match=r"none: No such file or directory"):
        read_description(tmp_path / "none")
