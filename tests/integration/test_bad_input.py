"""Bad input at the command line: one clear line, the right exit status, and not a byte changed."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.guests.build import cached
from tests.guests.vhdx import make_dirty_vhdx
from tests.guests.virtio_win import make_tree

ROOT = Path(__file__).resolve().parents[2]
H2K, V2V = ROOT / "wrappers" / "h2k", ROOT / "wrappers" / "h2k-v2v"
USAGE, REFUSED, READY = 2, 3, 0


def run(*argv: Any, env: Any = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(a) for a in argv], capture_output=True, text=True, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL
    )


def one_line(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    """The command ended with `status`, and the last line of what it said names every word; no traceback."""
    said = done.stdout + done.stderr
    assert done.returncode == status, said
    assert "Traceback" not in said
    assert any(all(word in line for word in words) for line in said.splitlines()), said


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of a made guest that no test here may change."""
    copy = tmp_path_factory.mktemp("bad") / "win2022.qcow2"
    shutil.copy(cached()["win2022"].disks[0], copy)
    before = hashlib.sha256(copy.read_bytes()).hexdigest()
    yield copy
    assert hashlib.sha256(copy.read_bytes()).hexdigest() == before


def _random(path: Path, windows: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(1024 * 1024))


def _zeros(path: Path, windows: Path) -> None:
    path.write_bytes(bytes(1024 * 1024))


def _truncated(path: Path, windows: Path) -> None:
    path.write_bytes(windows.read_bytes()[: 2 * 1024 * 1024])


def _broken_gpt(path: Path, windows: Path) -> None:
    subprocess.run(["qemu-img", "convert", "-O", "raw", windows, path], check=True)
    with open(path, "r+b") as image:
        image.seek(512)
        image.write(bytes(512))
        image.seek(-512, os.SEEK_END)
        image.write(bytes(512))


def _no_disk(path: Path, windows: Path) -> None:
    path.write_bytes(b"")


def _open_log(path: Path, windows: Path) -> None:
    make_dirty_vhdx(path)


def _text(path: Path, windows: Path) -> None:
    path.write_text("root:x:0:0:root:/root:/bin/bash\n" * 50)


IMAGES: dict[str, tuple[Callable[[Path, Path], None], int, tuple[str, ...]]] = {
    "random": (_random, USAGE, ("no disk image",)),
    "text": (_text, USAGE, ("no disk image",)),
    "zeros": (_zeros, READY, ("not Windows",)),
    "truncated": (_truncated, REFUSED, ("truncated",)),
    "broken-gpt": (_broken_gpt, REFUSED, ("GPT",)),
    "open-log": (_open_log, REFUSED, ("its log has still to be replayed", "on a copy")),
    "empty": (_no_disk, USAGE, ("empty", "no disk image")),
}


@pytest.mark.parametrize("case", IMAGES)
@pytest.mark.parametrize("command", ["verify", "fix"])
def test_images(case: str, command: str, windows: Path, drivers: Path, tmp_path: Path) -> None:
    make, status, words = IMAGES[case]
    image = tmp_path / "image"
    make(image, windows)
    before = image.read_bytes()
    one_line(run(H2K, command, image, "--drivers", drivers), status, *words)
    assert image.read_bytes() == before
    assert status != USAGE or list(tmp_path.glob("*.h2k")) == []


def test_missing_image_and_directory(tmp_path: Path, drivers: Path) -> None:
    one_line(run(H2K, "verify", tmp_path / "none.qcow2", "--drivers", drivers), USAGE, "none.qcow2", "No such file")
    one_line(run(H2K, "verify", tmp_path, "--drivers", drivers), USAGE, str(tmp_path), "directory")


@pytest.fixture
def held(windows: Path) -> Iterator[None]:
    """Another process has the image open for writing."""
    child = subprocess.Popen(["qemu-nbd", "--persistent", "-t", "-k", str(windows.with_name("held")), windows])
    while not windows.with_name("held").exists():
        assert child.poll() is None
        time.sleep(0.05)
    yield
    child.kill()
    child.wait()


def test_locked_image_is_read_and_not_written(windows: Path, held: None, drivers: Path) -> None:
    assert run(H2K, "verify", windows, "--drivers", drivers).returncode == 4
    one_line(run(H2K, "fix", windows, "--drivers", drivers), REFUSED, str(windows))


def test_virtio_win(windows: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    lacking = make_tree(tmp_path / "lacking", omit=["2k22"])
    odd = tmp_path / "odd.iso"
    odd.write_bytes(b"no ISO" * 1000)
    one_line(run(H2K, "verify", windows, "--drivers", tmp_path / "none"), USAGE, "none", "no such")
    one_line(run(H2K, "verify", windows, "--drivers", empty), USAGE, "empty")
    one_line(run(H2K, "verify", windows, "--drivers", odd), USAGE, "odd.iso")
    one_line(run(H2K, "verify", windows, "--drivers", lacking), REFUSED, "driver-package-missing", "2k22", "--bus sata")
    assert run(H2K, "plan", windows, "--drivers", lacking, "--bus", "sata").returncode == 4


@pytest.mark.parametrize(
    ("name", "text", "status", "words"),
    [
        ("g.vmx", "garbage\n", REFUSED, ("g.vmx:1",)),
        ("g.vmx", 'displayName = "g"\nscsi0:0.fileName = "none.vmdk"\n', REFUSED, ("none.vmdk",)),
        ("g.xml", "<domain>", REFUSED, ("g.xml",)),
        ("g.xml", "<network/>", REFUSED, ("g.xml", "<network>")),
    ],
)
def test_descriptions(name: str, text: str, status: int, words: tuple[str, ...], tmp_path: Path, drivers: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    out = tmp_path / "out"
    out.mkdir()
    kind = "vmx" if name.endswith("vmx") else "libvirtxml"
    one_line(run(V2V, "-i", kind, path, "-o", "local", "-os", out, "--h2k-drivers", drivers), status, *words)
    assert [p.name for p in out.iterdir() if p.suffix != ".h2k"] == []  # the record of the refusal alone


def test_plan_error_names_file_and_line(windows: Path, drivers: Path, tmp_path: Path) -> None:
    plan = tmp_path / "mine.yaml"
    plan.write_text("roles:\n  - name: x\n    colour: red\n")
    one_line(run(H2K, "verify", windows, "--drivers", drivers, "--plan", plan), USAGE, "mine.yaml", "line")


def test_usage(windows: Path) -> None:
    one_line(run(V2V, "-i", "disk", windows, "-o", "local", "-os", "/tmp", "--h2k-nonsense"), USAGE, "--h2k-nonsense")
    one_line(run(H2K, "verify", windows, "--hooks", windows.parent / "none"), USAGE, "none")
    assert run(H2K, "report", windows.parent).returncode == USAGE
