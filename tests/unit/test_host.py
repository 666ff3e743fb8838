"""What this host can do: where virtio-win and rhsrvany.exe are, and libguestfs without KVM."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from h2k.base import host


@pytest.mark.parametrize(("names", "found"), [((), None), (("pvvxsvc.exe",), "pvvxsvc.exe"), (("pvvxsvc.exe", "rhsrvany.exe"), "rhsrvany.exe")])
def test_the_runner_is_where_virt_v2v_looks_for_it(
    names: tuple[str, ...], found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIRT_TOOLS_DATA_DIR", str(tmp_path))
    for name in names:
        (tmp_path / name).touch()
    assert host.runner_programs() == (tmp_path / found if found else None)


def test_virtio_win_is_what_is_asked_for_then_what_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "VIRTIO_WIN", (tmp_path / "none", tmp_path))
    monkeypatch.delenv("VIRTIO_WIN", raising=False)
    assert host.virtio_win_path() == tmp_path
    monkeypatch.setenv("VIRTIO_WIN", "/from/the/environment.iso")
    assert host.virtio_win_path() == Path("/from/the/environment.iso")
    assert host.virtio_win_path("/asked/for.iso") == Path("/asked/for.iso")


@pytest.mark.parametrize(
    ("known", "before", "after"),
    [("yes", "", ""), ("no", "", "force_tcg"), ("no", "network_bridge=x", "network_bridge=x:force_tcg"), ("no", "force_tcg", "force_tcg")],
)
def test_libguestfs_is_told_where_kvm_does_not_work(known: str, before: str, after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host.kvm_works.cache_clear()
    monkeypatch.setenv("H2K_KVM", known)
    monkeypatch.setenv("LIBGUESTFS_BACKEND_SETTINGS", before)
    said: list[str] = []
    host.guestfs_settings(said.append)
    assert os.environ["LIBGUESTFS_BACKEND_SETTINGS"] == after
    assert len(said) == (before != after)
    host.kvm_works.cache_clear()


def test_kvm_is_not_asked_where_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg")
    monkeypatch.setattr(host, "kvm_works", lambda: pytest.fail("a QEMU was started"))
    host.guestfs_settings()


def test_kvm_is_asked_once_in_a_process_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(host, "probe", lambda qemu: bool(asked.append(qemu)) or True)
    monkeypatch.setattr(host.os, "access", lambda *_: True)
    monkeypatch.setattr(host.shutil, "which", lambda name, path=None: f"/bin/{name}")
    monkeypatch.delenv("H2K_KVM", raising=False)
    for _ in range(2):
        host.kvm_works.cache_clear()  # as another process has it
        assert host.kvm_works()
    assert asked == ["/bin/qemu-system-x86_64"] and os.environ["H2K_KVM"] == "yes"
    host.kvm_works.cache_clear()


def test_no_device_no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.os, "access", lambda *_: False)
    monkeypatch.setattr(host, "probe", lambda qemu: 1 / 0)
    monkeypatch.delenv("H2K_KVM", raising=False)
    host.kvm_works.cache_clear()
    assert not host.kvm_works()
    host.kvm_works.cache_clear()
