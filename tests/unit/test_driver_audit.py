"""What a virtio-win would do for each Windows: chosen, signed by whom, and what would not start."""

from __future__ import annotations

from pathlib import Path

import pytest

from h2k.config.driver_plan import Bucket, load_plan
from h2k.guest.driver_audit import Row, _windows, audit
from h2k.guest.virtio_win import open_source
from tests.guests.signing import sign_catalogue
from tests.guests.virtio_win import RELEASES, make_tree

PLAN = load_plan()
OLD = ("xp", "2k3", "2k8")


def rows(path: Path, signed: str = "whql", omit: tuple[str, ...] = ()) -> list[Row]:
    with open_source(make_tree(path / signed, omit=[*OLD, *omit], signed=signed)) as source:
        return list(audit(source, PLAN))


def test_every_windows_of_the_plan(tmp_path: Path) -> None:
    found = rows(tmp_path)
    assert {r.windows for r in found} == {b.name for b in PLAN.buckets} and {r.arch for r in found} == {"amd64", "x86", "arm64"}
    assert {r.role for r in found} == {"virtio-blk", "virtio-scsi", "virtio-net"}
    assert {r.starts for r in found} == {"yes"} and not any(r.why for r in found)
    seven = next(r for r in found if r.windows == "Windows 7" and r.arch == "amd64" and r.role == "virtio-blk")
    assert seven.directory == "viostor/w7/amd64"
    assert seven.signed.startswith("Microsoft Windows Hardware Compatibility Publisher (")
    assert seven.text() == f"Windows 7 amd64: virtio-blk: viostor/w7/amd64, signed by {seven.signed}: starts"
    assert seven.signed.endswith("), SHA1 and SHA256")
    assert seven.as_json()["starts"] == "yes"


@pytest.mark.parametrize(("signed", "why"), [("none", "it carries no signature"), ("test", "WDKTestCert")])
def test_what_would_not_start(tmp_path: Path, signed: str, why: str) -> None:
    for row in rows(tmp_path, signed):
        assert row.starts == ("yes" if row.arch == "x86" else "no") and why in row.why
        assert "WILL NOT START" in row.text() or row.arch == "x86"
        assert bool(row.signed) == (signed == "test")


def test_a_network_driver_may_be_signed_by_its_catalogue_and_a_boot_driver_not(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, omit=[*OLD, *(r for r in RELEASES if r != "w11")], signed="none")
    for folder, name in (("NetKVM", "netkvm"), ("viostor", "viostor")):
        place = tree / folder / "w11" / "amd64"
        (place / f"{name}.cat").write_bytes(sign_catalogue([(place / f"{name}.sys").read_bytes()]))
    with open_source(tree) as source:
        found = {r.role: r for r in audit(source, PLAN) if (r.windows, r.arch) == ("Windows 11", "amd64")}
    assert {role: row.starts for role, row in found.items()} == {"virtio-blk": "no", "virtio-scsi": "no", "virtio-net": "yes"}
    assert found["virtio-net"].signed.endswith("), SHA256, by its catalogue") and found["virtio-blk"].signed == ""


def test_sha_256_alone(tmp_path: Path) -> None:
    bad = {(r.windows, r.arch) for r in rows(tmp_path, "sha256") if r.starts == "no"}
    assert bad == {("Windows 7", "amd64"), ("Windows Server 2008 R2", "amd64")}


def test_what_is_not_there_is_said_once_for_amd64(tmp_path: Path) -> None:
    missing = [r for r in rows(tmp_path, omit=tuple(r for r in RELEASES if r != "w10")) if not r.directory]
    assert {r.arch for r in missing} == {"amd64"} and {r.starts for r in missing} == {"no"}
    assert "not there: " in missing[0].text() and "no viostor.inf for Windows 7" in missing[0].text()


def test_a_package_that_is_bad_hides_no_other(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, omit=[*OLD, *(r for r in RELEASES if r != "w10")])
    (tree / "viostor" / "w10" / "amd64" / "viostor.sys").write_bytes(b"")
    with open_source(tree) as source:
        found = {r.role: r for r in audit(source, PLAN) if (r.windows, r.arch) == ("Windows 10", "amd64")}
    assert (found["virtio-blk"].directory, found["virtio-blk"].starts) == ("", "no")
    assert "viostor.sys: the file is empty" in found["virtio-blk"].why
    assert {found[role].starts for role in ("virtio-scsi", "virtio-net")} == {"yes"}


def test_late_cross_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.guests import signing

    monkeypatch.setattr(signing.sign_pe, "__defaults__", ("whql", ("sha256",), 2020))
    from tests.guests.pe import make_pe

    make_pe.cache_clear()
    found = rows(tmp_path, "cross")
    make_pe.cache_clear()
    assert {r.starts for r in found if r.windows == "Windows 11"} == {"without Secure Boot"}
    assert {r.starts for r in found if r.windows == "Windows 8"} == {"yes"}


@pytest.mark.parametrize("bucket", PLAN.buckets, ids=lambda b: b.name)
def test_the_windows_of_a_bucket_lies_in_it(bucket: Bucket) -> None:
    windows = _windows(bucket, "amd64")
    assert bucket.min_build <= windows.build <= bucket.max_build and windows.build > 0
    assert PLAN.bucket(windows) == bucket
