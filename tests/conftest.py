"""Shared fixtures: made guests built once and cached, a made virtio-win, the stand-in for rhsrvany.exe."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from hypothesis import settings

from h2k.base.host import guestfs_settings
from tests.guests import build as guests
from tests.guests.virtio_win import make_iso, make_runner, make_tree

guestfs_settings()  # for the libguestfs tools that tests run beside h2k: without KVM where it does not work
TESTS = Path(__file__).resolve().parent
# What must be quick is bounded by the code; a busy machine fails no test.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
DATA_DISK = 64 * 1024 * 1024


@pytest.fixture(scope="session")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made virtio-win directory."""
    return make_tree(tmp_path_factory.mktemp("virtio-win") / "tree")


@pytest.fixture(scope="session")
def drivers_iso(drivers: Path) -> Path:
    """The same as an ISO image."""
    return make_iso(drivers, drivers.with_suffix(".iso"))


@pytest.fixture(scope="session")
def empty_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtio-win directory whose viostor.sys is empty."""
    return make_tree(tmp_path_factory.mktemp("virtio-win") / "empty", zero=["viostor.sys"])


@pytest.fixture(scope="session")
def v2v_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which virt-v2v finds a labelled stand-in for rhsrvany.exe."""
    return {"VIRT_TOOLS_DATA_DIR": str(make_runner(tmp_path_factory.mktemp("virt-tools")))}


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Callable[..., guests.BuiltGuest]]:
    """guest(NAME, data_disks=N): a fresh copy of a made guest, and N empty data disks with it."""

    def copy(name: str, data_disks: int = 0) -> guests.BuiltGuest:
        built = guests.cached()[name]
        disks = []
        for disk in built.disks:
            disks.append(tmp_path / "guest" / disk.name)
            disks[-1].parent.mkdir(exist_ok=True)
            shutil.copy(disk, disks[-1])
        for number in range(data_disks):
            disks.append(tmp_path / "guest" / f"data{number}.qcow2")
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disks[-1]), str(DATA_DISK)], check=True)
        return guests.BuiltGuest(name, built.firmware, tuple(disks))

    yield copy
    shutil.rmtree(tmp_path / "guest", ignore_errors=True)


# Every test belongs to one tier: its own mark, or that of its directory. What the tiers are and cost: tests/README.md.
TIERS = ("unit", "integration", "long", "lab", "package")
DIRECTORIES = {"unit": "unit", "package": "package", "integration": "integration", "boot": "integration", "fleet": "integration"}


@pytest.hookimpl(tryfirst=True)  # before pytest reads -m, and pytest-xdist the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test its tier. Two workers share the tests (pytest -n 2 --dist loadgroup): what needs the one libvirtd
    stays on one of them."""
    for item in items:
        if not any(item.get_closest_marker(tier) for tier in TIERS):
            item.add_marker(DIRECTORIES[item.path.relative_to(TESTS).parts[0]])
        uses_libvirt = "libvirt" in Path(item.path).read_text(encoding="utf-8") and "unit" not in item.path.parts
        item.add_marker(pytest.mark.xdist_group("libvirt" if uses_libvirt else item.path.name))
