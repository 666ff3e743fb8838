"""What is said of an image that qemu can't open."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from h2k.base.errors import BadData, Refused
from h2k.base.run import CommandFailed
from h2k.disk import image

LOG = """qemu-img: Could not open '/x/d.vhdx': VHDX image file '/x/d.vhdx' opened read-only, but contains a log that needs to be replayed
To replay the log, run:
qemu-img check -r all '/x/d.vhdx'
"""


@pytest.mark.parametrize(
    ("said", "words", "way"),
    [
        (LOG, "its log has still to be replayed", "on a copy: qemu-img check -r all COPY"),
        ("qemu-img: Could not open '/x': Image is corrupt\n", "Image is corrupt", "from the source again"),
    ],
)
def test_why_it_can_not_be_opened(said: str, words: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(argv: Any, **_: Any) -> None:
        raise CommandFailed(argv, 1, said)

    monkeypatch.setattr(image, "run", fail)
    path = tmp_path / "d.vhdx"
    path.write_bytes(b"vhdxfile")
    with pytest.raises(Refused, match=words) as caught:
        image.probe(path)
    assert way in caught.value.hint and f"-r all '{path}'" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "out", "err", "said"),
    [
        (0, b"{}", b"", ""), (3, b"", b"leaked", ""), (2, b'{"corruptions": 7}', b"", "finds 7 errors"), (2, b"x", b"", "finds many errors"),
        (-6, b"", b"", "needs more than 1024 MiB"), (1, b"", b"qemu-img: Check failed: Cannot allocate memory\n", "needs more than 1024 MiB"),
    ],
)  # fmt: skip
def test_what_qemu_img_check_says(status: int, out: bytes, err: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: dict[str, Any] = {}

    def check(argv: Any, **more: Any) -> Any:
        limits.update(more)
        return SimpleNamespace(returncode=status, stdout=out, stderr=err)

    monkeypatch.setattr(image, "run", check)
    (tmp_path / "g").write_bytes(b"x")
    found = image.damage(image.ImageInfo(tmp_path / "g", "qcow2", 1 << 20, (tmp_path / "g",)))
    assert said in found and bool(said) == bool(found)
    assert 1 << 30 <= limits["memory"] < 2 << 30 and limits["timeout"] >= 60


def test_a_vmdk_is_not_checked_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "run", lambda *_, **__: pytest.fail("qemu-img check"))
    assert image.damage(image.ImageInfo(tmp_path / "g", "vmdk", 1 << 20, (tmp_path / "g",))) == ""


def test_qemu_img_has_no_more_memory_than_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def info(argv: Any, **more: Any) -> Any:
        asked.append(more)
        return SimpleNamespace(stdout=b'{"format": "raw", "virtual-size": 1}')

    monkeypatch.setattr(image, "run", info)
    (tmp_path / "g").write_bytes(b"x")
    assert image.probe(tmp_path / "g").format == "raw"
    assert asked[0]["memory"] == 1 << 30 and asked[0]["env"] == {"MALLOC_ARENA_MAX": "1"}


def test_claims_are_asked_before_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "run", lambda *_, **__: pytest.fail("qemu-img"))
    (tmp_path / "g").write_bytes(b"QFI\xfb\0\0\0\3".ljust(512, b"\0"))
    with pytest.raises(BadData, match="g: damaged: clusters"):
        image.probe(tmp_path / "g")


VMDK = b'# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"\nRW 8 FLAT "/etc/shadow" 0\n'
DATA_FILE = (b"QFI\xfb\0\0\0\3" + bytes(64) + (4).to_bytes(8, "big")).ljust(512, b"\0")


@pytest.mark.parametrize(("content", "words"), [(VMDK, "reaches beyond its directory"), (DATA_FILE, "keeps its data in another file")])
@pytest.mark.parametrize("form", [None, "qcow2", "vmdk"])
def test_reach_is_asked_before_qemu(form: Any, content: bytes, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "run", lambda *_, **__: pytest.fail("qemu-img"))
    monkeypatch.setattr(image, "check_claims", lambda *_: None)
    (tmp_path / "g").write_bytes(content)
    with pytest.raises(Refused, match=words):
        image.probe(tmp_path / "g", form)


@pytest.mark.parametrize(
    ("backing", "words"),
    [
        ("/etc/passwd", "lies in another directory"), ("{}/../other", "lies in another directory"), ("{}/link", "lies in another directory"),
        ('json:{"driver": "file", "filename": "/etc/passwd"}', "is not here"), ("nbd://192.0.2.1/x", "is not here"),
        ("https://192.0.2.1/x", "is not here"), ("{}/none", "is not here"), ("base", "is not here"),
    ],
)  # fmt: skip
def test_what_an_image_rests_on_is_a_file_beside_it(backing: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, asked = tmp_path / "home", []
    home.mkdir()
    (tmp_path / "other").write_bytes(b"x")
    (home / "link").symlink_to("../other")
    (home / "g").write_bytes(b"x")

    def info(argv: Any, **_: Any) -> Any:
        asked.append(argv[-1])
        said = {"format": "qcow2", "virtual-size": 1, "full-backing-filename": backing.replace("{}", str(home)), "backing-filename-format": "raw"}
        return SimpleNamespace(stdout=json.dumps(said if len(asked) == 1 else {"format": "raw", "virtual-size": 1}).encode())

    monkeypatch.setattr(image, "run", info)
    monkeypatch.setattr(image, "check_whole", lambda *_: None)
    with pytest.raises((BadData, Refused), match=words):
        image.probe(home / "g")
    assert asked == [str(home / "g")], "QEMU was asked about what it rests on"
