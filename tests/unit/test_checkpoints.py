"""Checkpoints of Hyper-V by the names of their files: a disk that has one beside it is an old state."""

from __future__ import annotations

from pathlib import Path

import pytest

from h2k.base.errors import Refused
from h2k.disk import image
from h2k.disk.checkpoints import check_checkpoints, checkpoint_beside, is_checkpoint, parent_name

GUID = "A1B2C3D4-0000-1111-2222-0123456789AB"


@pytest.mark.parametrize(
    ("name", "parent"),
    [
        (f"App 01_{GUID}.avhdx", "app 01.vhdx"), (f"a_b_{GUID.lower()}.AVHD", "a_b.vhd"), (f"a_{GUID}.vhdx", None), ("a.avhdx", None),
        (f"_{GUID}.avhdx", None), (f"a_{GUID[:-1]}.avhdx", None), (f"a_{GUID}.avhdx.bak", None),
    ],
)  # fmt: skip
def test_whose_checkpoint_a_file_is(name: str, parent: str | None) -> None:
    assert parent_name(name) == parent


def test_a_checkpoint_by_its_name() -> None:
    assert is_checkpoint(Path("a.AVHDX")) and is_checkpoint(Path("a.avhd")) and not is_checkpoint(Path("a.vhdx"))


@pytest.mark.parametrize(("disk", "beside", "found"), [
    ("App.vhdx", f"app_{GUID}.avhdx", True), ("App.VHD", f"App_{GUID}.avhd", True), ("App.vhdx", f"App_{GUID}.avhd", False),
    ("App.vhdx", f"App_data_{GUID}.avhdx", False), ("App.qcow2", f"App_{GUID}.avhdx", False), ("A[p]*.vhdx", f"A[p]*_{GUID}.avhdx", True),
])  # fmt: skip
def test_a_disk_with_a_checkpoint_beside_it(disk: str, beside: str, found: bool, tmp_path: Path) -> None:
    (tmp_path / disk).touch()
    (tmp_path / beside).touch()
    assert checkpoint_beside(tmp_path / disk) == ((tmp_path / beside) if found else None)


def test_a_link_to_a_disk_is_that_disk(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "app.vhdx").touch()
    (tmp_path / "store" / f"app_{GUID}.avhdx").touch()
    (tmp_path / "web.vhdx").symlink_to("store/app.vhdx")
    assert checkpoint_beside(tmp_path / "web.vhdx") is not None
    assert checkpoint_beside(Path("/nowhere/web.vhdx")) is None


def test_the_refusal_names_the_file_and_the_way_out(tmp_path: Path) -> None:
    (tmp_path / f"app_{GUID}.avhdx").touch()
    with pytest.raises(Refused, match=rf"app\.vhdx: an old state of the disk: .*app_{GUID}\.avhdx") as told:
        check_checkpoints(tmp_path / "app.vhdx", "app.vhdx")
    assert "on the Hyper-V host, merge it into its parent" in told.value.hint and "move it out" in told.value.hint


def test_no_image_is_opened_that_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "run", lambda *_, **__: pytest.fail("opened"))
    (tmp_path / f"app_{GUID}.avhdx").touch()
    (tmp_path / "app.vhdx").write_bytes(b"vhdxfile")
    with pytest.raises(Refused, match="an old state of the disk"):
        image.probe(tmp_path / "app.vhdx")
