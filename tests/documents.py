"""Runs what the documents show, on made guests, and compares it with what really came.

    python3 -m tests.documents              every document that has commands to run
    python3 -m tests.documents --write      the same, and what was printed goes into the documents
    python3 -m tests.documents docs/refused.md [--write]

With --quick what is `long` is left out. With --keep the world stays in .cache/documents, and a slow command that an
earlier call has run is not run again: for those who write documents.

Each document gets a world of its own: its current directory, and /srv and /exports, are below a temporary directory, and
paths are shown as if they were not. What differs from run to run and from host to host (times, sizes, versions, …) is
masked by one list, `MASKS`. A line of "…" alone stands for any number of lines.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Optional

from h2k.base.host import guestfs_settings
from tests.document_commands import DOCUMENTS, ROOT, Block, Command, blocks
from tests.guests import build
from tests.guests.faults import break_disk, by_name
from tests.guests.virtio_win import make_iso, make_runner, make_tree

KEPT = (ROOT / ".cache").resolve() / "documents"
MORE = "…"
HOME = "/root"
MASKS = (
    (r"(?:\d+ h )?(?:\d+ min )?\b\d+(?:\.\d+)? (?:ms|s|min)\b", "TIME"),
    (r"\[ *\d+\.\d\]", "[TIME]"),
    (r"\b\d+(?:\.\d+)? (?:bytes|KiB|MiB|GiB|TiB)\b(?:/s)?", "SIZE"),
    (r'\bdatastore: "[^"]*"', "datastore: PLACE"),
    (r"\bbytes: \d+", "bytes: N"),
    (r"\bestimate: \d+", "estimate: N"),
    (r"\b\d+ bytes, where its tables use \d+", "SIZES"),
    (r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)?)?", "DATE"),
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "UUID"),
    (r"\b[0-9a-f]{12,64}\b", "DIGEST"),
    (r"\b52:54:00(?::[0-9a-f]{2}){3}\b", "MAC"),
    (r"(?<![\d.])\d+\.\d+\.\d+(?![.\d])(?:[-~+]\w[\w.~+-]*)?", "VERSION"),
    (r"/(?:var/)?tmp/[\w./-]+", "/tmp/PLACE"),
    (r", slower: KVM", ""),
)
# What changes no file: after these the world is what it was.
_READS = re.compile(
    r"^(?:\w+=\S+ )*(?:h2k (?:-v )?(?:inspect|plan|verify|explain|doctor|report (?!.*--html)|hooks|drivers|validate|--\S+)\b|cat |ls |echo |head |qemu-img (?:info|compare)|"
    r"export |virt-v2v --|.*--h2k-(?:help|version|dry-run)\b)"
)
_SLOW = re.compile(r"\b(?:h2k-v2v|h2k-qemu-img convert|h2k fleet (?:run|retry)|virt-v2v|h2k post|h2k fix)\b(?!.*--(?:h2k-)?(?:dry-run|help|version))")
_BEGINNING = 60  # characters of a line that tell which it is
OLD_WINDOWS = ("xp", "2k3", "2k8", "w7", "2k8R2", "w8", "2k12", "w8.1", "2k16")  # a recent virtio-win has nothing for them


# The made machines


def make_sources(place: Path) -> None:
    """What the documents speak of: exports of several hypervisors, drivers, the directories for results."""
    home, exports = place / "home", place / "exports"
    for directory in (home, exports / "hyper-v", place / "srv" / "vm"):
        directory.mkdir(parents=True)
    known = build.cached()
    new, gen1, gen2 = known["win2022"], known["win2019-hyperv-gen1"], known["win2025-hyperv-gen2"]
    build.write_vmx(dataclasses.replace(new, name="web01"), home)
    broken = place / "broken.qcow2"
    shutil.copy(new.disks[0], broken)
    break_disk(by_name("volume-hibernated:hibr"), broken)
    build.write_vmx(build.BuiltGuest("db02", new.firmware, (broken,)), home)
    broken.unlink()
    _image(gen1.disks[0], home / "app01.vhdx", "vhdx")
    _image(gen2.disks[0], home / "app02.vhdx", "vhdx")
    _image(known["win2012r2"].disks[0], home / "vm-101-disk-0.raw", "raw")
    for name in ("win2022", "win2012r2"):
        shutil.copy(known[name].disks[0], exports / f"{name}.qcow2")
    _image(gen1.disks[0], exports / "hyper-v" / "erp.vhdx", "vhdx")
    whole = new.disks[0].read_bytes()
    (exports / "short.qcow2").write_bytes(whole[: len(whole) // 3])
    (exports / "moved.vmdk").write_text("<html>404 Not Found</html>\n")
    make_iso(make_tree(place / "tree", omit=OLD_WINDOWS), home / "virtio-win.iso")
    shutil.rmtree(place / "tree")
    for hook in (ROOT / "docs" / "examples" / "hooks").iterdir():
        shutil.copy(hook, home)
    make_runner(place / "tools")


def _image(source: Path, target: Path, form: str) -> None:
    subprocess.run(["qemu-img", "convert", "-O", form, str(source), str(target)], check=True)


# A world, and commands in it


class World:
    """Where documents are run: `fresh` makes it new, `run` runs a command as a user types it. A slow command that was
    run before in the same state is not run again: its files and its output are taken from then."""

    def __init__(self, place: Path) -> None:
        self.place, self.sources, self.kept = place / "world", place / "sources", place / "kept"
        if not self.kept.is_dir():
            make_sources(self.sources)
            self.kept.mkdir()
        self.done: tuple[str, ...] = ()
        self.status = 0

    def fresh(self, name: str) -> None:
        """As after make_sources; `name` is the document's."""
        self._restore(self.sources)
        self.done, self.status = (), 0

    def write(self, name: str, text: str) -> None:
        """A file in the current directory, as a user writes it."""
        (self.place / "home" / Path(name).name).write_text(text, encoding="utf-8")
        self.done = (*self.done, f"{name}\n{text}")

    def run(self, command: str) -> str:
        """What the command prints, on standard output and standard error, in the order in which it came."""
        slow = _SLOW.search(command) is not None
        if not _READS.match(command) or slow:
            self.done = (*self.done, command)
        kept = self.kept / hashlib.sha256("\n".join(self.done).encode()).hexdigest()[:16]
        if slow and kept.is_dir():
            self._restore(kept / "world")
            self.status = int((kept / "status").read_text())
            return (kept / "output").read_text(encoding="utf-8")
        output = self._run(command)
        if slow:
            kept.mkdir()
            _copied(self.place, kept / "world")
            (kept / "status").write_text(str(self.status))
            (kept / "output").write_text(output, encoding="utf-8")
        return output

    def _run(self, command: str) -> str:
        inside = re.sub(r"(?<![\w./-])/(?=(?:srv|exports)\b)", f"{self.place}/", command)
        env = {
            **os.environ, "PATH": f"{ROOT / 'wrappers'}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8", "HOME": str(self.place / "home"),
            "XDG_STATE_HOME": str(self.place / "state"), "VIRT_TOOLS_DATA_DIR": str(self.place / "tools"), "PYTHONPATH": str(ROOT),
            "VIRTIO_WIN": str(self.place / "home" / "virtio-win.iso"),
        }  # fmt: skip
        done = subprocess.run(
            ["bash", "-c", f"(exit {self.status})\n{inside}"], cwd=self.place / "home", env=env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        self.status = done.returncode
        return self._shown(done.stdout.decode("utf-8", "replace"))

    def _shown(self, output: str) -> str:
        """The output with the world's places as the documents name them."""
        output = re.sub(rf"{re.escape(str(self.place))}/(?=(?:srv|exports)\b)", "/", output)
        return output.replace(f"{self.place}/home", HOME).replace(str(ROOT / "wrappers") + "/", "").replace(f"{self.place}/tools", "/usr/share/virt-tools")

    def _restore(self, source: Path) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        _copied(source, self.place)


def _copied(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", "--sparse=always", str(source), str(target)], check=True)


@contextmanager
def world(keep: bool = False) -> Iterator[World]:
    """A world that is gone afterwards, unless it is to be kept."""
    guestfs_settings()
    if keep:
        KEPT.mkdir(parents=True, exist_ok=True)
        yield World(KEPT)
        return
    with tempfile.TemporaryDirectory(prefix="h2k-documents-") as place:
        Path(place).chmod(0o755)
        yield World(Path(place))


# Shown and printed


def masked(text: str) -> str:
    """The text without what differs from run to run."""
    for pattern, instead in MASKS:
        text = re.sub(pattern, instead, text)
    return text


def agrees(shown: Sequence[str], printed: str) -> bool:
    """Whether a document shows what was printed. Where lines are broken does not count; nor does the order of whole lines,
    for a pool ends its guests in any order."""
    if sorted(map(masked, shown)) == sorted(map(masked, printed.splitlines())):
        return True
    parts = []
    for line in shown:
        parts.append(r"(?:.*\s)?" if line.strip() == MORE else "".join(rf"{re.escape(word)}\s+" for word in masked(line).split()))
    return re.fullmatch("".join(parts), "".join(f"{word} " for word in masked(printed).split()), re.DOTALL) is not None


def renewed(shown: Sequence[str], printed: str) -> list[str]:
    """The lines to show now: what was printed, with "…" where the document had it, beside the same lines as before."""
    lines = printed.rstrip("\n").splitlines()
    if agrees(shown, printed):
        return list(shown)
    if MORE not in (line.strip() for line in shown):
        return lines
    kept = {at for line in shown if line.strip() not in ("", MORE) for at in [_nearest(line, lines)] if at is not None}
    found: list[str] = []
    for at, line in enumerate(lines):
        if at in kept:
            found.append(line)
        elif not found or found[-1] != MORE:
            found.append(MORE)
    return found


def _nearest(line: str, lines: Sequence[str]) -> Optional[int]:
    """The printed line that a shown one was, told by its beginning."""
    starts = [masked(other)[:_BEGINNING] for other in lines]
    near = difflib.get_close_matches(masked(line)[:_BEGINNING], starts, n=1, cutoff=0.6)
    return starts.index(near[0]) if near else None


def run_document(path: Path, place: World, long: bool) -> Iterator[tuple[Block, Command, str]]:
    """Each command that runs, with what it printed; without `long` those of long blocks are left out."""
    place.fresh(path.stem)
    for block in blocks(path):
        if block.file:
            place.write(block.file, "\n".join(block.body) + "\n")
        if block.runs and (long or not block.long):
            for command in block.commands:
                yield block, command, place.run(command.text)


def has_commands(path: Path) -> bool:
    """Whether anything of the document runs."""
    return any(block.runs and block.commands for block in blocks(path))


def has_long(path: Path) -> bool:
    """Whether anything of the document is long."""
    return any(block.long for block in blocks(path))


def wrong(path: Path, place: World, long: bool) -> list[str]:
    """What does not agree: the place, the command, what is shown and what came."""
    found = []
    for _, command, printed in run_document(path, place, long):
        where = f"{path.relative_to(ROOT)}:{command.line}: $ {command.text}"
        if command.output is None:
            if place.status != 0:
                found.append(f"{where}\nended with {place.status}:\n{printed}")
        elif not agrees(command.output, printed):
            shown = "\n".join(command.output)
            found.append(f"{where}\n--- the document shows:\n{shown}\n--- printed was:\n{printed}")
    return found


def write(path: Path, place: World, long: bool = True) -> bool:
    """Put into a document what its commands print; whether that changed it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for block, command, printed in reversed(list(run_document(path, place, long))):
        if command.output is not None:
            after = command.line + _continued(lines, command.line)
            new = [f"{block.indent}{line}".rstrip() for line in renewed(command.output, printed)]
            lines[after : after + len(command.output)] = new
    text = "\n".join(lines) + "\n"
    if text == path.read_text(encoding="utf-8"):
        return False
    path.write_text(text, encoding="utf-8")
    return True


def _continued(lines: Sequence[str], line: int) -> int:
    """How many more lines the command at a line has."""
    count = 0
    while lines[line - 1 + count].endswith("\\"):
        count += 1
    return count


def main(argv: Sequence[str]) -> int:
    """python3 -m tests.documents [--write] [--quick] [--keep] [DOCUMENT…]"""
    named, long = [Path(name).resolve() for name in argv if not name.startswith("-")], "--quick" not in argv
    status = 0
    with world("--keep" in argv) as place:
        for path in filter(has_commands, named or DOCUMENTS):
            if "--write" in argv:
                print(f"{path.relative_to(ROOT)}: {'written' if write(path, place, long) else 'as it was'}", flush=True)
                continue
            problems = wrong(path, place, long)
            print(f"{path.relative_to(ROOT)}: {len(problems)} wrong", *problems, sep="\n\n", flush=True)
            status = status or bool(problems)
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
