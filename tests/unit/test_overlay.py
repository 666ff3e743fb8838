"""Overlays: made on free disks, committed as one set with the old content saved before, dropped without a trace."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import H2kError, Refused
from h2k.disk import alive, journal, undo
from h2k.disk.overlay import Companion, DiskSet, RollbackResult
from tests.unit.fake_images import PAGE, Guest, Signs, used

VARIABLES, BOOTED = (b"QFI\xfb" + bytes([n]) * 60 for n in (1, 2))
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guest:
    return Guest(tmp_path, monkeypatch)


def as_new(guest: Guest) -> bool:
    """Whether the commit has left what it was to leave."""
    return all(c[PAGE : 2 * PAGE] == b"\xa0" * PAGE for c in guest.content) and guest.content[0][3 * PAGE :] == b"\xa1" * PAGE


def companion(guest: Guest) -> Companion:
    (guest.state / "boot").mkdir(mode=0o755, parents=True)
    work = guest.state / "boot" / "nvram.fd"
    work.write_bytes(BOOTED)
    return Companion(work, guest.state.parent / "g_VARS.fd")


def require_free(guest: Guest) -> None:
    """Every lock is free: another run gets the disks, in this report directory and in another."""
    for state in (guest.state, guest.state.with_name("other.h2k")):
        other = guest.disks(state=state)
        with other.held():
            pass


def require_held(guest: Guest) -> None:
    """This report directory and each image alone are locked."""
    with pytest.raises(Refused, match="another h2k works on this guest"), DiskSet([], guest.state).held():
        pass
    for path in guest.images:
        with pytest.raises(Refused, match=f"{path.name}: another h2k"), DiskSet([(path, "raw")], guest.state.with_name("o.h2k")).held():
            pass


def test_a_new_directory_is_clean_and_has_nothing_to_roll_back(guest: Guest) -> None:
    disks = guest.disks()
    assert (disks.recover(), disks.how_far, disks.history) == ("clean", "idle", ())
    assert not guest.state.exists()
    with pytest.raises(Refused, match="nothing was committed"):
        disks.rollback()
    assert not guest.state.exists()
    require_free(guest)


def test_what_people_read_about_a_rollback() -> None:
    assert str(RollbackResult({"/g-sda": 5}, "boot")) == "the boot is undone: /g-sda (5 bytes restored)"


# Overlays


def test_the_overlays_rest_on_the_images_and_hold_the_locks(guest: Guest) -> None:
    disks = guest.disks()
    overlays = disks.create_overlays()
    assert [path.name for path in overlays] == ["overlay-0.qcow2", "overlay-1.qcow2"] and overlays == disks.overlays
    assert [guest.storage.read(path, "qcow2") for path in overlays] == guest.first
    assert {path.stat().st_mode & 0o777 for path in overlays} == {0o600}
    assert (disks.how_far, guest.journal["work"]["kind"], guest.left) == ("applying", "fix", ["overlay-0.qcow2", "overlay-1.qcow2"])
    require_held(guest)
    disks.release()
    require_free(guest)


def test_locks_are_let_go_when_the_directory_is_gone(guest: Guest) -> None:
    disks = guest.disks()
    disks.create_overlays()
    shutil.rmtree(guest.state)
    disks.release()
    require_free(guest)


def test_the_journal_knows_of_overlays_before_there_are_any(guest: Guest) -> None:
    guest.storage.before["create overlay-0.qcow2"] = lambda: phases.append(guest.journal["phase"])
    phases: list[str] = []
    guest.state.mkdir(mode=0o711)
    (guest.state / "overlay-0.qcow2").symlink_to(guest.images[0])  # which QEMU would follow
    guest.disks().create_overlays()
    assert guest.content == guest.first
    assert phases == ["applying"]


def test_overlays_that_can_not_be_made_leave_nothing(guest: Guest) -> None:
    guest.storage.fails("create overlay-1.qcow2")
    disks = guest.disks()
    with pytest.raises(H2kError, match="Input/output error"):
        disks.create_overlays()
    assert (disks.how_far, guest.left) == ("idle", [])
    require_free(guest)


def test_no_overlays_on_an_image_that_can_not_be_written(guest: Guest) -> None:
    guest.images[1].chmod(0o444)
    disks = guest.disks()
    for call in (disks.create_overlays, disks.rollback):
        with pytest.raises(Refused, match=r"g-sdb: (read-only|can't be written)"):
            call()
    disks.require_unused()
    assert not guest.state.exists()


def test_the_others_are_locked_beside_an_image_that_can_not_be_written(guest: Guest) -> None:
    guest.images[0].chmod(0o444)
    disks = guest.disks()
    with disks.held(), pytest.raises(Refused, match="g-sdb: another h2k"):
        DiskSet([(guest.images[1], "vmdk")], guest.state.with_name("o.h2k")).create_overlays()


def test_who_reads_an_image_uses_it_unless_that_is_we(guest: Guest) -> None:
    with used(guest.images[1], 100, 201, 203):  # an appliance
        guest.disks().require_unused(reading=True)
        with pytest.raises(Refused, match=r"source-running: .*g-sdb"):
            guest.disks().require_unused()


def test_no_overlays_on_an_image_that_is_in_use(guest: Guest) -> None:
    with used(guest.images[1]), pytest.raises(Refused, match=r"source-running: .*g-sdb"):
        guest.disks().create_overlays()
    with used(guest.images[1], 100, 201, 203):  # an appliance of h2k itself, which reads
        guest.disks().create_overlays()


def test_no_overlays_on_an_image_that_qemu_can_not_open(guest: Guest) -> None:
    guest.storage.fails("info g-sdb")
    with pytest.raises(Refused, match=r"g-sdb: in use or unreadable: qemu-img: Input/output error \(shut the guest down"):
        guest.disks().create_overlays()
    assert not guest.state.exists()


def test_no_second_overlays(guest: Guest) -> None:
    disks = guest.prepared(0xA0)
    disks.release()
    with pytest.raises(Refused, match=r"an unfinished run \(applying\)"):
        guest.disks().create_overlays()
    guest.disks().keep()
    with pytest.raises(Refused, match=r"the overlays of a boot are kept.*h2k boot commits them"):
        guest.disks().create_overlays()
    require_free(guest)


def test_a_run_that_gets_not_all_locks_keeps_none(guest: Guest) -> None:
    first = DiskSet([(guest.images[1], "vmdk")], guest.state.with_name("first.h2k"))
    with first.held():
        first.release()  # not before the block ends
        with pytest.raises(Refused, match="another h2k"):
            guest.disks().create_overlays()
        assert guest.disks(1).create_overlays()


def test_a_lock_that_is_a_link_is_refused(guest: Guest) -> None:
    guest.state.mkdir(mode=0o711)
    (guest.state / "lock").symlink_to(guest.images[0])
    with pytest.raises(Refused, match="the report directory must be writable"):
        guest.disks().create_overlays()


def test_locks_are_held_over_several_calls(guest: Guest) -> None:
    disks = guest.disks()
    with disks.held():
        guest.prepare(disks, 0xA0)
        disks.commit()
        require_held(guest)
        disks.rollback()
        require_held(guest)
    require_free(guest)


@pytest.mark.parametrize("call", ["create_overlays", "commit", "discard", "recover", "rollback"])
def test_nothing_is_done_while_another_run_has_the_disks(call: str, guest: Guest) -> None:
    disks = guest.prepared(0xA0)
    before = guest.journal, guest.left
    with pytest.raises(Refused, match="another h2k works on this guest"):
        getattr(guest.disks(), call)()
    assert (guest.journal, guest.left) == before
    disks.commit()
    getattr(disks, call if call in ("recover", "rollback") else "recover")()
    require_free(guest)


# Discard and keep


def test_discard_drops_overlays_and_companions(guest: Guest) -> None:
    disks = guest.prepared(0xA0, "boot")
    disks.keep([companion(guest)])
    require_free(guest)
    assert disks.how_far == "kept" and guest.left == ["boot", "overlay-0.qcow2", "overlay-1.qcow2"]
    (guest.state / "undo-0-0.qcow2").touch()
    disks.discard()
    assert (disks.how_far, guest.left, list((guest.state / "boot").iterdir())) == ("idle", ["boot"], [])
    assert guest.content == guest.first
    require_free(guest)


def test_a_companion_that_is_gone_is_no_reason_to_keep_the_overlays(guest: Guest) -> None:
    nvram = companion(guest)
    disks = guest.prepared(0xA0, "boot")
    disks.keep([nvram])
    nvram.work.unlink()
    disks.discard()
    assert (disks.how_far, guest.left) == ("idle", ["boot"])


def test_no_discard_in_the_midst_of_a_commit(guest: Guest) -> None:
    guest.killed_at("commit-1")
    with pytest.raises(Refused, match=r"the overlays are being committed.*run h2k rollback"):
        guest.disks().discard()
    assert "overlay-1.qcow2" in guest.left


def test_kept_overlays_and_their_companion_are_committed_later(guest: Guest) -> None:
    nvram = companion(guest)
    nvram.path.write_bytes(VARIABLES)
    guest.prepared(0xA0, "boot").keep([nvram])
    assert guest.disks().recover() == "kept"
    guest.disks().commit()
    assert as_new(guest) and guest.disks().history == ("boot",)
    assert nvram.path.read_bytes() == BOOTED and not nvram.work.exists()
    guest.disks().rollback()
    assert nvram.path.read_bytes() == VARIABLES and guest.content == guest.first


# Commit


def test_a_commit_in_its_order(guest: Guest) -> None:
    disks = guest.prepared(0xA0)
    steps: list[tuple[str, str]] = []
    guest.storage.log.clear()
    disks.commit(lambda name: steps.append((name, disks.how_far)))
    assert steps == [
        ("save-undo-0", "applying"), ("save-undo-1", "applying"), ("committing", "committing"), ("commit-0", "committing"),
        ("read-back-0", "committing"), ("commit-1", "committing"), ("read-back-1", "committing"), ("committed", "committing"),
    ]  # fmt: skip
    assert guest.storage.log == [
        "create undo-0-0.qcow2", "sync overlay-0.qcow2", "create undo-0-1.qcow2", "sync overlay-1.qcow2",
        "commit overlay-0.qcow2", "sync g-sda", "commit overlay-1.qcow2", "sync g-sdb",
    ]  # fmt: skip
    assert as_new(guest)
    assert (disks.how_far, disks.history, guest.left) == ("idle", ("fix",), ["undo-0-0.qcow2", "undo-0-1.qcow2"])
    assert {(guest.state / name).stat().st_mode & 0o777 for name in guest.left} == {0o600}
    require_free(guest)


def test_a_commit_says_that_it_lives(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alive, "BEAT", 10.0)
    signs = Signs(guest.state / "alive")
    guest.prepared(0xA0).commit(signs)
    assert signs.fresh == ["committing", "commit-0", "committed"]


def test_the_reserve_is_used_for_the_last_journal(guest: Guest) -> None:
    guest.prepared(0xA0).commit()
    assert guest.stored == [("applying", False), ("committing", True), ("idle", False)]


def test_nothing_to_commit(guest: Guest) -> None:
    with pytest.raises(H2kError, match="no overlays to commit, the journal says idle"):
        guest.disks().commit()


@pytest.mark.parametrize("kept", [False, True])
def test_somebody_has_written_meanwhile(kept: bool, guest: Guest) -> None:
    disks = guest.prepared(0xA0)
    if kept:
        disks.keep()
    guest.storage.write(guest.images[1], 0, b"x")
    theirs = guest.content
    with pytest.raises(Refused, match="g-sdb: somebody has written to it while h2k worked on an overlay of it"):
        disks.commit()
    assert guest.content == theirs and disks.how_far == ("kept" if kept else "idle")
    assert guest.left == (["overlay-0.qcow2", "overlay-1.qcow2", "undo-0-0.qcow2"] if kept else [])
    require_free(guest)


def test_an_image_that_grew_and_has_its_old_time(guest: Guest) -> None:
    disks = guest.prepared(0xA0)
    before = guest.images[0].stat()
    os.truncate(guest.images[0], before.st_size + PAGE)
    os.utime(guest.images[0], ns=(before.st_mtime_ns, before.st_mtime_ns))
    with pytest.raises(Refused, match="g-sda: somebody has written to it"):
        disks.commit()


@pytest.mark.parametrize("pages", [2, 5])
def test_an_overlay_of_another_size(pages: int, guest: Guest) -> None:
    disks = guest.prepared(0xA0)
    overlay = disks.overlays[1]
    overlay.write_text(overlay.read_text().replace(f'"backing": "{guest.images[1]}"', '"backing": null').replace(str(4 * PAGE), str(pages * PAGE)))
    with pytest.raises(Refused, match=r"overlay-1\.qcow2: its size differs from that of .*g-sdb"):
        disks.commit()
    assert (guest.content, disks.how_far) == (guest.first, "idle")


def test_what_does_not_read_back_is_rolled_back(guest: Guest) -> None:
    nvram = companion(guest)
    nvram.path.write_bytes(VARIABLES)
    disks = guest.prepared(0xA0)
    guest.storage.losing.add("g-sdb")
    with pytest.raises(H2kError, match=r"the commit failed, and the disks have their old content again: .*g-sdb.*do not read back"):
        disks.commit(companions=[nvram])
    assert (guest.content, disks.how_far, disks.history) == (guest.first, "idle", ())
    assert (guest.left, nvram.path.read_bytes(), nvram.work.exists()) == (["boot"], VARIABLES, False)
    require_free(guest)


@pytest.mark.parametrize("error", [None, FULL])
def test_a_commit_that_fails_in_its_midst(error: Any, guest: Guest) -> None:
    guest.committed(0x50)
    old = guest.content
    disks = guest.prepared(0xA0, "boot")
    phases: list[str] = []
    guest.storage.fails("commit overlay-1.qcow2", error)
    guest.storage.before["restore g-sda"] = lambda: phases.append(f"{guest.journal['phase']} {(guest.state / 'journal.spare').exists()}")
    with pytest.raises(H2kError, match=r"the disks have their old content again: .*(Input/output|No space)"):
        disks.commit()
    assert set(phases) == {"rolling-back False"} and guest.stored[-2:] == [("rolling-back", False), ("idle", False)]
    assert (guest.content, disks.how_far, disks.history) == (old, "idle", ("fix",))
    assert guest.left == ["undo-0-0.qcow2", "undo-0-1.qcow2"]
    require_free(guest)
    guest.disks().rollback()  # the way back has taken nothing from the repair below
    assert guest.content == guest.first


@pytest.mark.parametrize("error", [None, FULL])
def test_undo_data_that_can_not_be_saved(error: Any, guest: Guest) -> None:
    disks = guest.prepared(0xA0)
    guest.storage.fails("create undo-0-1.qcow2", error)
    with pytest.raises((H2kError, OSError), match=r"Input/output|No space"):
        disks.commit()
    assert (guest.content, disks.how_far, guest.left) == (guest.first, "idle", [])
    require_free(guest)


def test_no_room_no_commit(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    disks = guest.prepared(0xA0)
    guest.storage.log.clear()
    facts = os.statvfs(guest.state)
    full = os.statvfs_result((*facts[:3], 0, 0, *facts[5:]))
    with monkeypatch.context() as patch, pytest.raises(H2kError, match="No space left for the commit"):
        patch.setattr(os, "statvfs", lambda path: full)
        disks.commit()
    assert guest.storage.log == []
    assert (guest.content, disks.how_far, guest.left) == (guest.first, "idle", [])


def test_no_room_for_a_journal_no_commit(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    disks = guest.prepared(0xA0)

    def fail(*_: Any) -> None:
        raise FULL

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(H2kError, match=r"journal\.json: no room for it: No space left"):
        disks.commit()
    assert (guest.content, disks.how_far, guest.left) == (guest.first, "idle", [])


def test_room_is_kept_for_the_way_back_while_the_disks_change(guest: Guest) -> None:
    disks = guest.prepared(0xA0)
    spare = guest.state / "journal.spare"
    sizes: list[int] = []
    disks.commit(lambda name: sizes.append(spare.stat().st_size))
    assert set(sizes) == {2 * 3 * 6 * 1024 + 256 * 1024}  # for three pieces
    assert not spare.exists()


def test_room_is_asked_for_what_the_way_back_takes_besides_the_disks(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    nvram, asked = companion(guest), []
    real = undo.room_needed

    def room_needed(*given: Any) -> Any:
        asked.append(given[-1])
        return real(*given)

    monkeypatch.setattr(undo, "room_needed", room_needed)
    guest.prepared(0xA0).commit(companions=[nvram])
    assert asked == [4 * 3 * 6 * 1024 + 2 * len(BOOTED)]  # four journals of three pieces, and the variables twice


def test_a_journal_that_could_not_be_read_back_stops_the_commit(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    disks = guest.prepared(0xA0)
    monkeypatch.setattr(journal, "JOURNAL_LIMIT", len(journal.json.dumps(guest.journal)) + 100)
    with pytest.raises(H2kError, match="more than can be read back"):
        disks.commit()
    assert (guest.content, disks.how_far, guest.left) == (guest.first, "idle", [])


def test_undo_data_are_numbered_by_their_commit(guest: Guest) -> None:
    for number, kind in enumerate(("fix", "boot", "boot")):
        guest.committed(0x50 + number, kind)
        assert guest.left == [f"undo-{depth}-{disk}.qcow2" for depth in range(number + 1) for disk in (0, 1)]
    assert guest.disks().history == ("fix", "boot", "boot")


def test_a_journal_of_0_1_does_not_name_the_numbers(guest: Guest) -> None:
    guest.committed(0x50)
    guest.committed(0x60, "boot")
    content = guest.journal
    for entry in content["stack"]:
        del entry["depth"]
    (guest.state / "journal.json").write_text(journal.json.dumps(content))
    guest.committed(0x70, "boot")
    assert [name for name in guest.left if name.endswith("-0.qcow2")] == [f"undo-{depth}-0.qcow2" for depth in range(3)]
    assert guest.disks().history == ("fix", "boot", "boot")


def test_disks_that_were_converted_anew_drop_the_undo_data_of_the_others(guest: Guest) -> None:
    guest.committed(0x50)
    for path in guest.images:
        guest.storage.write(path, 0, b"\x77" * 4 * PAGE)
    anew = guest.content
    disks = guest.prepared(0xA0)
    assert guest.left[-2:] == ["undo-0-0.qcow2", "undo-0-1.qcow2"]  # until the commit
    disks.commit()
    assert (disks.history, guest.left) == (("fix",), ["undo-1-0.qcow2", "undo-1-1.qcow2"])
    disks.rollback()
    assert guest.content == anew and disks.history == ()


def test_one_disk_that_is_the_same_keeps_the_undo_data(guest: Guest) -> None:
    guest.committed(0x50)
    guest.storage.write(guest.images[0], 0, b"\x77" * 4 * PAGE)
    guest.committed(0xA0)
    assert guest.disks().history == ("fix", "fix")


def test_what_a_killed_run_left_at_its_very_end_goes_with_the_next(guest: Guest) -> None:
    guest.committed(0x50)
    for name in ("overlay-0.qcow2", "undo-1-0.qcow2", "undo-10-0.qcow2", "alive", "journal.spare", ".journal.json.x.h2k-new"):
        (guest.state / name).touch()
    assert guest.disks().recover() == "clean"
    assert guest.left == ["undo-0-0.qcow2", "undo-0-1.qcow2"]


def test_a_kill_frees_the_locks(guest: Guest) -> None:
    guest.killed_at("save-undo-1")
    assert guest.journal["phase"] == "applying"
    require_free(guest)
