"""The commands on what somebody uses, and on what somebody else made: refused at once, in one line, and not a byte changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from h2k.disk.in_use import converting
from h2k.disk.overlay import DiskSet
from tests.guests.build import cached

ROOT = Path(__file__).resolve().parents[2]
H2K, QEMU_IMG = ROOT / "wrappers" / "h2k", ROOT / "wrappers" / "h2k-qemu-img"
REFUSED = 3
NOBODY = 65534


def refused(*argv: Any, says: str) -> None:
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    said = done.stdout + done.stderr
    assert done.returncode == REFUSED and says in said and "Traceback" not in said, said


@contextmanager
def used(image: Path, form: str) -> Iterator[None]:
    """A QEMU has the image open for writing."""
    with subprocess.Popen(["qemu-io", "-f", form, str(image)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        assert user.stdin is not None and user.stdout is not None
        user.stdin.write(b"read 0 512\n")
        user.stdin.flush()
        user.stdout.readline()
        yield
        user.stdin.close()


@pytest.fixture(scope="module", params=["raw", "qcow2"])
def guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A made guest that no test here changes."""
    path = tmp_path_factory.mktemp("used") / "g-sda"
    subprocess.run(["qemu-img", "convert", "-O", request.param, str(cached()["win2022"].disks[0]), str(path)], check=True)
    before = hashlib.sha256(path.read_bytes()).digest()
    yield path, request.param
    assert hashlib.sha256(path.read_bytes()).digest() == before


def test_fix_and_rollback_of_a_disk_in_use(guest: tuple[Path, str], drivers: Path) -> None:
    with used(*guest):
        refused(H2K, "fix", guest[0], "--drivers", drivers, says="in use by qemu-io")


def test_a_disk_in_use_is_not_renamed_over(guest: tuple[Path, str], drivers: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.img"
    subprocess.run(["qemu-img", "create", "-q", "-f", guest[1], str(target), "8M"], check=True)
    facts = target.stat()
    with used(target, guest[1]):
        refused(QEMU_IMG, "convert", "-O", guest[1], guest[0], target, "--h2k-drivers", drivers, says="in use by qemu-io")
    assert target.stat().st_ino == facts.st_ino and not list(tmp_path.glob(".*"))


def test_a_second_run_is_refused_before_it_reads(guest: tuple[Path, str], drivers: Path) -> None:
    state = guest[0].with_name("g-sda.h2k")
    disks = DiskSet([guest], state)
    with disks.held():
        refused(H2K, "fix", guest[0], "--drivers", drivers, says="another h2k works on this guest")
    shutil.rmtree(state, ignore_errors=True)


def test_a_second_conversion_to_the_same_disk_is_refused(guest: tuple[Path, str], drivers: Path, tmp_path: Path) -> None:
    """It would write the same disk under the same name until it is proven."""
    target = tmp_path / "b.img"
    with converting(tmp_path / "b.h2k"):
        refused(QEMU_IMG, "convert", "-O", "qcow2", guest[0], target, "--h2k-drivers", drivers, says="another h2k works on this guest")
        assert not target.exists() and not list(tmp_path.glob(".*")) and not (tmp_path / "b.h2k" / "source").exists()
    subprocess.run([QEMU_IMG, "convert", "-O", "qcow2", guest[0], target, "--h2k-drivers", drivers], check=True, stdin=subprocess.DEVNULL)
    assert target.exists() and not (tmp_path / "b.h2k" / "converting").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
@pytest.mark.parametrize("hostile", ["owner", "link", "journal"])
def test_a_report_directory_that_somebody_else_made(hostile: str, guest: tuple[Path, str], drivers: Path, tmp_path: Path) -> None:
    victim, state = tmp_path / "victim", guest[0].with_name("g-sda.h2k")
    victim.write_text("kept")
    shutil.rmtree(state, ignore_errors=True)  # the record of a refusal
    place = tmp_path / "real" if hostile == "link" else state
    place.mkdir(mode=0o711)
    work = {"kind": "fix", "disks": [{"path": str(guest[0]), "format": guest[1], "bytes": 1, "mtime": 1}], "files": [{"work": str(victim), "path": "/x"}]}
    (place / "journal.json").write_text(json.dumps({"phase": "applying", "work": work, "stack": []}))
    for name in ("report.json", "report.json.new", "plan.json.new", "bootstrap.xml", "lock"):
        (place / name).symlink_to(victim)
    if hostile == "owner":
        os.chown(state, NOBODY, NOBODY)
    elif hostile == "link":
        state.symlink_to(place)
    try:
        refused(H2K, "fix", guest[0], "--drivers", drivers, says="g-sda.h2k")
        assert victim.read_text() == "kept"
    finally:
        state.unlink() if state.is_symlink() else shutil.rmtree(state)
