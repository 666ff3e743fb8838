"""Recovery after a kill at every step, and rollback: what is given back, to which disks, and when that is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

import pytest

from h2k.base.errors import H2kError, Refused
from h2k.disk import alive, overlay, undo
from h2k.disk.overlay import Companion, DiskSet
from tests.unit.fake_images import FORMATS, PAGE, Guest, Killed, Signs, killer, used

VARIABLES, BOOTED = (b"QFI\xfb" + bytes([n]) * 60 for n in (1, 2))
NEW = 0xA0  # what the commit writes


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guest:
    return Guest(tmp_path, monkeypatch)


@pytest.fixture
def nvram(guest: Guest) -> Companion:
    """Firmware variables that a boot has worked on."""
    (guest.state / "boot").mkdir(mode=0o755, parents=True)
    guest.state.chmod(0o711)
    work = guest.state / "boot" / "nvram.fd"
    work.write_bytes(BOOTED)
    return Companion(work, guest.state.parent / "g_VARS.fd")


def as_new(guest: Guest) -> list[bytes]:
    """The content after the commit."""
    a, b = (bytearray(content) for content in guest.first)
    a[PAGE : 2 * PAGE] = b[PAGE : 2 * PAGE] = bytes([NEW]) * PAGE
    a[3 * PAGE :] = bytes([NEW + 1]) * PAGE
    return [bytes(a), bytes(b)]


def rolling_back(guest: Guest, step: str) -> None:
    """A rollback that is killed."""
    guest.committed(NEW)
    with pytest.raises(Killed):
        guest.disks().rollback(on_step=killer(step))


def write_later(guest: Guest, at: int = 2 * PAGE) -> None:
    """A write beside what the killed run wrote, right after it."""
    guest.storage.write(guest.images[1], at, b"x")
    later = guest.images[1].stat().st_mtime_ns + 1
    os.utime(guest.images[1], ns=(later, later))


# Recovery


@pytest.mark.parametrize("step", ["save-undo-0", "save-undo-1"])
def test_a_kill_before_the_commit_leaves_the_disks(step: str, guest: Guest) -> None:
    guest.killed_at(step)
    disks = guest.disks()
    assert disks.recover() == "discarded"
    assert (guest.content, disks.how_far, disks.history, guest.left) == (guest.first, "idle", (), [])
    assert guest.disks().recover() == "clean"


@pytest.mark.parametrize(
    ("step", "again"),
    [
        ("committing", ["overlay-0", "overlay-1"]), ("commit-0", ["overlay-0", "overlay-1"]), ("read-back-0", ["overlay-1"]),
        ("commit-1", ["overlay-1"]), ("read-back-1", []), ("committed", []),
    ],
)  # fmt: skip
def test_a_kill_during_the_commit_is_finished(step: str, again: list[str], guest: Guest, nvram: Companion) -> None:
    guest.killed_at(step, companions=[nvram])
    guest.storage.log.clear()
    disks = guest.disks()
    assert disks.recover() == "finished"
    assert [event for event in guest.storage.log if event.startswith("commit")] == [f"commit {name}.qcow2" for name in again]
    assert guest.content == as_new(guest) and nvram.path.read_bytes() == BOOTED and not nvram.work.exists()
    assert (disks.how_far, disks.history, guest.left) == ("idle", ("fix",), ["boot", "undo-0-0.qcow2", "undo-0-1.qcow2"])
    assert sum(disks.rollback().disks.values()) == 3 * PAGE
    assert guest.content == guest.first and not nvram.path.exists()


@pytest.mark.parametrize("step", ["rolling-back", "restore-0", "restore-1"])
def test_a_kill_on_the_way_back_is_rolled_back(step: str, guest: Guest) -> None:
    rolling_back(guest, step)
    disks = guest.disks()
    assert disks.how_far == "rolling-back"
    assert disks.recover() == "rolled back"
    assert (guest.content, disks.how_far, disks.history, guest.left) == (guest.first, "idle", (), [])


def test_the_way_back_says_that_it_lives(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alive, "BEAT", 10.0)
    guest.committed(NEW)
    signs = Signs(guest.state / "alive")
    guest.disks().rollback(on_step=signs)
    assert signs.fresh == ["rolling-back", "restore-0"]


@pytest.mark.parametrize("step", ["commit-1", "rolling-back"])
def test_the_way_back_uses_the_reserve(step: str, guest: Guest) -> None:
    if step == "commit-1":
        guest.killed_at(step)
    else:
        rolling_back(guest, step)
        (guest.state / "journal.spare").touch()
    guest.stored.clear()
    guest.disks().rollback()
    assert guest.stored == [("rolling-back", False), ("idle", False)]
    assert guest.content == guest.first


def test_recovery_uses_the_reserve(guest: Guest) -> None:
    rolling_back(guest, "restore-1")
    (guest.state / "journal.spare").touch()
    guest.stored.clear()
    guest.disks().recover()
    assert guest.stored == [("idle", False)]


def test_recovery_of_a_piece_that_is_half_new(guest: Guest) -> None:
    disks = guest.prepared(NEW)
    guest.storage.write(disks.overlays[0], 2 * PAGE, bytes([NEW]) * PAGE)  # one piece of three pages
    with pytest.raises(Killed):
        disks.commit(killer("commit-0"))
    guest.storage.write(guest.images[0], 2 * PAGE, bytes([NEW]) * PAGE)
    alive.noted(guest.state / "alive", [str(path) for path in guest.images])  # by what outlives the run
    assert guest.disks().recover() == "finished"
    assert guest.content[0] == guest.first[0][:PAGE] + bytes([NEW]) * 2 * PAGE + bytes([NEW + 1]) * PAGE


@pytest.mark.parametrize("step", ["committing", "commit-1"])
@pytest.mark.parametrize("force", [None, False, True])
def test_neither_old_nor_new_is_another_disk(step: str, force: Optional[bool], guest: Guest) -> None:
    guest.killed_at(step)
    guest.storage.write(guest.images[1], PAGE, b"x")
    theirs, disks = guest.content, guest.disks()
    with pytest.raises(Refused, match=r"g-sdb: not the disk that the unfinished run in .* was writing"):
        disks.recover() if force is None else disks.rollback(force=force)
    assert (guest.content, disks.how_far) == (theirs, "committing")


def test_somebody_has_written_to_it_since_the_kill(guest: Guest) -> None:
    guest.killed_at("commit-1")
    write_later(guest)
    theirs, disks = guest.content, guest.disks()
    for call in (disks.recover, disks.rollback):
        with pytest.raises(Refused, match=r"g-sdb: somebody has written to it since .*h2k rollback --force"):
            call()
    assert (guest.content, disks.how_far) == (theirs, "committing")
    disks.rollback(force=True)
    assert guest.content[0] == guest.first[0] and guest.content[1] == theirs[1]


def test_no_recovery_while_somebody_uses_a_disk(guest: Guest) -> None:
    guest.killed_at("commit-1")
    disks = guest.disks()
    with used(guest.images[1]), pytest.raises(Refused, match="source-running"):
        disks.recover()
    assert disks.how_far == "committing"
    assert disks.recover() == "finished"


@pytest.mark.parametrize("order", [[0], [1, 0], [0, 1, 2]])
def test_no_recovery_of_other_disks(order: list[int], guest: Guest) -> None:
    guest.killed_at("commit-1")
    half = guest.content
    third = guest.state.parent / "g-sdc"
    third.write_bytes(bytes(PAGE))
    known = [*((path, FORMATS[path.name]) for path in guest.images), (third, "raw")]
    disks = DiskSet([known[number] for number in order], guest.state)
    with pytest.raises(Refused, match=r"an unfinished run is on .*g-sda, .*g-sdb \(name those disks"):
        disks.recover()
    assert guest.content == half


@pytest.mark.parametrize("phase", ["applying", "kept"])
def test_overlays_stay_while_a_guest_runs_on_them(phase: str, guest: Guest) -> None:
    disks = guest.prepared(NEW, "boot")
    if phase == "kept":
        disks.keep()
    disks.release()
    with used(disks.overlays[1]):
        for call in (disks.rollback, *([disks.recover] if phase == "applying" else [])):
            with pytest.raises(Refused, match=r"overlay-1\.qcow2: a guest runs on it"):
                call()
    assert (disks.how_far, guest.left) == (phase, ["overlay-0.qcow2", "overlay-1.qcow2"])


def test_a_guest_that_was_killed_with_the_run_has_time_to_end(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    disks = guest.prepared(NEW, "boot")
    disks.release()
    monkeypatch.setattr(overlay, "_ORPHAN_LIMIT", 10.0)
    user = used(disks.overlays[0])
    user.__enter__()

    def sleep(seconds: float) -> None:
        assert seconds > 0
        user.__exit__(None, None, None)

    monkeypatch.setattr(overlay.time, "sleep", sleep)
    assert disks.recover() == "discarded"


# Rollback


def test_the_last_commit_is_undone_first(guest: Guest) -> None:
    repaired = guest.committed(0x50)
    booted = guest.committed(NEW, "boot")
    assert guest.disks().history == ("fix", "boot") and booted != repaired
    undone = guest.disks().rollback()
    assert str(undone) == f"the boot is undone: {guest.images[0]} (8192 bytes restored), {guest.images[1]} (4096 bytes restored)"
    assert (guest.content, guest.disks().history, guest.left) == (repaired, ("fix",), ["undo-0-0.qcow2", "undo-0-1.qcow2"])
    assert guest.disks().rollback().kind == "fix"  # without force: nobody but h2k has written
    assert (guest.content, guest.disks().history, guest.left) == (guest.first, (), [])
    with pytest.raises(Refused, match="nothing was committed"):
        guest.disks().rollback()


def test_three_commits_are_undone_one_by_one(guest: Guest) -> None:
    contents = [guest.first, guest.committed(0x50), guest.committed(0x70, "boot"), guest.committed(NEW, "boot")]
    while len(contents) > 1:
        contents.pop()
        guest.disks().rollback()  # without force
        assert guest.content == contents[-1]


def test_who_wrote_between_two_commits_is_not_forgotten(guest: Guest) -> None:
    guest.committed(0x50)
    guest.storage.write(guest.images[1], 2 * PAGE, b"x")
    guest.committed(NEW, "boot")
    guest.disks().rollback()
    with pytest.raises(Refused, match="g-sdb: somebody has written to it since the commit"):
        guest.disks().rollback()
    guest.disks().rollback(force=True)


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("at", [PAGE, 2 * PAGE])
def test_who_has_written_since_the_commit(at: int, hidden: bool, guest: Guest) -> None:
    guest.committed(NEW)
    time_ns = guest.images[0].stat().st_mtime_ns
    guest.storage.write(guest.images[0], at, b"\xee")
    if hidden:
        os.utime(guest.images[0], ns=(time_ns, time_ns))
    theirs = guest.content
    if hidden and at != PAGE:  # beside what the commit wrote: nothing tells
        guest.disks().rollback()
        return
    with pytest.raises(Refused, match=r"g-sda: somebody has written to it since the commit .*--force does it all the same"):
        guest.disks().rollback()
    assert guest.content == theirs and guest.disks().history == ("fix",)
    guest.disks().rollback(force=True)
    assert guest.content[0][PAGE : 2 * PAGE] == guest.first[0][PAGE : 2 * PAGE]


@pytest.mark.parametrize("byte", [0x00, 0x77])
def test_another_disk_is_never_rolled_back(byte: int, guest: Guest) -> None:
    disks = guest.prepared(NEW)
    guest.storage.write(disks.overlays[1], 3 * PAGE, bytes(PAGE))  # zeros, which a blank disk has too
    disks.commit()
    guest.storage.write(guest.images[1], 0, bytes([byte]) * 4 * PAGE)
    theirs = guest.content
    with pytest.raises(Refused, match="g-sdb: nothing of what h2k wrote is on it: another disk"):
        disks.rollback(force=True)
    assert (guest.content, disks.how_far, disks.history) == (theirs, "idle", ("fix",))
    with pytest.raises(Refused, match="somebody has written"):
        disks.rollback()


def test_no_rollback_while_somebody_reads_a_disk(guest: Guest) -> None:
    guest.committed(NEW)
    with used(guest.images[1], 100, 201, 203), pytest.raises(Refused, match="source-running"):
        guest.disks().rollback()
    assert guest.content == as_new(guest)


def test_rollback_of_the_disks_of_the_commit(guest: Guest) -> None:
    guest.committed(NEW, count=1)
    assert guest.disks(2).rollback().disks == {str(guest.images[0]): 2 * PAGE}  # a data disk was named since
    guest.committed(NEW)
    with pytest.raises(Refused, match=r"the last commit was on .*g-sda, .*g-sdb \(name those disks"):
        guest.disks(1).rollback()
    assert guest.content == as_new(guest)


def test_only_what_differs_is_written_back(guest: Guest) -> None:
    guest.killed_at("commit-1")
    guest.storage.log.clear()
    assert guest.disks().rollback().disks == {str(guest.images[0]): 2 * PAGE, str(guest.images[1]): 0}
    assert [event for event in guest.storage.log if event.startswith("restore")] == ["restore g-sda"] * 2
    assert guest.storage.log.count("sync g-sda") == 1
    assert (guest.content, guest.disks().history, guest.left) == (guest.first, (), [])


def test_what_does_not_read_back_is_still_to_be_rolled_back(guest: Guest) -> None:
    guest.committed(NEW)
    guest.storage.losing.add("g-sdb")
    disks = guest.disks()
    with pytest.raises(H2kError, match=r"g-sdb: the restored blocks do not read back \(run h2k rollback again"):
        disks.rollback()
    assert disks.how_far == "rolling-back" and "undo-0-1.qcow2" in guest.left
    guest.storage.losing.clear()
    with disks.held():  # which nobody can have, had the first not let go
        disks.rollback()
    assert (guest.content, guest.left) == (guest.first, [])


@pytest.mark.parametrize(("kept", "kind", "said"), [(True, "boot", "kept overlay"), (True, "fix", "kept overlay"), (False, "boot", "unfinished boot")])
def test_overlays_are_thrown_away_and_the_repair_stays(kept: bool, kind: str, said: str, guest: Guest, nvram: Companion) -> None:
    repaired = guest.committed(0x50)
    disks = guest.prepared(NEW, kind)
    if kept:
        disks.keep([nvram])
    disks.release()
    done = guest.disks().rollback()
    assert (done.kind, done.disks) == (said, {str(path): 0 for path in guest.images})
    assert (guest.content, guest.disks().how_far, guest.disks().history) == (repaired, "idle", ("fix",))
    assert nvram.work.exists() != kept and guest.left == ["boot", "undo-0-0.qcow2", "undo-0-1.qcow2"]


def test_a_repair_that_was_not_committed_is_not_what_is_undone(guest: Guest) -> None:
    guest.committed(0x50)
    guest.prepared(NEW).release()
    assert guest.disks().rollback().kind == "fix"
    assert guest.content == guest.first
    guest.prepared(NEW).release()
    with pytest.raises(Refused, match="nothing was committed"):
        guest.disks().rollback()
    assert (guest.disks().how_far, guest.left) == ("idle", [])


@pytest.mark.parametrize(("gone", "mode"), [(False, 0o600), (True, 0o640)])
def test_companions_come_back_with_their_mode(gone: bool, mode: int, guest: Guest, nvram: Companion) -> None:
    """That of what is in their place by then, else the one that they had."""
    nvram.path.write_bytes(VARIABLES)
    nvram.path.chmod(0o640)
    guest.prepared(NEW, "boot").commit(companions=[nvram])
    assert (nvram.path.read_bytes(), nvram.path.stat().st_mode & 0o777) == (BOOTED, 0o640)
    nvram.path.unlink() if gone else nvram.path.chmod(0o600)
    nvram.work.write_bytes(BOOTED)
    guest.disks().rollback()
    assert nvram.path.stat().st_mode & 0o777 == mode
    assert (nvram.path.read_bytes(), nvram.work.exists(), guest.left) == (VARIABLES, False, ["boot"])


@pytest.mark.parametrize("there", [True, False])
def test_a_failed_commit_gives_companions_back(there: bool, guest: Guest, nvram: Companion, monkeypatch: pytest.MonkeyPatch) -> None:
    if there:
        nvram.path.write_bytes(VARIABLES)
    real = undo.place_file

    def place(source: Path, path: Path, attributes: object = None) -> None:
        real(source, path, attributes)  # type: ignore[arg-type]
        if source == nvram.work:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(undo, "place_file", place)
    with pytest.raises(H2kError, match="the disks have their old content again"):
        guest.prepared(NEW, "boot").commit(companions=[nvram])
    assert guest.content == guest.first and nvram.path.exists() == there
    assert not there or nvram.path.read_bytes() == VARIABLES
