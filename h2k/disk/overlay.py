"""Overlays, undo and journal: all disks of a guest change as one set, or not at all, whenever the run is killed."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
import stat
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Optional

from h2k.base.errors import H2kError, Refused
from h2k.base.run import CommandFailed, run
from h2k.disk.blocks import Mark, copy_pieces, marks_of, pieces_of, sync, torn_between
from h2k.disk.image import probe

PHASES = ("idle", "applying", "kept", "committing", "rolling-back")
JOURNAL_LIMIT = 256 * 1024 * 1024  # bytes; a boot that rewrote 10 GiB has a journal of about 30 MiB
# Our byte for the lock on an image, far from those that QEMU locks (100 to 300): a byte range of an open file
# description, which holds on NFS as well and does not stop QEMU.
_LOCK_BYTE = 0x68326B
_ORPHAN_LIMIT = 60.0  # seconds for a qemu-img of a killed run to end
_OVERLAY_LIMIT = 10.0  # seconds for an appliance of a killed run to end
OnStep = Optional[Callable[[str], None]]
Journal = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class RollbackResult:
    """What was undone ("fix", "boot"), and how many bytes of each disk changed back."""

    disks: dict[str, int]
    kind: str = "fix"

    def __str__(self) -> str:
        return f"rolled back ({self.kind}): " + ", ".join(
            f"{name} ({count} bytes restored)" for name, count in self.disks.items()
        )


@dataclasses.dataclass(frozen=True)
class Companion:
    """A file that belongs to the disks' state (firmware variables): at the commit `work` takes the place of `path`."""

    work: Path
    path: Path


class DiskSet:
    """One guest's images and the report directory that holds their overlays, undo data and journal.

    journal.json: {"phase", "work", "stack"}. `work` is what is going on (None when idle): its kind, the disks as they
    were found, then, from the commit on, for each disk the pieces that change with their marks before and after. So
    a fresh disk at the same path is never taken for the one that an old journal is about. `stack` is what was
    committed, oldest first; each entry has its undo images beside the journal.
    """

    def __init__(self, images: Sequence[tuple[Path, str]], state_dir: Path) -> None:
        self.images = [(path.resolve(), form) for path, form in images]
        self.state_dir = state_dir.resolve()
        self._journal = self.state_dir / "journal.json"
        self._locks: list[int] = []
        self._held = False

    @property
    def phase(self) -> str:
        """Where the journal stands: one of PHASES."""
        return str(self._load()["phase"])

    @property
    def overlays(self) -> tuple[Path, ...]:
        """The overlays' paths, in the order of the images."""
        return tuple(self._overlay(index) for index in range(len(self.images)))

    @property
    def history(self) -> tuple[str, ...]:
        """What was committed and can be rolled back, oldest first: "fix", "boot"."""
        return tuple(entry["kind"] for entry in self._load()["stack"])

    # The journal and the locks

    def _load(self) -> Journal:
        try:
            if self._journal.stat().st_size > JOURNAL_LIMIT:
                raise ValueError(f"larger than {JOURNAL_LIMIT} bytes")
            content: Journal = json.loads(self._journal.read_text(encoding="utf-8"))
            if content["phase"] not in PHASES or not isinstance(content["stack"], list):
                raise ValueError(f"phase {content['phase']!r}")
            if content["phase"] != "idle":
                _ = [(disk["path"], disk["format"]) for disk in content["work"]["disks"]]
            return content
        except FileNotFoundError:
            return {"phase": "idle", "work": None, "stack": []}
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise Refused(
                f"{self._journal}: can't be read: {e}", hint="move the report directory away to begin afresh"
            ) from e

    def _store(self, phase: str, work: Optional[dict[str, Any]], stack: list[dict[str, Any]]) -> Journal:
        journal = {"phase": phase, "work": work, "stack": stack}
        temporary = self._journal.with_suffix(".new")
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
                json.dump(journal, out)
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(self._journal)
            sync(self.state_dir)
        except OSError as e:
            raise H2kError(f"{self._journal}: {e.strerror}", hint="free some space, then give the same command") from e
        return journal

    def _acquire(self) -> None:
        """One run at a time for the report directory, and for each image whatever directory the other run uses;
        the locks end with the process, however it ends."""
        if self._locks:
            return
        locks: list[int] = []
        try:
            # Others may pass through, not look: QEMU runs as another user and has to reach the overlays.
            self.state_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
            locks.append(os.open(self.state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            _lock(locks[0], self.state_dir)
            for path, _ in self.images:
                locks.append(_open_writable(path))
                _lock(locks[-1], path)
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
        while self._locks and not self._held:
            os.close(self._locks.pop())

    def _overlay(self, index: int) -> Path:
        return self.state_dir / f"overlay-{index}.qcow2"

    def _undo(self, depth: int, index: int) -> Path:
        return self.state_dir / f"undo-{depth}-{index}.qcow2"

    def _undo_file(self, depth: int, index: int) -> Path:
        return self.state_dir / f"undo-{depth}-file{index}"

    # Repair

    def create_overlays(self, kind: str = "fix") -> tuple[Path, ...]:
        """A qcow2 overlay on each image. Refused when an image is in use, read-only, or an unfinished run is there.

        From here to commit, discard or keep no other h2k gets at the images.
        """
        with self._locked(keep=True):
            return self._create_overlays(kind)

    def _create_overlays(self, kind: str) -> tuple[Path, ...]:
        journal = self._load()
        if journal["phase"] == "kept":
            raise Refused(
                f"{self.state_dir}: the overlays of a boot are kept, and the guest may run on them",
                hint="h2k boot commits them, h2k rollback throws them away",
            )
        if journal["phase"] != "idle":
            raise Refused(f"{self.state_dir}: an unfinished run ({journal['phase']})", hint="h2k rollback undoes it")
        self._check_free()
        stack = journal["stack"]
        disks = [dict(_found(path), path=str(path), format=form) for path, form in self.images]
        work = {"kind": kind, "disks": disks, "files": [], "depth": _next_depth(stack), "anew": self._others_now(stack)}
        self._store("applying", work, stack)
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

    def _check_free(self) -> None:
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
        return bool(disks) and all(disk["path"] in images and _is_another(disk) for disk in disks)

    def _drop_undo(self, depth: int) -> None:
        for path in self.state_dir.glob(f"undo-{depth}-*"):
            path.unlink()

    def discard(self) -> None:
        """Throw the overlays away; the images were never touched."""
        with self._locked():
            self._discard()

    def _discard(self) -> None:
        journal = self._load()
        if journal["phase"] not in ("idle", "applying", "kept"):
            raise Refused(f"{self._journal}: the overlays are being committed", hint="run h2k rollback")
        self._drop_overlays()
        self._drop_undo(_depth_of(journal))
        for companion in (journal["work"] or {}).get("files", ()):
            Path(companion["work"]).unlink(missing_ok=True)
        self._store("idle", None, journal["stack"])

    def _check_overlays_unused(self) -> None:
        """Refused while a guest runs on an overlay: what it has written since would be lost below it."""
        for overlay in filter(Path.exists, self.overlays):
            if "lock" in _complaint(overlay, "qcow2", _OVERLAY_LIMIT):
                hint = "shut that guest down, then give the same command"
                raise Refused(f"{overlay}: a guest runs on it, and what it has written is nowhere else", hint=hint)

    def _drop_overlays(self) -> None:
        for path in self.state_dir.glob("overlay-*.qcow2"):
            path.unlink()

    def keep(self, companions: Sequence[Companion] = ()) -> None:
        """Leave the overlays for a domain to run on; a later commit or rollback ends it."""
        journal = self._load()
        files = [{"work": str(c.work), "path": str(c.path)} for c in companions]
        self._store("kept", {**journal["work"], "files": files}, journal["stack"])
        self.release()

    def commit(self, on_step: OnStep = None, companions: Sequence[Companion] = ()) -> None:
        """Save what will be replaced, commit every overlay, read the images back, drop the overlays.

        When that fails the disks get back what they had; H2kError says which of the two could not be done.
        """
        with self._locked():
            self._commit(on_step or (lambda name: None), companions)

    def _commit(self, mark: Callable[[str], None], companions: Sequence[Companion]) -> None:
        journal = self._load()
        if journal["phase"] not in ("applying", "kept"):
            raise H2kError(f"{self._journal}: no overlays to commit, the phase is {journal['phase']}")
        work, stack, depth = journal["work"], journal["stack"], _depth_of(journal)
        try:
            disks = []
            for index, disk in enumerate(work["disks"]):
                mark(f"save-undo-{index}")
                disks.append(self._save_undo(index, disk, depth))
            files = work["files"] or [{"work": str(c.work), "path": str(c.path)} for c in companions]
            files = [self._save_undo_file(index, file, depth) for index, file in enumerate(files)]
            work = {**work, "disks": disks, "files": files}
            saved = self._store("committing", work, stack)
        except (H2kError, OSError):
            if journal["phase"] == "applying":
                self._discard()
            raise
        mark("committing")
        try:
            self._roll_forward(work, mark)
        except (H2kError, OSError) as e:
            self._roll_back(self._store("rolling-back", work, stack))
            raise H2kError(f"the commit failed, and the disks have their old content again: {e}") from e
        mark("committed")
        self._finish(saved)

    def _save_undo(self, index: int, disk: dict[str, Any], depth: int) -> dict[str, Any]:
        path, form, overlay, undo = Path(disk["path"]), disk["format"], self._overlay(index), self._undo(depth, index)
        if _found(path) != {"bytes": disk["bytes"], "mtime": disk["mtime"]}:
            raise Refused(f"{path}: somebody has written to it while h2k worked on an overlay of it")
        size = probe(overlay, "qcow2").size
        if size != probe(path, form).size:
            raise Refused(f"{overlay}: its size differs from that of {path}")
        pieces = pieces_of(overlay)
        undo.unlink(missing_ok=True)
        run(["qemu-img", "create", "-q", "-f", "qcow2", str(undo), str(size)])
        undo.chmod(0o600)
        old = copy_pieces(path, form, undo, "qcow2", pieces)
        new = marks_of(overlay, "qcow2", pieces)
        sync(overlay)
        return {
            "path": str(path), "format": form, "found": disk["mtime"], "mtime": disk["mtime"], "pieces": pieces,
            "old": [dataclasses.astuple(m) for m in old], "new": [dataclasses.astuple(m) for m in new],
        }  # fmt: skip

    def _save_undo_file(self, index: int, file: dict[str, str], depth: int) -> dict[str, Any]:
        undo = self._undo_file(depth, index)
        there = Path(file["path"]).exists()
        if there:
            shutil.copyfile(file["path"], undo)
            sync(undo)
        sync(Path(file["work"]))
        return {**file, "undo": str(undo) if there else None}

    def _roll_forward(self, work: dict[str, Any], mark: Callable[[str], None]) -> None:
        for index, disk in enumerate(work["disks"]):
            if _holds(disk, "new", every=True):
                continue
            mark(f"commit-{index}")
            run(["qemu-img", "commit", "-q", "-d", "-f", "qcow2", str(self._overlay(index))])
            sync(Path(disk["path"]))
            mark(f"read-back-{index}")
            if not _holds(disk, "new", every=True):
                raise H2kError(f"{disk['path']}: the committed blocks do not read back", hint="check the host's storage")
        for file in work["files"]:
            if Path(file["work"]).exists():
                _move(Path(file["work"]), Path(file["path"]))

    def _finish(self, journal: Journal) -> None:
        work = journal["work"]
        for disk in work["disks"]:
            disk["mtime"] = _found(Path(disk["path"]))["mtime"]
        below = [] if work.get("anew") else journal["stack"]
        self._store("idle", None, [*below, work])
        for depth in range(_depth_of(journal) if not below else 0):
            self._drop_undo(depth)
        self._drop_overlays()

    # Recovery

    def recover(self) -> str:
        """Finish or throw away what an earlier run left: "clean", "discarded", "finished" or "rolled back"; or "kept"
        when it left overlays on purpose. Refused when the disks are neither what that run found nor what it wrote."""
        if not self._journal.exists() or self.phase == "idle":
            return "clean"
        with self._locked():
            return self._recover()

    def _recover(self) -> str:
        journal = self._load()
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

    def _check_identity(self, disks: list[dict[str, Any]]) -> None:
        """The disks are those of the journal: every page of every piece is the old one or the new one."""
        self._same_paths(disks, "an unfinished run is on")
        for disk in disks:
            _wait_until_free(Path(disk["path"]), disk["format"])
            for now, old, new in zip(_marks(disk), _as_marks(disk["old"]), _as_marks(disk["new"])):
                if now.digest not in (old.digest, new.digest) and not torn_between(now, old, new):
                    raise Refused(
                        f"{disk['path']}: not the disk that the unfinished run in {self._journal} was writing",
                        hint="move the report directory away to begin afresh",
                    )

    def _same_paths(self, disks: list[dict[str, Any]], what: str, more: bool = False) -> None:
        """Refused unless these are our disks; with `more` we may have further ones."""
        journal, ours = [d["path"] for d in disks], [str(path) for path, _ in self.images]
        if journal != ([path for path in ours if path in journal] if more else ours):
            raise Refused(f"{self._journal}: {what} {', '.join(d['path'] for d in disks)}", hint="name those disks")

    # The way back

    def rollback(self, force: bool = False, on_step: OnStep = None) -> RollbackResult:
        """Restore the content that the guest saw before the last commit, be it finished or not; overlays that were
        kept are thrown away. Refused when nothing was committed, or when somebody has written since (unless
        `force`), and always for disks that are others than those of the journal."""
        with self._locked():
            return self._rollback(force, on_step or (lambda name: None))

    def _rollback(self, force: bool, mark: Callable[[str], None]) -> RollbackResult:
        journal = self._load()
        if journal["phase"] in ("applying", "kept"):
            kept = journal["phase"] == "kept"
            self._check_overlays_unused()
            self._discard()
            if kept:
                return RollbackResult({str(path): 0 for path, _ in self.images}, "kept overlay")
            journal = self._load()
        if journal["phase"] != "idle":
            self._check_identity(journal["work"]["disks"])
            return self._roll_back(self._store("rolling-back", journal["work"], journal["stack"]))
        if not journal["stack"]:
            raise Refused(f"{self.state_dir}: nothing was committed, so there is nothing to roll back")
        self._check_free()
        entry = journal["stack"][-1]
        self._same_paths(entry["disks"], "the last commit was on", more=True)
        for disk in entry["disks"]:
            self._check_unwritten(disk, force)
        journal = self._store("rolling-back", entry, journal["stack"][:-1])
        mark("rolling-back")
        return self._roll_back(journal, mark)

    def _check_unwritten(self, disk: dict[str, Any], force: bool) -> None:
        path = Path(disk["path"])
        if _found(path)["mtime"] == disk["mtime"] and _holds(disk, "new", every=True):
            return
        if not force:
            raise Refused(
                f"{path}: somebody has written to it since the commit",
                hint="going back would mix old and new blocks; --force does it all the same",
            )
        if not _holds(disk, "new"):
            raise Refused(f"{path}: nothing of what h2k wrote is on it: another disk", hint="nothing to roll back here")

    def _roll_back(self, journal: Journal, mark: Callable[[str], None] = lambda name: None) -> RollbackResult:
        work, stack = journal["work"], journal["stack"]
        depth, restored = _depth_of(journal), {}
        for index, disk in enumerate(work["disks"]):
            path, form, old = Path(disk["path"]), disk["format"], _as_marks(disk["old"])
            # Only what differs: a disk that is full has no space for blocks that it never got.
            differing = [p for p, now, was in zip(disk["pieces"], _marks(disk), old) if now.digest != was.digest]
            mark(f"restore-{index}")
            copy_pieces(self._undo(depth, index), "qcow2", path, form, differing)
            if not _holds(disk, "old", every=True):
                raise H2kError(f"{path}: the restored blocks do not read back", hint="run h2k rollback again")
            sync(path)
            restored[disk["path"]] = sum(length for _, length in differing)
        self._restore_files(work["files"])
        if stack:
            _hand_down(work["disks"], stack[-1]["disks"])
        self._store("idle", None, stack)
        self._drop_overlays()
        self._drop_undo(depth)
        return RollbackResult(restored, work["kind"])

    def _restore_files(self, files: list[dict[str, Any]]) -> None:
        for file in files:
            Path(file["work"]).unlink(missing_ok=True)
            if file["undo"] is None:
                Path(file["path"]).unlink(missing_ok=True)
            elif Path(file["undo"]).exists():
                _move(Path(file["undo"]), Path(file["path"]))


def _move(source: Path, target: Path) -> None:
    """Put a file in the place of another at one stroke, across file systems too."""
    new = target.with_name(target.name + ".h2k-new")
    shutil.copyfile(source, new)
    shutil.copymode(source, new)
    sync(new)
    new.replace(target)
    sync(target.parent)
    source.unlink()


def _hand_down(undone: list[dict[str, Any]], below: list[dict[str, Any]]) -> None:
    """The disks are what the commit below left, if nobody had written in between: so they carry its time stamp."""
    for disk, earlier in zip(undone, below):
        if disk["path"] == earlier["path"] and disk["found"] == earlier["mtime"]:
            earlier["mtime"] = _found(Path(disk["path"]))["mtime"]


def _next_depth(stack: list[dict[str, Any]]) -> int:
    """The number in the names of the next commit's undo files."""
    return int(stack[-1].get("depth", len(stack) - 1)) + 1 if stack else 0


def _depth_of(journal: Journal) -> int:
    """That of the work at hand; journals of 0.1 do not name it."""
    return int((journal["work"] or {}).get("depth", len(journal["stack"])))


def _is_another(disk: dict[str, Any]) -> bool:
    """Whether a disk that a commit has written holds none of the pieces that changed by it."""
    if _found(Path(disk["path"]))["mtime"] == disk["mtime"]:
        return False
    end = max((at + length for at, length in disk["pieces"]), default=0)
    return probe(Path(disk["path"]), disk["format"]).size < end or not _holds(disk, "new")


def _found(path: Path) -> dict[str, Any]:
    """By what a write of somebody else is noticed: the file's size in bytes and its time stamp in nanoseconds."""
    status = path.stat()
    return {"bytes": status.st_size, "mtime": status.st_mtime_ns}


def _as_marks(marks: list[list[str]]) -> list[Mark]:
    return [Mark(*mark) for mark in marks]


def _marks(disk: dict[str, Any]) -> list[Mark]:
    return marks_of(Path(disk["path"]), disk["format"], disk["pieces"])


def _holds(disk: dict[str, Any], which: str, every: bool = False) -> bool:
    """Whether the disk holds every piece as it was ("old") or became ("new"); or any of those that changed."""
    found = [
        now.digest == wanted.digest
        for now, wanted, old, new in zip(_marks(disk), _as_marks(disk[which]), _as_marks(disk["old"]), _as_marks(disk["new"]))
        if every or old.digest != new.digest
    ]
    return all(found) if every else any(found)


def _lock(handle: int, what: Path) -> None:
    """Lock our byte of an open file (Linux open file description locks: they end when it is closed)."""
    try:
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, _LOCK_BYTE, 1, 0))
    except (BlockingIOError, PermissionError) as e:
        raise Refused(f"{what}: another h2k works on this guest", hint="wait for it to end") from e


def _open_writable(path: Path) -> int:
    """The image, open for reading and writing; Refused when that can't be, or when nobody is meant to write it."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as e:
        raise Refused(f"{path}: can't be written: {e.strerror}", hint="give h2k a copy that it may write") from e
    # root may write what is marked read-only; h2k does not take that for a permission
    if not os.fstat(handle).st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
        os.close(handle)
        raise Refused(f"{path}: read-only", hint="give h2k a copy that it may write")
    return handle


def _wait_until_free(path: Path, form: str) -> None:
    """A killed run's qemu-img goes on by itself to its end: wait for that."""
    problem = _complaint(path, form, _ORPHAN_LIMIT)
    if problem:
        raise Refused(f"{path}: in use or unreadable: {problem}", hint="shut the guest down")


def _complaint(path: Path, form: str, limit: float) -> str:
    """What qemu-img says of an image, "" for a good one; one in use has `limit` seconds to become free."""
    deadline = time.monotonic() + limit
    while True:
        try:
            run(["qemu-img", "info", "-f", form, str(path)])
            return ""
        except CommandFailed as e:
            problem = " ".join(e.stderr.split())
        if "lock" not in problem or time.monotonic() > deadline:
            return problem
        time.sleep(0.2)
