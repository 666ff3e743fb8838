"""What the package tests share: the packages, built once, a clean root, and a made guest in it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from h2k import __version__
from tests.guests.build import build
from tests.guests.virtio_win import make_runner, make_tree
from tests.package.root import Root, clean_root

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "package-test"
ARCHIVES = ROOT / ".cache" / "package-archives"
OLD_VERSION = "0.0.9"


@dataclasses.dataclass(frozen=True)
class Packages:
    """The packages under test, one of an older version, and the unpacked source."""

    deb: Path
    old_deb: Path
    example_deb: Path
    rpm: Path
    source: Path

    def installed(self, site: str) -> dict[str, Path]:
        """Where each file of library, hooks and plans belongs on a host, and what it is made of."""
        places = {"h2k": site, "hooks": "/usr/share/h2k/hooks.d", "driver-plans": "/usr/share/h2k/driver-plans"}
        return {
            f"{place}/{file.relative_to(self.source / directory)}": file
            for directory, place in places.items()
            for file in (self.source / directory).rglob("*")
            if file.is_file()
        }


@pytest.fixture(scope="session")
def packages() -> Packages:
    """All packages, from this checkout as it is."""

    def made(kind: str, out: str, *more: str) -> Path:
        argv = [sys.executable, "packaging/build.py", kind, "--out", str(BUILD / out), *more]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return Path(done.stdout.strip().splitlines()[-1])

    deb = made("deb", "deb")
    return Packages(
        deb=deb,
        old_deb=made("deb", "old", "--version", OLD_VERSION),
        example_deb=made("example", "example"),
        rpm=made("rpm", "rpm"),
        source=deb.parent / f"h2k-v2v-{__version__}",
    )


@pytest.fixture(scope="session")
def root() -> Iterator[Root]:
    """A clean Debian root."""
    with clean_root(BUILD / "root", ARCHIVES) as clean:
        yield clean


@pytest.fixture(scope="session")
def guest(root: Root) -> dict[str, str]:
    """Where things are in the root: "disk" of a made guest, a made "virtio-win", the stand-in for "virt-tools"."""
    made = BUILD / "made"
    built = build(["win2022"], made / "guest")["win2022"]
    return {
        "disk": root.bring(built.disks[0], "guest.qcow2"),
        "virtio-win": root.bring(make_tree(made / "virtio-win"), "virtio-win"),
        "virt-tools": root.bring(make_runner(made / "virt-tools"), "virt-tools"),
    }
