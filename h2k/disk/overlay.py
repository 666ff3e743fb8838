"""Overlays, undo and journal: all disks of a guest change as one set, or not at all, whenever the run is killed."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Optional

from h2k.disk.image import probe
from h2k.errors import H2kError, Refused
from h2k.run import CommandFailed, run

PIECE = 1024 * 1024  # bytes; the unit of digests, and of what an interrupted commit may have torn
TORN_PIECES = 8  # qemu-img commit writes in order and holds at most a few MiB in flight
OnStep = Optional[Callable[[str], None]]


@dataclasses.dataclass(frozen=True)
class RollbackResult:
    """The disks that were restored, and how many bytes of each changed back."""

    disks: dict[str, int]

    def __str__(self) -> str:
        return "rolled back: " + ", ".join(f"{name} ({count} bytes restored)" for name, count in self.disks.items())


class DiskSet:
    """One guest's images and the report directory that holds their overlays, undo data and journal.

    journal.json: {"phase": "idle" | "applying" | "committing" | "rolling-back", "disks": the disks in work,
    "stack": what was committed, oldest first}. A disk there is named by digests of the pieces that changed, old
    and new, so that a fresh disk at the same path is never taken for the one that an old journal is about.
    """

    def __init__(self, images: Sequence[tuple[Path, str]], state_dir: Path) -> None:
        self.images = [(path.resolve(), form) for path, form in images]
        self.state_dir = state_dir.resolve()
        self._journal = self.state_dir / "journal.json"
        self._lock: Optional[int] = None

    # The journal

    def _load(self) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(self._journal.read_text(encoding="utf-8"))
            if content["phase"] not in ("idle", "applying", "committing", "rolling-back"):
                raise ValueError(content["phase"])
            return content
        except FileNotFoundError:
            return {"phase": "idle", "disks": [], "stack": []}
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise Refused(
                f"{self._journal}: can't be read: {e}", hint="move the report directory away to begin afresh"
            ) from e

    def _store(self, journal: dict[str, Any]) -> None:
        temporary = self._journal.with_suffix(".new")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
            json.dump(journal, out, indent=1)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, self._journal)
        directory = os.open(self.state_dir, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    def _acquire(self) -> None:
        """One run at a time; the lock ends with the process, however it ends."""
        if self._lock is not None:
            return
        self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            os.close(lock)
            raise Refused(f"{self.state_dir}: another h2k works on this guest", hint="wait for it to end") from e
        self._lock = lock

    def _overlay(self, index: int) -> Path:
        return self.state_dir / f"overlay-{index}.qcow2"

    def _undo(self, depth: int, index: int) -> Path:
        return self.state_dir / f"undo-{depth}-{index}.qcow2"

    # Repair

    def create_overlays(self) -> tuple[Path, ...]:
        """A qcow2 overlay on each image. Refused when an image is in use, read-only, or there is no space."""
        self._acquire()
        for path, form in self.images:
            if not os.access(path, os.W_OK):
                raise Refused(f"{path}: read-only", hint="give h2k a copy that it may write")
            try:
                run(["qemu-img", "info", "-f", form, str(path)])
            except CommandFailed as e:
                raise Refused(f"{path}: in use or unreadable: {e.stderr.strip()}", hint="shut the guest down") from e
        journal = self._load()
        self._store({**journal, "phase": "applying", "disks": [str(path) for path, _ in self.images]})
        overlays = []
        for index, (path, form) in enumerate(self.images):
            overlay = self._overlay(index)
            overlay.unlink(missing_ok=True)
            run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", str(path), str(overlay)])
            overlay.chmod(0o600)
            overlays.append(overlay)
        return tuple(overlays)

    def discard(self) -> None:
        """Throw the overlays away; the images were never touched."""
        self._acquire()
        journal = self._load()
        for index in range(len(self.images)):
            self._overlay(index).unlink(missing_ok=True)
            self._undo(len(journal["stack"]), index).unlink(missing_ok=True)
        self._store({**journal, "phase": "idle", "disks": []})

    def commit(self, on_step: OnStep = None) -> None:
        """Save what will be replaced, commit every overlay, read the images back, drop the overlays."""
        mark = on_step or (lambda name: None)
        journal = self._load()
        depth = len(journal["stack"])
        disks = []
        for index, (path, form) in enumerate(self.images):
            mark(f"save-undo-{index}")
            disks.append(self._save_undo(index, path, form, depth))
        self._store({**journal, "phase": "committing", "disks": disks})
        mark("committing")
        self._roll_forward(disks, mark)
        mark("committed")
        self._finish(journal, disks)

    def _save_undo(self, index: int, path: Path, form: str, depth: int) -> dict[str, Any]:
        overlay, undo = self._overlay(index), self._undo(depth, index)
        pieces = _pieces(overlay)
        size = probe(overlay, "qcow2").size
        undo.unlink(missing_ok=True)
        run(["qemu-img", "create", "-q", "-f", "qcow2", str(undo), str(size)])
        undo.chmod(0o600)
        old = _copy(path, form, undo, pieces)
        new = _digests(overlay, "qcow2", pieces)
        return {"path": str(path), "format": form, "size": size, "pieces": pieces, "old": old, "new": new}

    def _roll_forward(self, disks: list[dict[str, Any]], mark: Callable[[str], None]) -> None:
        for index, disk in enumerate(disks):
            path, form = Path(disk["path"]), disk["format"]
            if disk["pieces"] and _digests(path, form, disk["pieces"]) != disk["new"]:
                mark(f"commit-{index}")
                run(["qemu-img", "commit", "-q", "-d", "-f", "qcow2", str(self._overlay(index))])
                mark(f"read-back-{index}")
                if _digests(path, form, disk["pieces"]) != disk["new"]:
                    raise H2kError(f"{path}: the committed blocks do not read back", hint="run h2k rollback")

    def _finish(self, journal: dict[str, Any], disks: list[dict[str, Any]]) -> None:
        for disk in disks:
            disk["mtime"] = Path(disk["path"]).stat().st_mtime_ns
        self._store({"phase": "idle", "disks": [], "stack": [*journal["stack"], disks]})
        for index in range(len(disks)):
            self._overlay(index).unlink(missing_ok=True)

    # Recovery

    def recover(self) -> str:
        """Finish or throw away what an earlier run left: "clean", "discarded", "finished" or "rolled back".

        Refused when the disks are neither what that run found nor what it was writing.
        """
        if not self._journal.exists():
            return "clean"
        self._acquire()
        journal = self._load()
        if journal["phase"] == "idle":
            return "clean"
        if journal["phase"] == "applying":
            self.discard()
            return "discarded"
        self._check_identity(journal["disks"])
        if journal["phase"] == "committing":
            self._roll_forward(journal["disks"], lambda name: None)
            self._finish(journal, journal["disks"])
            return "finished"
        self._roll_back(journal)
        return "rolled back"

    def _check_identity(self, disks: list[dict[str, Any]]) -> None:
        wanted = [str(path) for path, _ in self.images]
        if [d["path"] for d in disks] != wanted:
            raise Refused(f"{self._journal}: an unfinished run on other disks", hint="finish it with those disks first")
        for disk in disks:
            digests = _digests(Path(disk["path"]), disk["format"], disk["pieces"])
            strange = sum(d not in (o, n) for d, o, n in zip(digests, disk["old"], disk["new"]))
            if strange > TORN_PIECES or (strange and strange == len(digests) > 2):
                raise Refused(
                    f"{disk['path']}: not the disk that the unfinished run in {self._journal} was writing",
                    hint="move the report directory away to begin afresh",
                )

    # The way back

    def rollback(self, force: bool = False, on_step: OnStep = None) -> RollbackResult:
        """Restore the content that the guest saw before the last commit. Refused when nothing was committed, or
        when somebody has written since (unless `force`)."""
        mark = on_step or (lambda name: None)
        self._acquire()
        self.recover()
        journal = self._load()
        if not journal["stack"]:
            raise Refused(f"{self.state_dir}: nothing was committed, so there is nothing to roll back")
        disks = journal["stack"][-1]
        if [d["path"] for d in disks] != [str(path) for path, _ in self.images]:
            raise Refused(f"{self._journal}: the last repair was on {', '.join(d['path'] for d in disks)}")
        for disk in disks:
            path = Path(disk["path"])
            same = _digests(path, disk["format"], disk["pieces"]) == disk["new"]
            if not force and not (same and path.stat().st_mtime_ns == disk["mtime"]):
                raise Refused(
                    f"{path}: somebody has written to it since the repair",
                    hint="going back would mix old and new blocks; --force does it all the same",
                )
        self._store({**journal, "phase": "rolling-back", "disks": disks})
        mark("rolling-back")
        return self._roll_back(self._load())

    def _roll_back(self, journal: dict[str, Any]) -> RollbackResult:
        depth = len(journal["stack"]) - 1
        restored = {}
        for index, disk in enumerate(journal["disks"]):
            if disk["pieces"]:
                path, form = Path(disk["path"]), disk["format"]
                _copy(self._undo(depth, index), "qcow2", path, disk["pieces"], form)
                if _digests(path, form, disk["pieces"]) != disk["old"]:
                    raise H2kError(f"{path}: the restored blocks do not read back", hint="run h2k rollback again")
            restored[disk["path"]] = sum(length for _, length in disk["pieces"])
        self._store({"phase": "idle", "disks": [], "stack": journal["stack"][:-1]})
        for index in range(len(journal["disks"])):
            self._undo(depth, index).unlink(missing_ok=True)
        return RollbackResult(restored)


def _pieces(overlay: Path) -> list[list[int]]:
    """[offset, length] of what the overlay holds itself, in pieces of at most PIECE bytes."""
    done = run(["qemu-img", "map", "-f", "qcow2", "--output=json", str(overlay)])
    pieces = []
    for extent in json.loads(done.stdout):
        if extent["depth"] == 0 and extent.get("present", extent["data"] or extent["zero"]):
            end = extent["start"] + extent["length"]
            pieces += [[at, min(PIECE, end - at)] for at in range(extent["start"], end, PIECE)]
    return pieces


@contextmanager
def _nbd(path: Path, form: str, write: bool) -> Iterator[Any]:
    import nbd

    handle = nbd.NBD()
    mode = [] if write else ["-r"]
    handle.connect_systemd_socket_activation(["qemu-nbd", *mode, "-f", form, str(path)])
    try:
        yield handle
        if write:
            handle.flush()
    except nbd.Error as e:
        raise H2kError(f"{path}: {e}") from e
    finally:
        handle.shutdown()


def _digests(path: Path, form: str, pieces: list[list[int]]) -> list[str]:
    with _nbd(path, form, write=False) as image:
        return [hashlib.sha256(image.pread(length, at)).hexdigest() for at, length in pieces]


def _copy(
    source: Path, source_format: str, target: Path, pieces: list[list[int]], target_format: str = "qcow2"
) -> list[str]:
    """Copy the pieces from one image to another, and return their digests."""
    digests = []
    with _nbd(source, source_format, write=False) as old, _nbd(target, target_format, write=True) as new:
        for at, length in pieces:
            data = old.pread(length, at)
            new.pwrite(data, at)
            digests.append(hashlib.sha256(data).hexdigest())
    return digests
