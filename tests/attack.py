"""An attack on h2k, bounded in time, with a table of figures at its end: python3 -m tests.attack --seconds N.

Four parts: damaged bytes into every parser (tests/fuzz.py); damaged disks (partition tables, NTFS, hives, headers
of images) through a whole look as `h2k verify` takes it; commits, ways back and recoveries of two disks that are killed at
random moments, by SIGKILL and SIGTERM, again and again until one ends; and whole `h2k fix` and `h2k rollback` of a made
guest on two disks, killed in the same way, through the direct writer. A parser or a look may refuse, in one line; two
disks must hold the old set or the new, whole, and nothing of a killed run may be left.
"""

from __future__ import annotations

import argparse
import dataclasses
import faulthandler
import hashlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Callable, Optional

from h2k.disk.open_reader import open_reader
from h2k.disk.overlay import DiskSet
from h2k.engine.pool import Job, examine_many
from h2k.engine.request import Request
from tests import fuzz
from tests.guests.build import cached
from tests.guests.virtio_win import make_tree
from tests.leftovers import CODE, Room

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("parsers", "disks", "kills", "commands")
LOOK_LIMIT = 60.0  # seconds for one look on a busy machine; a look takes about one
SIZE = 24 * 1024 * 1024 + 512  # bytes of each disk that is killed; no multiple of a cluster, a page or a piece
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@dataclasses.dataclass
class Row:
    """One line of the table: how many cases, how they ended, and what was wrong."""

    name: str
    ended: Counter[str] = dataclasses.field(default_factory=Counter)
    wrong: list[str] = dataclasses.field(default_factory=list)
    slowest: float = 0.0

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {end}" for end, count in self.ended.most_common())
        slow = f"; slowest {self.slowest:.1f} s" if self.slowest else ""
        return f"{self.name:<12} {sum(self.ended.values()):>6} cases: {ends}{slow}"


# Damaged disks through a whole look


@dataclasses.dataclass(frozen=True)
class Base:
    """A sound image, and the regions of it in which damage is done: (offset, length)."""

    name: str
    path: Path
    form: str
    regions: tuple[tuple[int, int], ...]


def bases(work: Path) -> list[Base]:
    """Images of one made guest: raw with its tables, volumes and files; others with their headers and tables."""
    source = cached()["win2022"].disks[0]
    headers = {
        "qcow2": ((0, 128), (0, 1024), (65536, 262144)),
        "vmdk": ((0, 80), (512, 1024), (0, 131072)),
        "vhdx": ((65536, 80), (131072, 80), (196608, 256), (2 << 20, 4096)),
        "vpc": ((0, 512), (512, 64), (1536, 4096)),
        "vdi": ((64, 448), (512, 4096)),
    }
    raw, found = work / "base.raw", []
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(source), str(raw)], check=True)
    for form, regions in headers.items():
        path = work / f"base.{form}"
        subprocess.run(["qemu-img", "convert", "-O", form, str(source), str(path)], check=True)
        found.append(Base(form, path, form, regions))
    with open_reader([(raw, "raw")]) as reader:
        disk = reader.disks[0]
        found.append(Base("tables", raw, "raw", ((0, 512), (512, 92), (1024, 512), (disk.info.size - 512, 512))))
        for volume in disk.volumes:
            if volume.kind == "ntfs":
                head = reader.read_at(0, volume.start, 512)
                sector, per_cluster = struct.unpack_from("<HB", head, 11)
                mft = volume.start + struct.unpack_from("<Q", head, 48)[0] * sector * per_cluster
                found.append(Base(f"ntfs {volume.ref.partition}", raw, "raw", ((volume.start, 90), (mft, 16384), (mft, 131072))))
    data = raw.read_bytes()
    hives = [at for at in range(0, len(data), 4096) if data[at : at + 4] == b"regf"]
    found += [Base("hives", raw, "raw", tuple((at, 65536) for at in hives))] if hives else []
    return found


def damaged(base: Base, target: Path, rng: random.Random) -> Path:
    """A copy with one to eight changes in one of the regions."""
    subprocess.run(["cp", "--sparse=always", str(base.path), str(target)], check=True)
    start, length = rng.choice(base.regions)
    with open(target, "r+b") as file:
        for _ in range(rng.choice((1, 1, 2, 4, 8))):
            at = start + rng.randrange(length)
            kind = rng.randrange(4)
            if kind == 0:
                data = bytes([rng.randrange(256)])
            elif kind == 1:
                width = rng.choice((2, 4, 8))
                data = (rng.choice(NUMBERS) % 256**width).to_bytes(width, rng.choice(("little", "big")))
            elif kind == 2:
                data = rng.randbytes(rng.choice((4, 16, 512)))
            else:
                file.seek(start + rng.randrange(length))
                data = file.read(rng.choice((8, 64, 512)))
            file.seek(at)
            file.write(data)
    return target


def look_at_damage(seconds: float, seed: int, work: Path, drivers: Path) -> list[Row]:
    """Damaged disks, two at a time, as long as there is time."""
    found = bases(work)
    rows = {base.name: Row(base.name) for base in found}
    rng, end = random.Random(f"{seed} disks"), time.monotonic() + seconds

    def jobs() -> Iterator[Job]:
        number = 0
        while time.monotonic() < end:
            base = found[number % len(found)]
            yield Job(base.name, ((damaged(base, work / f"case-{number}", rng), base.form),), side="result")
            number += 1

    for ended in examine_many(jobs(), Request(drivers=str(drivers)), workers=2, limit=LOOK_LIMIT):
        row, image = rows[ended.job.key], ended.job.images[0][0]
        row.slowest = max(row.slowest, ended.seconds)
        if ended.error.startswith("this guest") or "\n" in ended.error or ended.exit_status == 1:
            row.ended["wrong"] += 1
            kept = image.rename(work.parent / f"h2k-attack-{ended.job.key}-{image.name}")
            row.wrong.append(f"{ended.error} (kept: {kept})")
        elif ended.error:
            row.ended["refused in one line"] += 1
        else:
            row.ended[ended.result.outcome.word.lower()] += 1
        image.unlink(missing_ok=True)
    return list(rows.values())


# Kills

RUN = """
import json, subprocess, sys
from pathlib import Path
from h2k.disk.overlay import DiskSet
action, state, images, writes = sys.argv[1:]
disks = DiskSet([(Path(p), f) for p, f in json.loads(images)], Path(state))
print("begun", flush=True)
if action == "rollback":
    disks.rollback()
elif action == "recover":
    disks.recover()
else:
    for overlay, commands in zip(disks.create_overlays(), json.loads(writes)):
        subprocess.run(["qemu-io", "-f", "qcow2", *sum((["-c", c] for c in commands), []), str(overlay)], check=True, stdout=subprocess.DEVNULL)
    disks.commit()
"""


def _io(image: Path, form: str, *commands: str) -> None:
    argv = ["qemu-io", "-f", form, *(word for command in commands for word in ("-c", command)), str(image)]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


class Victims:
    """Two disks, raw and qcow2, what they hold before and after a commit, and their report directory."""

    def __init__(self, work: Path, rng: random.Random) -> None:
        self.images = [(work / "g-sda", "raw"), (work / "g-sdb", "qcow2")]
        self.state, self._rng = work / "g.h2k", rng
        self.writes = [[f"write -P {rng.randrange(1, 255)} {rng.randrange(20)}M {rng.choice((64, 900, 3000))}k" for _ in range(3)] for _ in self.images]
        for path, form in self.images:
            subprocess.run(["qemu-img", "create", "-q", "-f", form, str(path), str(SIZE)], check=True)
            _io(path, form, "write -P 17 0 8M", "write -P 18 20M 1M")
        self.old = self.digests()
        for path, _ in self.images:
            shutil.copy(path, path.with_suffix(".copy"))
        for (path, form), commands in zip(self.images, self.writes):
            _io(path.with_suffix(".copy"), form, *commands)
        self.new = [self._digest(path.with_suffix(".copy"), form) for path, form in self.images]

    def _digest(self, path: Path, form: str) -> str:
        """Of all that a guest would read."""
        out = path.with_name("content")
        subprocess.run(["qemu-img", "convert", "-f", form, "-O", "raw", str(path), str(out)], check=True)
        return hashlib.sha256(out.read_bytes()).hexdigest()

    def digests(self) -> list[str]:
        return [self._digest(path, form) for path, form in self.images]

    def run(self, action: str, kill_after: Optional[float] = None, number: int = signal.SIGKILL) -> tuple[Optional[int], str]:
        """(exit status, None when it was killed; what it said)."""
        named = json.dumps([[str(path), form] for path, form in self.images])
        argv = [sys.executable, "-c", RUN, action, str(self.state), named, json.dumps(self.writes)]
        with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None and child.stderr is not None
            child.stdout.readline()
            if kill_after is not None:
                try:
                    child.wait(timeout=kill_after)
                except subprocess.TimeoutExpired:
                    child.send_signal(number)
            said = child.stderr.read()
            status = child.wait()
        return (None if status < 0 else status), said

    def left(self) -> list[str]:
        """Processes that still name one of our files, after the moment that the kernel takes to end them."""
        found: list[str] = []
        for _ in range(50):
            found = [line for line in map(_command, Path("/proc").glob("[0-9]*")) if str(self.state.parent) in line and "tests.attack" not in line]
            if not found:
                break
            time.sleep(0.1)
        return found


def _command(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().decode("utf-8", "replace").replace("\0", " ")
    except OSError:
        return ""


def kill(seconds: float, seed: int, work: Path) -> list[Row]:
    """Kill commits and ways back, and the recoveries after them, at random moments, as long as there is time."""
    rows = {"commit": Row("kill commit"), "rollback": Row("kill rollback")}
    rng, end, number, span = random.Random(f"{seed} kills"), time.monotonic() + seconds, 0, 4.0
    while time.monotonic() < end:
        place = work / f"kill-{number}"
        place.mkdir()
        victims = Victims(place, rng)
        for action, row in rows.items():
            began = time.monotonic()
            wrong = _killed(action, victims, row, rng, span)
            span = 0.7 * span + 0.3 * min(20.0, max(0.5, time.monotonic() - began))
            if wrong:
                row.ended["wrong"] += 1
                row.wrong.append(f"{wrong} (kept: {place})")
                return list(rows.values())
            if victims.digests() == victims.old and action == "commit":
                status, said = victims.run("commit")  # there must be something to take back
                if status != 0:
                    row.wrong.append(f"a commit after a recovery: {said[-300:]} (kept: {place})")
                    return list(rows.values())
        shutil.rmtree(place)
        number += 1
    return list(rows.values())


def _killed(action: str, victims: Victims, row: Row, rng: random.Random, span: float) -> str:
    """One action killed, then recoveries killed until one ends; what is wrong, or nothing."""
    what = action
    for _ in range(20):
        number = rng.choice((signal.SIGKILL, signal.SIGTERM))
        status, said = victims.run(what, rng.uniform(0, span), number)
        if victims.left():
            return f"{what}: left behind: {victims.left()[0][:200]}"
        if status is not None:
            break
        row.ended[f"{what} killed"] += 1
        what = "recover"
    else:
        status, said = victims.run("recover")
    if status != 0:
        return f"{what} failed: {said.strip()[-300:]}"
    now = victims.digests()
    if now not in (victims.old, victims.new):
        return "the disks are neither the old set nor the new"
    phase = DiskSet(victims.images, victims.state).how_far
    strays = [p.name for p in victims.state.glob("*") if p.name.startswith(("overlay", "alive", "journal.spare", "."))] if victims.state.exists() else []
    if phase != "idle" or strays:
        return f"phase {phase}, {strays} left"
    row.ended["ended old" if now == victims.old else "ended new"] += 1
    return ""


# Whole commands


class Commands:
    """A made guest of two disks in a room of its own, and `h2k fix` and `h2k rollback` on it."""

    def __init__(self, top: Path, drivers: Path) -> None:
        self.room = Room(top)
        self.images = [(self.room.work / "g-sda", "qcow2"), (self.room.work / "g-sdb", "raw")]
        shutil.copy(cached()["win2022"].disks[0], self.images[0][0])
        subprocess.run(["qemu-img", "create", "-q", "-f", "raw", str(self.images[1][0]), "64M"], check=True)
        _io(*self.images[1], "write -P 33 3M 1M")
        shutil.copytree(drivers, self.room.work / "drivers")
        (self.room.work / "policy.yaml").write_text("writer: direct\n")
        self.old = self.digests()

    def digests(self) -> list[str]:
        """Of all that a guest would read."""
        found = []
        for path, form in self.images:
            out = path.with_name("content")
            subprocess.run(["qemu-img", "convert", "-f", form, "-O", "raw", str(path), str(out)], check=True)
            found.append(hashlib.sha256(out.read_bytes()).hexdigest())
            out.unlink()
        return found

    def run(self, command: str, kill_after: Optional[float] = None, number: int = signal.SIGKILL) -> Optional[int]:
        """Its exit status, None when it was killed."""
        disks = [f"/tmp/g/{path.name}" for path, _ in self.images]
        more = ["--drivers", "/tmp/g/drivers", "--policy", "/tmp/g/policy.yaml"] if command != "rollback" else []
        child = self.room.begin(CODE / "wrappers" / "h2k", command, *disks, *more)
        try:
            status = child.wait(timeout=kill_after)
        except subprocess.TimeoutExpired:
            child.send_signal(number)
            status = child.wait()
        return None if status < 0 else status


def kill_commands(seconds: float, seed: int, work: Path, drivers: Path) -> list[Row]:
    """Kill `h2k fix`, then `h2k rollback`, each until one ends, as long as there is time."""
    rows = {"fix": Row("h2k fix"), "rollback": Row("h2k rollback")}
    rng, end = random.Random(f"{seed} commands"), time.monotonic() + seconds
    spans = {"fix": 4.0, "rollback": 1.0}
    (ROOT / ".cache").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="attack-", dir=ROOT / ".cache") as directory:
        victims = Commands(Path(directory).resolve() / "room", drivers)
        while time.monotonic() < end:  # what was taken back is the guest of the next round
            for command, row in rows.items():
                wrong = _until_it_ends(command, victims, row, rng, spans, end)
                if wrong:
                    row.ended["wrong"] += 1
                    kept = shutil.copytree(victims.room.top, work.parent / f"h2k-attack-{seed}", symlinks=True)
                    row.wrong.append(f"{wrong} (kept: {kept})")
                    return list(rows.values())
    return list(rows.values())


def _until_it_ends(command: str, victims: Commands, row: Row, rng: random.Random, spans: dict[str, float], end: float) -> str:
    """A command killed again and again, and then let go; what is wrong, or nothing."""
    status: Optional[int] = None
    for _ in range(rng.randrange(2, 9)):
        status = victims.run(command, rng.uniform(0.1, spans[command]), rng.choice((signal.SIGKILL, signal.SIGTERM)))
        if status is None:
            row.ended["killed"] += 1
            left = victims.room.left()
            if left:
                return f"{command}: left behind: {left[0]}"
        if status is not None or time.monotonic() > end:
            break
    if status is None:
        began = time.monotonic()
        status = victims.run(command)
        spans[command] = 0.7 * spans[command] + 0.3 * max(0.5, 1.1 * (time.monotonic() - began))
    nothing = command == "rollback" and status == 3 and "nothing was committed" in victims.room.said()
    if status and not nothing:
        return f"{command}: status {status}: {victims.room.said()[-400:]}"
    if command == "fix" and victims.run("verify") != 0:
        return f"the guest is not ready: {victims.room.said()[-400:]}"
    if command == "rollback" and victims.digests() != victims.old:
        return "the disks are not what they were before the repair"
    phase = DiskSet([(p, f) for p, f in victims.images], victims.room.work / "g-sda.h2k").how_far
    if phase != "idle":
        return f"phase {phase}"
    row.ended["ended"] += 1
    return ""


# The whole


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command line; 0 when nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.attack", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=540, help="for all of it together [540]")
    parser.add_argument("--seed", type=int, help="of an earlier run")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part (repeatable)")
    wishes = parser.parse_args(argv)
    seed = wishes.seed if wishes.seed is not None else random.SystemRandom().randrange(1 << 32)
    parts = wishes.only or PARTS
    if "commands" in parts and os.geteuid() != 0:
        print("commands: left out, for they need root for a room of their own")
        parts = [part for part in parts if part != "commands"]
    share = wishes.seconds / max(1, len(parts))
    print(f"seed {seed}", flush=True)
    failed = False
    if "parsers" in parts:
        failed = fuzz.main(["--seconds", str(share), "--seed", str(seed)]) != 0
    with tempfile.TemporaryDirectory(prefix="h2k-attack-", dir="/var/tmp") as directory:
        work = Path(directory)
        tasks: dict[str, Callable[[], list[Row]]] = {
            "disks": lambda: look_at_damage(share, seed, work, make_tree(work / "virtio-win")),
            "kills": lambda: kill(share, seed, work),
            "commands": lambda: kill_commands(share, seed, work, make_tree(work / "virtio-win-2")),
        }
        rows = [row for part, task in tasks.items() if part in parts for row in task()]
        for row in rows:
            print(row, flush=True)
        for row in rows:
            for wrong in row.wrong:
                print(f"WRONG {row.name}: {wrong}", flush=True)
        failed = failed or any(row.wrong for row in rows)
        if any("kept" in wrong for row in rows for wrong in row.wrong):
            shutil.copytree(work, work.with_name(work.name + "-kept"), symlinks=True)
    return int(failed)


if __name__ == "__main__":
    faulthandler.enable()
    sys.exit(main())
