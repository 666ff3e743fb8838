"""Overlays, undo and journal: all disks of a guest change as one set, or not at all, whenever the run is killed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Optional

from h2k.base.errors import H2kError, Refused
from h2k.base.files import drop_temporaries, own_directory
from h2k.base.run import CommandFailed, run
from h2k.disk import alive, in_use, undo
from h2k.disk.blocks import copy_pieces, pieces_of, sync, torn_between
from h2k.disk.journal import Journal, JournalFile, undo_image
from h2k.disk.view import View

_MARK_SIZE = 6 * 1024  # bytes of a piece in the journal, in both its states
_ORPHAN_LIMIT = 10.0  # seconds for what a killed run had started to end; it is killed with it
OnStep = Optional[Callable[[str], None]]


@dataclasses.dataclass(frozen=True)
class RollbackResult:
    """What was undone ("fix", "boot"), and how many bytes of each disk changed back."""

    disks: dict[str, int]
    kind: str = "fix"

    def __str__(self) -> str:
        return f"the {self.kind} is undone: " + ", ".join(
            f"{name} ({count} bytes restored)" for name, count in self.disks.items()
        )


@dataclasses.dataclass(frozen=True)
class Companion:
    """A file that belongs to the disks' state (firmware variables): at the commit `work` takes the place of `path`."""

    work: Path
    path: Path


class DiskSet:
    """One guest's images and the report directory that holds their overlays, undo data and journal (h2k.disk.journal)."""

    def __init__(self, images: Sequence[tuple[Path, str]], state_dir: Path) -> None:
        self.images = [(path.resolve(), form) for path, form in images]
        # A link in the place of the directory itself is not followed: it is refused.
        self.state_dir = state_dir.absolute().parent.resolve() / state_dir.name
        self._journal = JournalFile(self.state_dir)
        self._locks: list[int] = []
        self._held = False
        self._unwritable: Optional[Refused] = None

    @property
    def how_far(self) -> str:
        """How far a change of the disks has come, as the journal has it: idle, applying, kept …"""
        return str(self._journal.load()["phase"])

    @property
    def overlays(self) -> tuple[Path, ...]:
        """The overlays' paths, in the order of the images."""
        return tuple(self._overlay(index) for index in range(len(self.images)))

    @property
    def history(self) -> tuple[str, ...]:
        """What was committed and can be rolled back, oldest first: "fix", "boot"."""
        return tuple(entry["kind"] for entry in self._journal.load()["stack"])

    # The locks

    def _acquire(self) -> None:
        """One run at a time for the report directory, and for each image whatever directory the other run uses;
        the locks end with the process, however it ends."""
        if self._locks:
            return
        locks: list[int] = []
        try:
            # Others may pass through, not look: QEMU runs as another user and has to reach the overlays.
            own_directory(self.state_dir)
            locks.append(in_use.lock_directory(self.state_dir))
            for path, _ in self.images:
                try:
                    locks.append(in_use.open_writable(path))
                except Refused as e:  # a healthy guest is not written, so that this is no fault of its own
                    self._unwritable = e
                    continue
                in_use.lock(locks[-1], path)
            self._drop_strays()
        except (H2kError, OSError) as e:
            for lock in locks:
                os.close(lock)
            if isinstance(e, H2kError):
                raise
            raise Refused(f"{self.state_dir}: {e.strerror}", hint="the report directory must be writable") from e
        self._locks = locks

    @contextmanager
    def _locked(self, keep: bool = False) -> Iterator[None]:
        """Hold the locks, and let other runs have the images afterwards; with `keep` only if this fails."""
        self._acquire()
        try:
            yield
        except BaseException:
            self.release()
            raise
        if not keep:
            self.release()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the locks over several calls, until the block ends. Refused when another run has one of them."""
        self._acquire()
        self._held = True
        try:
            yield
        finally:
            self._held = False
            self.release()

    def release(self) -> None:
        """Let other runs have the images, unless the locks are held over several calls."""
        if self._held or not self._locks:
            return
        with contextlib.suppress(OSError):  # a directory that nothing was written to
            if [path.name for path in self.state_dir.iterdir()] == ["lock"]:
                (self.state_dir / "lock").unlink()
                self.state_dir.rmdir()
        while self._locks:
            os.close(self._locks.pop())

    def _drop_strays(self) -> None:
        """What a run that was killed at its very end has left."""
        drop_temporaries(self.state_dir)
        journal = self._journal.load()
        if journal["phase"] != "idle":
            return
        self._end_work()
        known = {f"undo-{entry.get('depth', number)}-" for number, entry in enumerate(journal["stack"])}
        for path in self.state_dir.glob("undo-*"):
            if not any(path.name.startswith(name) for name in known):
                path.unlink()

    def _require_writable(self) -> None:
        if self._unwritable is not None:
            raise self._unwritable

    def _overlay(self, index: int) -> Path:
        return View(self.state_dir / f"overlay-{index}.qcow2")

    @property
    def _alive(self) -> Path:
        return self.state_dir / "alive"

    def _noted(self, work: dict[str, Any]) -> None:
        alive.noted(self._alive, [disk["path"] for disk in work["disks"]])

    def _beating(self, work: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
        return alive.beating(self._alive, [disk["path"] for disk in work["disks"]])

    # Repair

    def create_overlays(self, kind: str = "fix") -> tuple[Path, ...]:
        """A qcow2 overlay on each image. Refused when an image is in use, read-only, or an unfinished run is there.

        From here to commit, discard or keep no other h2k gets at the images.
        """
        with self._locked(keep=True):
            return self._create_overlays(kind)

    def _create_overlays(self, kind: str) -> tuple[Path, ...]:
        journal = self._journal.load()
        if journal["phase"] == "kept":
            raise Refused(
                f"{self.state_dir}: the overlays of a boot are kept, and the guest may run on them",
                hint="h2k boot commits them, h2k rollback throws them away",
            )
        if journal["phase"] != "idle":
            raise Refused(f"{self.state_dir}: an unfinished run ({journal['phase']})", hint="h2k rollback undoes it")
        self._require_writable()
        self._check_free(reading=True)
        stack = journal["stack"]
        disks = [dict(undo.found(path), path=str(path), format=form) for path, form in self.images]
        work = {"kind": kind, "disks": disks, "files": [], "depth": _next_depth(stack), "anew": self._others_now(stack)}
        self._journal.store("applying", work, stack)
        try:
            for index, (path, form) in enumerate(self.images):
                overlay = self._overlay(index)
                overlay.unlink(missing_ok=True)
                run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", str(path), str(overlay)])
                overlay.chmod(0o600)
        except H2kError:
            self._discard()
            raise
        return self.overlays

    def require_unused(self, patience: float = 0.0, reading: bool = False) -> None:
        """Refused when somebody uses one of the images: a QEMU, a running domain of libvirt. With `reading` our own
        appliance may have them open to read them."""
        in_use.require_unused([path for path, _ in self.images], patience, reading=reading)

    def _check_free(self, reading: bool = False) -> None:
        self.require_unused(reading=reading)
        for path, form in self.images:
            try:
                run(["qemu-img", "info", "-f", form, str(path)])
            except CommandFailed as e:
                raise Refused(f"{path}: in use or unreadable: {e.stderr.strip()}", hint="shut the guest down") from e

    def _others_now(self, stack: list[dict[str, Any]]) -> bool:
        """Whether nothing of the last commit is on any of its disks any more: they were converted anew, and their undo
        data would be another disk's. The content alone proves that; the commit of this work drops those data."""
        images = {str(path) for path, _ in self.images}
        disks = stack[-1]["disks"] if stack else []
        return bool(disks) and all(disk["path"] in images and undo.is_another(disk) for disk in disks)

    def _drop_undo(self, depth: int) -> None:
        for path in self.state_dir.glob(f"undo-{depth}-*"):
            path.unlink()

    def discard(self) -> None:
        """Throw the overlays away; the images were never touched."""
        with self._locked():
            self._discard()

    def _discard(self) -> None:
        journal = self._journal.load()
        if journal["phase"] not in ("idle", "applying", "kept"):
            raise Refused(f"{self._journal.path}: the overlays are being committed", hint="run h2k rollback")
        self._end_work()
        self._drop_undo(_depth_of(journal))
        for companion in (journal["work"] or {}).get("files", ()):
            Path(companion["work"]).unlink(missing_ok=True)
        self._journal.store("idle", None, journal["stack"])

    def _check_overlays_unused(self) -> None:
        """Refused while a guest runs on an overlay: what it has written since would be lost below it."""
        for overlay in filter(Path.exists, self.overlays):
            deadline = time.monotonic() + _ORPHAN_LIMIT
            while in_use.holder(overlay) and time.monotonic() < deadline:
                time.sleep(0.1)
            if in_use.holder(overlay):
                hint = "shut that guest down, then give the same command"
                raise Refused(f"{overlay}: a guest runs on it, and what it has written is nowhere else", hint=hint)

    def _drop_overlays(self) -> None:
        for path in self.state_dir.glob("overlay-*.qcow2"):
            path.unlink()

    def keep(self, companions: Sequence[Companion] = ()) -> None:
        """Leave the overlays for a domain to run on; a later commit or rollback ends it."""
        journal = self._journal.load()
        files = [{"work": str(c.work), "path": str(c.path)} for c in companions]
        self._journal.store("kept", {**journal["work"], "files": files}, journal["stack"])
        self.release()

    def commit(self, on_step: OnStep = None, companions: Sequence[Companion] = ()) -> None:
        """Save what will be replaced, commit every overlay, read the images back, drop the overlays.

        When that fails the disks get back what they had; H2kError says which of the two could not be done.
        """
        with self._locked():
            self._commit(on_step or (lambda name: None), companions)

    def _commit(self, mark: Callable[[str], None], companions: Sequence[Companion]) -> None:
        journal = self._journal.load()
        if journal["phase"] not in ("applying", "kept"):
            raise H2kError(f"{self._journal.path}: no overlays to commit, the journal says {journal['phase']}")
        work, stack, depth = journal["work"], journal["stack"], _depth_of(journal)
        try:
            files = work["files"] or [{"work": str(c.work), "path": str(c.path)} for c in companions]
            self._reserve(work["disks"], files)
            disks = []
            for index, disk in enumerate(work["disks"]):
                mark(f"save-undo-{index}")
                disks.append(undo.save_undo(self.state_dir, depth, index, self._overlay(index), disk))
            files = [undo.save_file(self.state_dir, depth, n, Path(f["work"]), Path(f["path"])) for n, f in enumerate(files)]
            work = {**work, "disks": disks, "files": files}
            self._noted(work)
            saved = self._journal.store("committing", work, stack)
        except (H2kError, OSError):
            self._journal.use_reserve()
            if journal["phase"] == "applying":
                self._discard()
            raise
        mark("committing")
        try:
            self._roll_forward(work, mark)
        except (H2kError, OSError) as e:
            self._journal.use_reserve()
            self._roll_back(self._journal.store("rolling-back", work, stack))
            raise H2kError(f"the commit failed, and the disks have their old content again: {e}") from e
        mark("committed")
        self._finish(saved)

    def _reserve(self, disks: list[dict[str, Any]], files: list[dict[str, str]]) -> None:
        """See that there is room for everything before the first byte, and keep what the way back needs of it."""
        images = [(Path(disk["path"]), str(disk["format"])) for disk in disks]
        size = sum(len(pieces_of(overlay)) for overlay in self.overlays) * _MARK_SIZE
        extra = 4 * size + sum(2 * Path(f["work"]).stat().st_size for f in files)
        undo.require_room(undo.room_needed(self.state_dir, images, self.overlays, extra))
        self._journal.reserve(size)

    def _roll_forward(self, work: dict[str, Any], mark: Callable[[str], None]) -> None:
        with self._beating(work):
            for index, disk in enumerate(work["disks"]):
                if undo.holds(disk, "new"):
                    continue
                mark(f"commit-{index}")
                run(["qemu-img", "commit", "-q", "-d", "-f", "qcow2", str(self._overlay(index))])
                sync(Path(disk["path"]))
                mark(f"read-back-{index}")
                if not undo.holds(disk, "new"):
                    raise H2kError(f"{disk['path']}: the committed blocks do not read back", hint="check the host's storage")
            for file in work["files"]:
                if Path(file["work"]).exists():
                    undo.place_file(Path(file["work"]), Path(file["path"]))

    def _finish(self, journal: Journal) -> None:
        work = journal["work"]
        for disk in work["disks"]:
            disk["mtime"] = undo.found(Path(disk["path"]))["mtime"]
        self._journal.use_reserve()
        below = [] if work.get("anew") else journal["stack"]
        self._journal.store("idle", None, [*below, work])
        if not below:
            for depth in range(_depth_of(journal)):
                self._drop_undo(depth)
        self._end_work()

    def _end_work(self) -> None:
        self._drop_overlays()
        self._alive.unlink(missing_ok=True)
        self._journal.use_reserve()

    # Recovery

    def recover(self) -> str:
        """Finish or throw away what an earlier run left: "clean", "discarded", "finished" or "rolled back"; or "kept"
        when it left overlays on purpose. Refused when the disks are neither what that run found nor what it wrote,
        when somebody has written to them since, and while somebody uses them."""
        if not self._journal.exists():
            return "clean"
        with self._locked():
            return self._recover()

    def _recover(self) -> str:
        journal = self._journal.load()
        if journal["phase"] in ("idle", "kept"):
            return "kept" if journal["phase"] == "kept" else "clean"
        if journal["phase"] == "applying":
            self._check_overlays_unused()
            self._discard()
            return "discarded"
        self._check_identity(journal["work"]["disks"])
        if journal["phase"] == "committing":
            self._roll_forward(journal["work"], lambda name: None)
            self._finish(journal)
            return "finished"
        self._roll_back(journal)
        return "rolled back"

    def _check_identity(self, disks: list[dict[str, Any]], force: bool = False) -> None:
        """The disks are those of the journal: every page of every piece is the old one or the new one; nobody uses
        them, and (unless `force`) nobody but that run has written to them."""
        self._same_paths(disks, "an unfinished run is on")
        self.require_unused(_ORPHAN_LIMIT)
        for disk in disks:
            for now, old, new in zip(undo.marks(disk), undo.as_marks(disk["old"]), undo.as_marks(disk["new"])):
                if now.digest not in (old.digest, new.digest) and not torn_between(now, old, new):
                    raise Refused(
                        f"{disk['path']}: not the disk that the unfinished run in {self._journal.path} was writing",
                        hint="move the report directory away to begin afresh",
                    )
        written = None if force else alive.written_after(self._alive, disks)
        if written is not None:
            raise Refused(
                f"{written}: somebody has written to it since a run on it was interrupted in mid-way",
                hint="going on would mix old and new blocks; h2k rollback --force goes back all the same",
            )

    def _same_paths(self, disks: list[dict[str, Any]], what: str, more: bool = False) -> None:
        """Refused unless these are our disks; with `more` we may have further ones."""
        journal, ours = [d["path"] for d in disks], [str(path) for path, _ in self.images]
        if journal != ([path for path in ours if path in journal] if more else ours):
            raise Refused(f"{self._journal.path}: {what} {', '.join(d['path'] for d in disks)}", hint="name those disks")

    # The way back

    def rollback(self, force: bool = False, on_step: OnStep = None) -> RollbackResult:
        """Restore the content that the guest saw before the last commit, be it finished or not; overlays that were
        kept are thrown away. Refused when nothing was committed, or when somebody has written since (unless
        `force`), and always for disks that are others than those of the journal."""
        with self._locked():
            return self._rollback(force, on_step or (lambda name: None))

    def _rollback(self, force: bool, mark: Callable[[str], None]) -> RollbackResult:
        self._require_writable()
        journal = self._journal.load()
        if journal["phase"] in ("applying", "kept"):
            # A boot that was not committed is taken back by its overlays alone: the repair below it stays.
            what = "kept overlay" if journal["phase"] == "kept" else "unfinished boot"
            self._check_overlays_unused()
            self._discard()
            if journal["phase"] == "kept" or journal["work"]["kind"] == "boot":
                return RollbackResult({str(path): 0 for path, _ in self.images}, what)
            journal = self._journal.load()
        if journal["phase"] != "idle":
            self._check_identity(journal["work"]["disks"], force)
            self._journal.use_reserve()
            return self._roll_back(self._journal.store("rolling-back", journal["work"], journal["stack"]))
        if not journal["stack"]:
            raise Refused(f"{self.state_dir}: nothing was committed, so there is nothing to roll back")
        self._check_free()
        entry = journal["stack"][-1]
        self._same_paths(entry["disks"], "the last commit was on", more=True)
        for disk in entry["disks"]:
            self._check_unwritten(disk, force)
        self._noted(entry)
        journal = self._journal.store("rolling-back", entry, journal["stack"][:-1])
        mark("rolling-back")
        return self._roll_back(journal, mark)

    def _check_unwritten(self, disk: dict[str, Any], force: bool) -> None:
        path = Path(disk["path"])
        if undo.found(path)["mtime"] == disk["mtime"] and undo.holds(disk, "new"):
            return
        if not force:
            raise Refused(
                f"{path}: somebody has written to it since the commit",
                hint="going back would mix old and new blocks; --force does it all the same",
            )
        if not undo.holds_any(disk):
            raise Refused(f"{path}: nothing of what h2k wrote is on it: another disk", hint="nothing to roll back here")

    def _roll_back(self, journal: Journal, mark: Callable[[str], None] = lambda name: None) -> RollbackResult:
        work, stack = journal["work"], journal["stack"]
        depth, restored = _depth_of(journal), {}
        with self._beating(work):
            for index, disk in enumerate(work["disks"]):
                restored[disk["path"]] = self._restore(disk, undo_image(self.state_dir, depth, index), lambda i=index: mark(f"restore-{i}"))  # type: ignore[misc]
            self._restore_files(work["files"])
        if stack:
            undo.hand_down(work["disks"], stack[-1]["disks"])
        self._journal.use_reserve()
        self._journal.store("idle", None, stack)
        self._end_work()
        self._drop_undo(depth)
        return RollbackResult(restored, work["kind"])

    def _restore(self, disk: dict[str, Any], saved: Path, mark: Callable[[], None]) -> int:
        """Give a disk its old content; how many bytes that were."""
        path = Path(disk["path"])
        # Only what differs: a disk that is full has no space for blocks that it never got.
        differing = [p for p, now, was in zip(disk["pieces"], undo.marks(disk), disk["old"]) if now.digest != was[0]]
        mark()
        copy_pieces(saved, "qcow2", path, disk["format"], differing)
        if not undo.holds(disk, "old"):
            raise H2kError(f"{path}: the restored blocks do not read back", hint="run h2k rollback again")
        sync(path)
        return sum(length for _, length in differing)

    def _restore_files(self, files: list[dict[str, Any]]) -> None:
        for file in files:
            Path(file["work"]).unlink(missing_ok=True)
            if file["undo"] is None:
                undo.remove_file(Path(file["path"]))
            elif Path(file["undo"]).exists():
                undo.place_file(Path(file["undo"]), Path(file["path"]), file)


def _next_depth(stack: list[dict[str, Any]]) -> int:
    """The number in the names of the next commit's undo files."""
    return int(stack[-1].get("depth", len(stack) - 1)) + 1 if stack else 0


def _depth_of(journal: Journal) -> int:
    """That of the work at hand; journals of 0.1 do not name it."""
    return int((journal["work"] or {}).get("depth", len(journal["stack"])))
