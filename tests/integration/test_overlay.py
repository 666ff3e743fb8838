"""Overlays on real images: killed at every point, no space, locks, other people's writes, and the way back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

import pytest

from h2k.base.errors import H2kError, Refused
from h2k.disk import undo
from h2k.disk.alive import noted, written_after
from h2k.disk.in_use import is_locked
from h2k.disk.overlay import Companion, DiskSet

ROOT = Path(__file__).resolve().parents[2]
SIZE = 24 * 1024 * 1024 + 512  # bytes; no multiple of a cluster, a page or a piece
POINTS = ["created", "save-undo-0", "save-undo-1", "committing", "commit-0", "read-back-0", "commit-1", "read-back-1", "committed"]

Images = list[tuple[Path, str]]

KILLER = """
import json, os, signal, subprocess, sys
from pathlib import Path
from h2k.disk import undo
from h2k.disk.alive import noted, written_after
from h2k.disk.overlay import DiskSet
point, action, state, images, writes = sys.argv[1:]
def mark(name):
    if name == point:
        os.kill(os.getpid(), signal.SIGKILL)
disks = DiskSet([(Path(p), f) for p, f in json.loads(images)], Path(state))
if action == "rollback":
    disks.rollback(on_step=mark)
else:
    print(disks.recover())
    for overlay, commands in zip(disks.create_overlays(), json.loads(writes)):
        subprocess.run(["qemu-io", "-f", "qcow2", *sum((["-c", c] for c in commands), []), str(overlay)], check=True, stdout=subprocess.DEVNULL)
    mark("created")
    disks.commit(on_step=mark)
"""

# For the first and the second disk: data, zeroes over data, a discard, the last bytes, something on untouched ground.
WRITES = [
    ["write -P 0xa1 64k 3M", "write -z 5M 1M", "write -P 0xa2 20M 64k", f"write -P 0xa3 {SIZE - 512} 512"],
    ["write -P 0xb1 1M 2M", "discard 6M 512k", "write -P 0xb2 12345856 4096"],
]


def qemu_io(image: Path, form: str, *commands: str) -> None:
    argv = ["qemu-io", "-f", form, *(word for command in commands for word in ("-c", command)), str(image)]
    subprocess.run(argv, check=True, capture_output=True)


def _convert(path: Path, form: str) -> bytes:
    """All that a guest would read, by a tool that h2k's own reading does not use."""
    raw = path.with_suffix(".content")
    subprocess.run(["qemu-img", "convert", "-U", "-f", form, "-O", "raw", str(path), str(raw)], check=True)
    data = raw.read_bytes()
    raw.unlink()
    return data


@pytest.fixture
def images(tmp_path: Path) -> Images:
    """A raw and a qcow2 disk with something on them."""
    raw, qcow2 = tmp_path / "g-sda", tmp_path / "g-sdb"
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", str(raw), str(SIZE)], check=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(qcow2), str(SIZE)], check=True)
    qemu_io(raw, "raw", "write -P 0x11 0 8M", "write -P 0x12 22M 1M")
    qemu_io(qcow2, "qcow2", "write -P 0x21 0 7M", "write -P 0x22 20M 100k")
    return [(raw, "raw"), (qcow2, "qcow2")]


def _mount(where: Path) -> int:
    return subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(where)], check=False).returncode


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system with 6 MiB of space."""
    where = tmp_path / "small"
    where.mkdir()
    if os.geteuid() != 0 or _mount(where) != 0:
        pytest.skip("needs root, to mount a small file system")
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


def contents(images: Images) -> list[bytes]:
    return [_convert(path, form) for path, form in images]


def run_killed(point: str, images: Images, state: Path, action: str = "fix") -> subprocess.CompletedProcess[str]:
    named = json.dumps([[str(path), form] for path, form in images])
    argv = [sys.executable, "-c", KILLER, point, action, str(state), named, json.dumps(WRITES)]
    return subprocess.run(argv, check=False, cwd=ROOT, capture_output=True, text=True)


def expected(images: Images, tmp_path: Path) -> list[bytes]:
    """What the disks hold once WRITES have been made, by qemu-io on copies."""
    copies = [(shutil.copy(path, tmp_path / f"expected-{path.name}"), form) for path, form in images]
    for (path, form), commands in zip(copies, WRITES):
        qemu_io(path, form, *(c.replace("discard", "write -z") for c in commands))
    return contents(copies)


def committed(images: Images, state: Path, writes: list[list[str]] = WRITES, kind: str = "fix") -> DiskSet:
    disks = DiskSet(images, state)
    for overlay, commands in zip(disks.create_overlays(kind), writes):
        qemu_io(overlay, "qcow2", *commands)
    disks.commit()
    return disks


@pytest.mark.parametrize("action", ["fix", "rollback"])
def test_a_write_right_after_a_kill_is_told(action: str, images: Images, tmp_path: Path) -> None:
    """Beside what the run wrote, where no digest tells it, and within a second."""
    state = tmp_path / "g.h2k"
    if action == "rollback":
        committed(images, state)
    killed = run_killed("commit-1" if action == "fix" else "restore-1", images, state, action)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with open(state / "alive", "rb") as alive:  # the note takes some milliseconds
        while is_locked(alive.fileno()):
            time.sleep(0.001)
    before = images[0][0].stat().st_mtime_ns
    with open(images[0][0], "r+b") as disk:
        disk.seek(10 << 20)
        disk.write(b"the guest")
    os.utime(images[0][0], ns=(before + 1, before + 1))  # as soon as can be
    disks = DiskSet(images, state)
    for call in (disks.recover, disks.rollback):
        with pytest.raises(Refused, match=r"g-sda: somebody has written to it since"):
            call()
    disks.rollback(force=True)


ORPHAN = """
import os, signal, subprocess, sys
from pathlib import Path
from h2k.disk.alive import beating
image = sys.argv[1]
with beating(Path(sys.argv[2]), [image]):
    subprocess.Popen(["sh", "-c", "sleep 0.7; echo late >> $0; sleep 0.3", image], start_new_session=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_had_started_may_write_until_it_ends(tmp_path: Path) -> None:
    image, file = tmp_path / "g", tmp_path / "alive"
    image.touch()
    subprocess.run([sys.executable, "-c", ORPHAN, str(image), str(file)], cwd=ROOT, check=False)
    known: list[dict[str, Any]] = [{"path": str(image), "found": 1, "mtime": 1}]
    assert written_after(file, known) is None
    assert image.read_text() == "late\n", "it was waited for"
    image.write_text("somebody")
    assert written_after(file, known) == str(image)


@pytest.mark.parametrize("point", POINTS)
def test_killed_then_the_same_command_again(point: str, images: Images, tmp_path: Path) -> None:
    old, new, state = contents(images), expected(images, tmp_path), tmp_path / "g.h2k"
    killed = run_killed(point, images, state)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    if point in POINTS[:3]:
        assert contents(images) == old
    disks = DiskSet(images, state)
    outcome = disks.recover()
    assert outcome == ("discarded" if point in POINTS[:3] else "finished")
    assert contents(images) == (old if outcome == "discarded" else new)
    assert not list(state.glob("overlay-*"))
    disks.release()
    again = run_killed("never", images, state)
    assert (again.returncode, again.stdout) == (0, "clean\n"), again.stderr
    assert contents(images) == new


def test_killed_while_qemu_img_writes(images: Images, tmp_path: Path) -> None:
    """Half of a piece is new, within it whole pages: what a write that was cut off leaves."""
    new, state = expected(images, tmp_path), tmp_path / "g.h2k"
    assert run_killed("commit-1", images, state).returncode == -signal.SIGKILL
    qemu_io(images[1][0], "qcow2", "write -P 0xb1 1M 460k", "write -P 0xb1 2M 4k")
    noted(state / "alive", [str(path) for path, _ in images])  # as if the killed run had written it
    assert DiskSet(images, state).recover() == "finished"
    assert contents(images) == new


@pytest.mark.parametrize("point", ["committing", "commit-1", "read-back-1"])
def test_unfinished_commit_can_be_rolled_back(point: str, images: Images, tmp_path: Path) -> None:
    old, state = contents(images), tmp_path / "g.h2k"
    assert run_killed(point, images, state).returncode == -signal.SIGKILL
    DiskSet(images, state).rollback()
    assert contents(images) == old
    assert DiskSet(images, state).recover() == "clean"


@pytest.mark.parametrize("point", ["rolling-back", "restore-0", "restore-1"])
def test_rollback_killed_then_again(point: str, images: Images, tmp_path: Path) -> None:
    old, state = contents(images), tmp_path / "g.h2k"
    committed(images, state).release()
    assert run_killed(point, images, state, "rollback").returncode == -signal.SIGKILL
    assert DiskSet(images, state).recover() == "rolled back"
    assert contents(images) == old


def test_a_fresh_disk_is_never_resumed(images: Images, tmp_path: Path) -> None:
    state = tmp_path / "g.h2k"
    assert run_killed("commit-0", images, state).returncode == -signal.SIGKILL
    path = images[0][0]
    path.unlink()
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", str(path), str(SIZE)], check=True)
    qemu_io(path, "raw", "write -P 0x77 0 24M")
    fresh = path.read_bytes()
    with pytest.raises(Refused, match="not the disk"):
        DiskSet(images, state).recover()
    with pytest.raises(Refused, match="not the disk"):
        DiskSet(images, state).rollback(force=True)
    assert path.read_bytes() == fresh


def test_a_fresh_disk_has_no_way_back_to_the_old_one(images: Images, tmp_path: Path) -> None:
    state, old = tmp_path / "g.h2k", contents(images)
    committed(images, state).release()
    for path, form in images:
        path.unlink()
        subprocess.run(["qemu-img", "create", "-q", "-f", form, str(path), str(SIZE)], check=True)
        qemu_io(path, form, "write -P 0x77 0 20M")
    fresh = contents(images)
    with pytest.raises(Refused, match="another disk"):
        DiskSet(images, state).rollback(force=True)
    disks = committed(images, state)
    assert disks.history == ("fix",)
    disks.rollback()
    assert contents(images) == fresh != old
    assert not list(state.glob("undo-*"))


def test_one_disk_more_takes_no_way_back(images: Images, tmp_path: Path) -> None:
    """The second of two disks was added after the repair: its overlays thrown away, then committed, then all undone."""
    state, old = tmp_path / "g.h2k", contents(images)
    committed(images[:1], state).release()
    repaired = contents(images)
    disks = DiskSet(images, state)
    disks.create_overlays("boot")
    disks.discard()
    assert disks.history == ("fix",) and list(state.glob("undo-0-*"))
    disks = committed(images, state, WRITES, "boot")
    assert disks.history == ("fix", "boot")
    assert disks.rollback().kind == "boot" and contents(images) == repaired
    assert disks.rollback().kind == "fix" and contents(images) == old


def test_undo_data_go_with_the_commit_of_other_disks_and_not_before(images: Images, tmp_path: Path) -> None:
    state = tmp_path / "g.h2k"
    committed(images, state).release()
    kept = [(path, path.read_bytes()) for path, _ in images]
    for path, form in images:
        path.unlink()
        subprocess.run(["qemu-img", "create", "-q", "-f", form, str(path), "8M"], check=True)
    disks = DiskSet(images, state)
    disks.create_overlays("fix")
    disks.discard()
    assert disks.history == ("fix",) and list(state.glob("undo-0-*"))
    for path, data in kept:
        path.write_bytes(data)
    disks.rollback(force=True)
    assert disks.history == ()


def test_an_unfinished_boot_is_taken_back_and_the_repair_stays(images: Images, tmp_path: Path) -> None:
    disks = committed(images, tmp_path / "g.h2k")
    repaired = contents(images)
    disks.create_overlays("boot")
    disks.release()
    assert DiskSet(images, tmp_path / "g.h2k").rollback().kind == "unfinished boot"
    assert contents(images) == repaired and disks.history == ("fix",)


def test_locks_held_over_several_calls(images: Images, tmp_path: Path) -> None:
    disks, other = DiskSet(images, tmp_path / "g.h2k"), DiskSet(images, tmp_path / "g.h2k")
    with disks.held():
        disks.create_overlays("boot")
        disks.discard()
        disks.create_overlays("boot")
        disks.keep()
        disks.release()
        with pytest.raises(Refused, match="another h2k"):
            other.rollback()
    other.rollback()


def test_zeroes_discards_and_the_last_bytes(images: Images, tmp_path: Path) -> None:
    old, new = contents(images), expected(images, tmp_path)
    disks = committed(images, tmp_path / "g.h2k")
    assert contents(images) == new != old
    result = disks.rollback()
    assert result.kind == "fix" and result.disks[str(images[0][0])] > 0
    assert contents(images) == old


def test_undo_is_a_stack(images: Images, tmp_path: Path) -> None:
    state, first = tmp_path / "g.h2k", contents(images)
    committed(images, state)
    second = contents(images)
    disks = committed(images, state, [["write -P 0xc1 0 5M"], ["write -P 0xc2 2M 64k"]], "boot")
    assert disks.history == ("fix", "boot")
    assert disks.rollback().kind == "boot"
    assert contents(images) == second
    assert disks.rollback().kind == "fix"
    assert contents(images) == first
    with pytest.raises(Refused, match="nothing was committed"):
        disks.rollback()


def test_somebody_has_written_since(images: Images, tmp_path: Path) -> None:
    old = contents(images)
    disks = committed(images, tmp_path / "g.h2k")
    qemu_io(images[1][0], "qcow2", "write -P 0x99 23M 64k")
    written = contents(images)
    with pytest.raises(Refused, match="somebody has written"):
        disks.rollback()
    assert contents(images) == written
    disks.rollback(force=True)
    after = contents(images)
    assert after[0] == old[0]
    assert after[1][: 23 * 2**20] == old[1][: 23 * 2**20] and after[1][23 * 2**20] == 0x99


def test_somebody_writes_in_between(images: Images, tmp_path: Path) -> None:
    disks = DiskSet(images, tmp_path / "g.h2k")
    overlays = disks.create_overlays()
    qemu_io(overlays[0], "qcow2", *WRITES[0])
    qemu_io(images[1][0], "qcow2", "write -P 0x55 0 64k")
    written = contents(images)
    with pytest.raises(Refused, match="somebody has written"):
        disks.commit()
    assert contents(images) == written
    assert disks.how_far == "idle" and not list((tmp_path / "g.h2k").glob("*.qcow2"))


def test_backing_chain(images: Images, tmp_path: Path) -> None:
    top = tmp_path / "g-top"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(images[1][0]), str(top)], check=True)
    qemu_io(top, "qcow2", "write -P 0x31 1M 256k")
    base, chain = images[1][0].read_bytes(), [(top, "qcow2")]
    old = contents(chain)
    disks = committed(chain, tmp_path / "t.h2k", [WRITES[0]])
    assert contents(chain) != old
    disks.rollback()
    assert contents(chain) == old
    assert images[1][0].read_bytes() == base


def test_no_space_for_the_undo_data(images: Images, small: Path) -> None:
    old = contents(images)
    disks = DiskSet(images, small / "g.h2k")
    overlays = disks.create_overlays()
    qemu_io(overlays[0], "qcow2", "write -P 0xa1 0 3M")
    qemu_io(overlays[1], "qcow2", "write -P 0xa1 0 1M")
    with pytest.raises(H2kError, match="No space left"):
        disks.commit()
    assert contents(images) == old
    assert disks.how_far == "idle" and not list(small.glob("g.h2k/*.qcow2"))


def test_no_space_for_the_overlay(images: Images, small: Path) -> None:
    (small / "filler").write_bytes(bytes(6 * 2**20 - 64 * 1024))
    disks = DiskSet(images, small / "g.h2k")
    with pytest.raises(H2kError, match=r"No space left|qemu-img"):
        disks.create_overlays()
    (small / "filler").unlink()
    assert disks.recover() in ("clean", "discarded")


def test_no_space_in_the_image(images: Images, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two disks: the first is committed, the second can't be; both are what they were."""
    path = small / "g-sdb"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(SIZE)], check=True)
    qemu_io(path, "qcow2", "write -P 0x21 0 2M")
    both = [images[0], (path, "qcow2")]
    old = _convert(*images[0])
    disks = DiskSet(both, tmp_path / "g.h2k")
    overlays = disks.create_overlays()
    qemu_io(overlays[0], "qcow2", *WRITES[0])
    qemu_io(overlays[1], "qcow2", "write -P 0xee 1M 8M")
    fill = small / "filler"

    def somebody_fills_the_disk(point: str) -> None:
        if point == "commit-1":
            fill.write_bytes(bytes(shutil.disk_usage(small).free - 64 * 1024))

    with pytest.raises(H2kError, match="No space left for the commit"):
        disks.commit()
    assert _convert(*images[0]) == old and disks.how_far == "idle"
    monkeypatch.setattr(undo, "require_room", lambda needs: None)
    overlays = disks.create_overlays()
    qemu_io(overlays[0], "qcow2", *WRITES[0])
    qemu_io(overlays[1], "qcow2", "write -P 0xee 1M 2M")
    with pytest.raises(H2kError, match="old content again"):
        disks.commit(on_step=somebody_fills_the_disk)
    assert _convert(*images[0]) == old
    shutil.copy(path, tmp_path / "after")
    assert _convert(tmp_path / "after", "qcow2") == b"\x21" * 2**21 + bytes(SIZE - 2**21)
    assert disks.how_far == "idle" and disks.history == ()


def test_image_in_use(images: Images, tmp_path: Path) -> None:
    with subprocess.Popen(["qemu-io", "-f", "qcow2", str(images[1][0])], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        assert user.stdin is not None and user.stdout is not None
        user.stdin.write(b"read 0 512\n")
        user.stdin.flush()
        user.stdout.readline()
        with pytest.raises(Refused, match="in use"):
            DiskSet(images, tmp_path / "g.h2k").create_overlays()
        user.stdin.close()


def test_read_only_image(images: Images, tmp_path: Path) -> None:
    images[1][0].chmod(0o444)
    with pytest.raises(Refused, match=r"g-sdb: read-only|can't be written"):
        DiskSet(images, tmp_path / "g.h2k").create_overlays()


def test_two_runs_at_once(images: Images, tmp_path: Path) -> None:
    first = DiskSet(images, tmp_path / "g.h2k")
    first.create_overlays()
    with pytest.raises(Refused, match=r"g\.h2k: another h2k"):
        DiskSet(images, tmp_path / "g.h2k").create_overlays()
    with pytest.raises(Refused, match="g-sdb: another h2k"):
        DiskSet(images[1:], tmp_path / "other.h2k").create_overlays()
    first.discard()
    first.release()
    DiskSet(images[1:], tmp_path / "other.h2k").create_overlays()


def test_kept_overlays(images: Images, tmp_path: Path) -> None:
    state, old, new = tmp_path / "g.h2k", contents(images), expected(images, tmp_path)
    disks = DiskSet(images, state)
    for overlay, commands in zip(disks.create_overlays("boot"), WRITES):
        qemu_io(overlay, "qcow2", *commands)
    disks.keep()
    assert DiskSet(images, state).recover() == "kept"
    with pytest.raises(Refused, match="kept"):
        DiskSet(images, state).create_overlays()
    again = DiskSet(images, state)
    again.commit()
    assert contents(images) == new
    again.rollback()
    for overlay, commands in zip(again.create_overlays("boot"), WRITES):
        qemu_io(overlay, "qcow2", *commands)
    again.keep()
    with subprocess.Popen(["qemu-nbd", "--socket", str(tmp_path / "s"), "-f", "qcow2", str(again.overlays[1])]) as guest:
        while not (tmp_path / "s").exists():
            time.sleep(0.05)
        with pytest.raises(Refused, match=r"overlay-1.qcow2: a guest runs on it"):
            DiskSet(images, state).rollback()
        guest.terminate()
    assert DiskSet(images, state).rollback().kind == "kept overlay"
    assert contents(images) == old and not list(state.glob("overlay-*"))


OLD_VARIABLES, NEW_VARIABLES = (bytes(40) + b"_FVH" + word.ljust(84) for word in (b"old", b"new"))


def with_variables(images: Images, state: Path, path: Path) -> DiskSet:
    disks = DiskSet(images, state)
    disks.create_overlays("boot")
    work = state / "boot" / "nvram.fd"
    work.parent.mkdir(exist_ok=True)
    work.write_bytes(NEW_VARIABLES)
    disks.commit(companions=[Companion(work, path)])
    assert not work.exists()
    return disks


@pytest.mark.parametrize("mode", [0o600, 0o640, None])
def test_firmware_variables_go_with_the_disks(mode: Optional[int], images: Images, tmp_path: Path) -> None:
    """With their mode and owner, which the undo data carry and show nobody else."""
    state, path = tmp_path / "g.h2k", tmp_path / "vars.fd"
    if mode is not None:
        path.write_bytes(OLD_VARIABLES)
        path.chmod(mode)
        os.chown(path, os.geteuid(), 6 if os.geteuid() == 0 else -1)
    before = path.stat() if mode is not None else None
    disks = with_variables(images, state, path)
    assert path.read_bytes() == NEW_VARIABLES and stat.S_IMODE(path.stat().st_mode) == (mode or 0o600)
    assert all(stat.S_IMODE(undo.stat().st_mode) == 0o600 for undo in state.glob("undo-*"))
    disks.rollback()
    if before is None:
        assert not path.exists()
    else:
        after = path.stat()
        assert path.read_bytes() == OLD_VARIABLES
        assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


@pytest.mark.parametrize("what", ["text", "link"])
def test_a_file_that_holds_no_firmware_variables_is_never_replaced(what: str, images: Images, tmp_path: Path) -> None:
    victim, path, state, old = tmp_path / "shadow", tmp_path / "vars.fd", tmp_path / "g.h2k", contents(images)
    victim.write_text("root:secret")
    (path.symlink_to if what == "link" else victim.rename)(victim if what == "link" else path)
    with pytest.raises(Refused, match=r"vars\.fd: (a link|holds no firmware variables)"):
        with_variables(images, state, path)
    assert path.read_text() == "root:secret" and contents(images) == old


@pytest.mark.parametrize("text", ["[" * 100_000, '{"phase": "idle", "work": null, "stack": [7]}', "", "{}", '{"phase": "applying", "stack": []}', '{"phase": "x", "work": null, "stack": []}', "[1]"])
def test_journal_that_makes_no_sense(text: str, images: Images, tmp_path: Path) -> None:
    state = tmp_path / "g.h2k"
    state.mkdir()
    (state / "journal.json").write_text(text)
    old = contents(images)
    with pytest.raises(Refused, match=r"journal.json"):
        DiskSet(images, state).recover()
    assert contents(images) == old


# Somebody uses them, or has written to them


@contextmanager
def used(image: Path, form: str, write: Sequence[str] = ()) -> Iterator[None]:
    """A QEMU has the image open for writing, and writes."""
    with subprocess.Popen(["qemu-io", "-f", form, str(image)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        assert user.stdin is not None and user.stdout is not None
        for command in (*write, "read 0 512"):
            user.stdin.write(command.encode() + b"\n")
            user.stdin.flush()
            user.stdout.readline()
        yield
        user.stdin.close()


@pytest.mark.parametrize("number", [0, 1])
def test_rollback_of_a_disk_in_use_leaves_the_journal_as_it_was(number: int, images: Images, tmp_path: Path) -> None:
    """A raw image too, on which qemu-img itself sees no lock."""
    state = tmp_path / "g.h2k"
    disks, new = committed(images, state), contents(images)
    with used(*images[number]), pytest.raises(Refused, match=r"source-running: .*in use by qemu-io"):
        disks.rollback()
    assert contents(images) == new and (disks.how_far, disks.history) == ("idle", ("fix",))
    disks.rollback()


def test_an_unfinished_way_back_is_not_gone_on_with_after_somebody_wrote(images: Images, tmp_path: Path) -> None:
    state = tmp_path / "g.h2k"
    committed(images, state).release()
    assert run_killed("restore-1", images, state, "rollback").returncode == -signal.SIGKILL
    later(images, "write -P 0x99 23M 64k")
    written = contents(images)
    for action in (DiskSet(images, state).recover, DiskSet(images, state).rollback):
        with pytest.raises(Refused, match=r"g-sda: somebody has written to it since .*rollback --force"):
            action()
    assert contents(images) == written
    DiskSet(images, state).rollback(force=True)
    assert contents(images)[0][23 * 2**20] == 0x99


def test_an_unfinished_commit_is_not_gone_on_with_after_somebody_wrote(images: Images, tmp_path: Path) -> None:
    state = tmp_path / "g.h2k"
    assert run_killed("commit-1", images, state).returncode == -signal.SIGKILL
    later(images, "write -P 0x99 23M 64k")
    written = contents(images)
    with pytest.raises(Refused, match="somebody has written to it since"):
        DiskSet(images, state).recover()
    assert contents(images) == written


def later(images: Images, *commands: str) -> None:
    """A write when the killed run can't have written any more, by the clock of the files."""
    qemu_io(*images[0], *commands)
    at = time.time() + 60
    os.utime(images[0][0], (at, at))


def test_going_back_onto_a_blank_disk_is_refused_by_force_too(images: Images, tmp_path: Path) -> None:
    """A commit that wrote zeros among others: they prove nothing."""
    state = tmp_path / "g.h2k"
    committed(images, state).release()
    for path, form in images:
        path.unlink()
        subprocess.run(["qemu-img", "create", "-q", "-f", form, str(path), str(SIZE)], check=True)
    with pytest.raises(Refused, match="another disk"):
        DiskSet(images, state).rollback(force=True)


def test_a_directory_that_others_can_write_is_refused_before_its_journal_is_read(images: Images, tmp_path: Path) -> None:
    state = tmp_path / "g.h2k"
    committed(images, state).release()
    state.chmod(0o777)
    for action in (DiskSet(images, state).recover, DiskSet(images, state).rollback, DiskSet(images, state).create_overlays):
        with pytest.raises(Refused, match=r"g\.h2k: others can write to it"):
            action()


def test_what_is_full_when_the_way_back_begins_has_room_for_it(images: Images, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report directory's file system is filled in mid-commit: the journal of the way back was reserved."""
    old, disks = contents(images), DiskSet(images, small / "g.h2k")
    for overlay in disks.create_overlays():
        qemu_io(overlay, "qcow2", "write -P 0xa1 1M 256k")

    def full(point: str) -> None:
        if point == "read-back-1":
            (small / "filler").write_bytes(bytes(shutil.disk_usage(small).free - 4096))
            raise H2kError("planted")

    with pytest.raises(H2kError, match="old content again: planted"):
        disks.commit(on_step=full)
    assert contents(images) == old and disks.how_far == "idle"
    assert sorted(p.name for p in (small / "g.h2k").iterdir()) == ["journal.json", "lock"]
