"""The media: labels, WIM headers and XML as they are, damaged and hostile; which image is taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from h2k.base.errors import BadData
from tests.unit.kit_world import an_image
from tests.windows.media import STAND_IN_LABEL, choose, sha256_of, volume_label, wim_images
from tests.windows.stand_in import GUESTS, description, wim
from tests.windows.steps import StepFailed


def reader(data: bytes):  # type: ignore[no-untyped-def]
    return lambda path, size, offset: data[offset : offset + size]


def iso(path: Path, label: str, magic: bytes = b"\x01CD001\x01") -> Path:
    path.write_bytes(bytes(16 * 2048) + (magic + bytes(33) + label.encode().ljust(32)).ljust(2048, b"\0"))
    return path


def test_the_label_is_read(tmp_path: Path) -> None:
    assert volume_label(iso(tmp_path / "a.iso", STAND_IN_LABEL)) == STAND_IN_LABEL
    assert volume_label(iso(tmp_path / "b.iso", "SSS_X64FREE_EN-US_DV9")) == "SSS_X64FREE_EN-US_DV9"


@pytest.mark.parametrize("data", [b"", b"MZ" * 40000])
def test_what_is_no_iso_is_told(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.iso").write_bytes(data)
    with pytest.raises(StepFailed, match=r"no ISO image; look at .*SHA-256"):
        volume_label(tmp_path / "x.iso")


def test_the_images_of_a_wim_are_read() -> None:
    found = wim_images(reader(wim([description(name) for name in GUESTS])), "install.wim")
    assert [(i.index, i.build, i.arch, i.server, i.language) for i in found] == [
        (1, 20348, "amd64", True, "en-US"), (2, 14393, "amd64", True, "en-US"),
    ]  # fmt: skip
    assert all("STAND-IN" in image.name for image in found)


def test_an_image_without_windows_is_left_out() -> None:
    xml = '<WIM><IMAGE INDEX="1"><NAME>Windows Setup</NAME></IMAGE></WIM>'
    assert wim_images(reader(remade(xml)), "install.wim") == ()


def remade(xml: str) -> bytes:
    """A WIM with this XML."""
    made = wim([])
    text = ("\ufeff" + xml).encode("utf-16-le")
    return made[:72] + len(text).to_bytes(7, "little") + made[79:208] + text


@pytest.mark.parametrize("data", [b"", b"MSWIM\0\0\0", b"x" * 300, wim([])[:207]])
def test_what_is_no_wim_is_told(data: bytes) -> None:
    with pytest.raises(StepFailed, match="is no WIM"):
        wim_images(reader(data), "install.wim")


def test_a_wim_with_too_much_xml_is_told() -> None:
    data = wim([])
    with pytest.raises(StepFailed, match="bytes of XML"):
        wim_images(reader(data[:72] + b"\xff" * 7 + data[79:]), "install.wim")


@pytest.mark.parametrize("xml", ["<WIM>", "", '<!DOCTYPE a [<!ENTITY b "c">]><WIM>&b;</WIM>'])
def test_hostile_xml_is_bad_data(xml: str) -> None:
    with pytest.raises(BadData):
        wim_images(reader(remade(xml)), "install.wim")


SERVER = (
    an_image(index=1, name="Windows Server 2022 Standard Evaluation"),
    an_image(index=2, name="Windows Server 2022 Standard Evaluation (Desktop Experience)"),
)


@pytest.mark.parametrize(("wanted", "index"), [("", 2), ("1", 1), (SERVER[1].name, 2)])
def test_a_desktop_is_taken_unless_another_is_named(wanted: str, index: int) -> None:
    assert choose(SERVER, wanted).index == index


def test_before_2016_core_was_in_the_name() -> None:
    old = (an_image(9600, index=1, name="Windows Server 2012 R2 SERVERSTANDARDCORE"), an_image(9600, index=2, name="SERVERSTANDARD"))
    assert choose(old, "").index == 2
    assert choose((an_image(19045, server=False, index=3),), "").index == 3


@pytest.mark.parametrize("images", [SERVER, ()])
def test_an_image_that_is_not_there_is_told_with_those_that_are(images: tuple[object, ...]) -> None:
    with pytest.raises(StepFailed, match=r"no image 'Home' in this ISO; look at EDITION=, one of: (1 Windows|none)"):
        choose(images, "Home")  # type: ignore[arg-type]


def test_a_digest_is_kept_as_long_as_the_file_stays(tmp_path: Path) -> None:
    file, cache = tmp_path / "a", tmp_path / "cache" / "digests.json"
    file.write_bytes(b"one")
    first = sha256_of(file, cache)
    known = json.loads(cache.read_text())
    cache.write_text(json.dumps(dict.fromkeys(known, "kept")))
    assert first != sha256_of(file, cache) == "kept"
    file.write_bytes(b"two, longer")
    assert sha256_of(file, cache) not in (first, "kept")
