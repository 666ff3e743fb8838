"""Files that h2k writes: at one stroke, never through a link, with one rule for modes; and whether a file is ours at all.

As root h2k works on what others have made. So a file is written relative to a handle of its directory, under a name
that nothing had, and takes the place of an older one by a rename, which follows no link. What h2k runs or obeys as root
(hooks, plans, policies) must be its owner's alone, and so must the directory in which it keeps its journal.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import json
import os
import pwd
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

from h2k.base.errors import H2kError, Refused

Write = Callable[[Path, bytes, int], None]  # what writes a file: path, content, mode
PRIVATE = 0o600  # what h2k writes
SHARED = 0o644  # what others must read: the descriptions of domains, for virsh and other tools
PROGRAM = 0o755  # run scripts
PASSABLE = 0o711  # a report directory: QEMU's user passes through to its overlays, and lists nothing
_MAX_LINKS = 40  # as Linux has it
_MAX_NAME = 200  # bytes of a file's name that leave room for what a temporary name adds


# Writing


@contextmanager
def opened_directory(path: Path) -> Iterator[int]:
    """A handle of the directory, by which its files are reached whatever is put in its place meanwhile."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Write the file at one stroke: a reader, or the next run after a kill, sees the old file or the new one, whole.

    The mode is `mode` whatever the umask. A link at `path` is replaced, not followed. H2kError names the file, and says so
    of a device or a pipe, which root would replace by a file: /dev/null, /dev/stdout.
    """
    try:
        with opened_directory(path.parent) as directory:
            _require_plain(path, directory)
            temporary = _temporary(path.name)
            try:
                with open(create(directory, temporary, mode), "wb") as out:
                    out.write(data)
                    out.flush()
                    os.fsync(out.fileno())
                os.rename(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=directory)
                raise
            os.fsync(directory)
    except OSError as e:
        raise unwritable(path, e) from e


def _require_plain(path: Path, directory: int) -> None:
    """H2kError for a name in that directory which a device, a pipe or a socket has, or a link to an open file."""
    try:
        mode = os.stat(path.name, dir_fd=directory, follow_symlinks=False).st_mode
        special = os.readlink(path.name, dir_fd=directory).startswith("/proc/self/fd") if stat.S_ISLNK(mode) else not stat.S_ISREG(mode)
    except OSError:
        return  # nothing is there, or writing says what is wrong
    if special and not stat.S_ISDIR(mode):
        raise H2kError(f"{path}: a device or a pipe, which h2k would replace by a file", hint="give the name of a file")


def write_text(path: Path, text: str, mode: int = PRIVATE) -> None:
    """The same for text, in UTF-8; half a surrogate pair, which no encoding has, becomes a question mark."""
    write_bytes(path, text.encode("utf-8", "replace"), mode)


def write_json(path: Path, content: Any, mode: int = PRIVATE) -> None:
    """The same for JSON."""
    write_text(path, json_text(content) + "\n", mode)


def json_text(content: Any) -> str:
    """JSON for people and programs: readable, and with escapes for all that a terminal would obey (which JSON itself
    asks for below U+0020 alone) or an encoding lacks."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c == "\n" or c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1]


def create(directory: int, name: str, mode: int = PRIVATE) -> int:
    """A handle to write to a file that was not there, with that mode; FileExistsError when anything has its name."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(name, flags, mode, dir_fd=directory)
    try:
        os.fchmod(handle, mode)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _temporary(name: str) -> str:
    return f".{os.fsdecode(os.fsencode(name)[:_MAX_NAME])}.{secrets.token_hex(6)}.h2k-new"


def drop_temporaries(directory: Path) -> None:
    """Remove what a killed run was writing; to be called by who alone works in that directory."""
    for path in directory.glob(".*.h2k-new"):
        path.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> H2kError:
    """A failed write as one line, with the way out that fits."""
    hints = {
        "ENOSPC": "free some space, then give the same command", "EDQUOT": "free some space, then give the same command",
        "EACCES": "run it with sudo, or as the owner of the directory", "EROFS": "mount it for writing",
        "EPERM": "run it with sudo, or as the owner of the directory", "ENAMETOOLONG": "give it a shorter name",
    }  # fmt: skip
    hint = hints.get(errno.errorcode.get(error.errno or 0, ""), "")
    return H2kError(f"{path}: can't be written: {error.strerror or error}", hint=hint)


# Whose it is


def own_directory(path: Path, mode: int = PASSABLE) -> Path:
    """Make a report directory, or one in it, or see that it is ours; its path without links, by which it is reached from now on.

    Refused for a link, for a directory of somebody else, and for one that others can write: they could have put
    anything there, a journal or a link under a name that h2k will write to.
    """
    path = path.parent.resolve() / path.name
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
            with opened_directory(path) as made:
                os.fchmod(made, mode)
        facts = path.lstat()
    except OSError as e:
        raise Refused(f"{path}: {e.strerror}", hint=_sudo(e)) from e
    require_own(path, facts)
    return path


def require_own(path: Path, facts: os.stat_result) -> None:
    """Refused unless `facts` (of lstat) are those of a directory that is ours alone."""
    away = "move it away, or give another directory with --report DIR"
    if stat.S_ISLNK(facts.st_mode):
        raise Refused(f"{path}: a link, and h2k follows none to where it writes", hint=away)
    if not stat.S_ISDIR(facts.st_mode):
        raise Refused(f"{path}: not a directory", hint=away)
    if facts.st_uid != os.geteuid():
        theirs = "run it with sudo" if os.geteuid() != 0 and facts.st_uid == 0 else away
        raise Refused(f"{path}: belongs to {_name(facts.st_uid)}, not to the user that h2k runs as", hint=theirs)
    if _others_write(facts):
        raise Refused(f"{path}: others can write to it", hint=f"see what is in it, then chmod go-w {path}")


def open_own(path: Path) -> int:
    """A handle to read a file that h2k itself wrote; Refused for a link, for another user's file and for one that
    others can write. FileNotFoundError, OSError."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as e:
        if e.errno == errno.ELOOP:
            raise Refused(f"{path}: a link, where h2k writes a file", hint="move it away") from e
        raise
    facts = os.fstat(handle)
    what = ""
    if not stat.S_ISREG(facts.st_mode):
        what = "not a file"
    elif facts.st_uid not in (os.geteuid(), 0):
        what = f"belongs to {_name(facts.st_uid)}, and h2k did not write it"
    elif _others_write(facts):
        what = "others can write to it"
    if what:
        os.close(handle)
        raise Refused(f"{path}: {what}", hint="move it away to begin afresh")
    return handle


def require_trusted(path: Path, what: str) -> None:
    """As root: Refused unless nobody but root could have made `what` (a hook, a plan, a policy) or put another in its place.

    Each part of the way to it belongs to root, to us or to the owner of h2k's own code; none is writable by others,
    but for directories like /tmp, where only the owner removes a file. Links on the way are part of it.
    """
    if os.geteuid() != 0:
        return
    trusted = {0, os.geteuid(), Path(__file__).stat().st_uid}
    try:
        for part, facts in _way(path):
            if facts.st_uid not in trusted:
                whose = f"{what} that root is to obey" if part == path.absolute() else f"{path}, {what}, lies below it"
                raise Refused(
                    f"{part}: belongs to {_name(facts.st_uid)}; {whose}", hint=f"chown root {part}, if you trust what is there"
                )
            sticky = stat.S_ISDIR(facts.st_mode) and facts.st_mode & stat.S_ISVTX
            if stat.S_ISLNK(facts.st_mode) or sticky or not _others_write(facts):
                continue
            raise Refused(f"{part}: others can write to it; {what} is there that root is to obey", hint=f"chmod go-w {part}")
    except OSError as e:
        raise Refused(f"{path}: can't read {what}: {e.strerror}") from e


def _others_write(facts: os.stat_result) -> bool:
    """Whether somebody else than the owner and root can write. An ordinary user's own group, as some distributions give
    each one, is nobody else; for root no group is."""
    if os.geteuid() == 0 or not facts.st_mode & stat.S_IWGRP:
        return bool(facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    try:
        group, owner = grp.getgrgid(facts.st_gid), pwd.getpwuid(facts.st_uid)
    except KeyError:
        return True
    private = group.gr_gid == owner.pw_gid and group.gr_name == owner.pw_name and not set(group.gr_mem) - {owner.pw_name}
    return bool(facts.st_mode & stat.S_IWOTH) or not private


def _way(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every directory and link on the way to the file, and the file, each with what lstat says of it."""
    left, here, links = list(reversed(path.absolute().parts[1:])), Path("/"), 0
    yield here, here.lstat()
    while left:
        part = left.pop()
        if part == "..":
            here = here.parent
            continue
        facts = (here / part).lstat()
        yield here / part, facts
        if not stat.S_ISLNK(facts.st_mode):
            here = here / part
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, "too many links")
        target = (here / part).readlink()
        here = Path("/") if target.is_absolute() else here
        left += reversed(target.parts[1:] if target.is_absolute() else target.parts)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _sudo(error: OSError) -> str:
    denied = isinstance(error, PermissionError) and os.geteuid() != 0
    return "run it with sudo, or give --report DIR" if denied else "the report directory must be writable"
