"""`make bench`: h2k beside virt-inspector and virt-v2v on the same made guests, in one run, as ratios.

SYSTEM of 15 MiB and SOFTWARE of 80 MiB, on a small disk and on a large sparse one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from h2k.disk.view import make_view
from h2k.engine.pipeline import examine
from h2k.engine.pool import Job, examine_many
from h2k.engine.request import Request, open_tools
from tests.guests.build import build, cached, descriptions
from tests.guests.virtio_win import make_runner, make_tree

ROOT = Path(__file__).resolve().parent.parent
H2K, V2V = str(ROOT / "wrappers" / "h2k"), str(ROOT / "wrappers" / "h2k-v2v")
DISKS = {"small disk (1 GiB)": 1024, "large sparse disk (1 TiB)": 1024 * 1024}
HIVES = {"SYSTEM": 15, "SOFTWARE": 80}  # MiB
ROUNDS = 5
LIMIT_SECONDS, LIMIT_RATIO, LIMIT_MIB = 1.0, 90, 64
LIMIT_REMOTE_SECONDS, LIMIT_REMOTE_MIB = 10.0, 16  # over nbdkit with DELAY a request
DELAY = "20ms"
LIMIT_FIX = 1 / 5  # the direct writer's time by the appliance's
LIMIT_CONVERT = {"something to repair": 1.08, "nothing to repair": 1.02}  # times plain virt-v2v
OVERLAYS, GUESTS_A_SECOND = 100, 20


class Measured:
    """One command: seconds, and the peak of the resident memory of its processes together, in MiB."""

    def __init__(self, argv: Sequence[str], env: dict[str, str]) -> None:
        self.peak = 0.0
        began = time.monotonic()
        child = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        watcher = threading.Thread(target=self._watch, args=(child.pid,))
        self._done = False
        watcher.start()
        self.status = child.wait()
        self.seconds = time.monotonic() - began
        self._done = True
        watcher.join()

    def _watch(self, pid: int) -> None:
        while not self._done:
            self.peak = max(self.peak, sum(map(_resident, _tree(pid))) / 1024)
            time.sleep(0.01)


def _tree(pid: int) -> list[int]:
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                waiting += [int(p) for p in (task / "children").read_text().split()]
        except (OSError, ValueError):
            continue
    return found


def _resident(pid: int) -> int:
    """Proportional resident size in KiB: what several processes share counts once."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)


class Launches:
    """Counts appliance launches: libguestfs starts this script in place of QEMU."""

    def __init__(self, place: Path) -> None:
        self.log = place / "launches"
        self.script = place / "qemu"
        real = shutil.which("qemu-system-x86_64")
        self.script.write_text(f'#!/bin/sh\ncase "$*" in *-initrd*) echo >> {self.log} ;; esac\nexec {real} "$@"\n')
        self.script.chmod(0o755)

    def of(self, run: Callable[[], object]) -> int:
        """How many appliances `run` starts."""
        self.log.write_text("")
        run()
        return len(self.log.read_text())


def main() -> int:
    """Run everything, print the table, and fail where a promise does not hold."""
    kept = True
    with tempfile.TemporaryDirectory(prefix="h2k-bench-") as name:
        place = Path(name)
        drivers = make_tree(place / "virtio-win")
        launches = Launches(place)
        env = {
            **os.environ,
            "VIRTIO_WIN": str(drivers),
            "VIRT_TOOLS_DATA_DIR": str(make_runner(place / "tools")),
            "LIBGUESTFS_BACKEND": "direct",
            "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg",
            "LIBGUESTFS_HV": str(launches.script),
        }
        guests = {f"bench{size}": {**descriptions()["win2022"], "size": size, "hive_sizes": HIVES} for size in DISKS.values()}
        built = build(guests, place, guests)
        for label, size in DISKS.items():
            disk = built[f"bench{size}"].disks[0]
            kept &= _remote(label, disk, env, place)
            kept &= _fixing(label, disk, env, place)
            run([H2K, "fix", str(disk)], env)
            kept &= _reading(label, disk, env)
        kept &= _many(place, drivers)
        kept &= _launches(place, launches, env)
    return 0 if kept else 1


def run(argv: Sequence[str], env: dict[str, str]) -> None:
    subprocess.run(argv, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _reading(label: str, disk: Path, env: dict[str, str]) -> bool:
    verify = min((Measured([H2K, "verify", str(disk)], env) for _ in range(ROUNDS)), key=lambda m: m.seconds)
    inspector = Measured(["virt-inspector", "-a", str(disk)], env)
    ratio = inspector.seconds / verify.seconds
    print(f"{label}, SYSTEM {HIVES['SYSTEM']} MiB, SOFTWARE {HIVES['SOFTWARE']} MiB")
    print(f"  h2k verify      {verify.seconds:6.2f} s  {verify.peak:5.0f} MiB   (status {verify.status}, best of {ROUNDS})")
    print(f"  virt-inspector  {inspector.seconds:6.2f} s  {inspector.peak:5.0f} MiB")
    print(f"  ratio           {ratio:6.1f} times faster, {inspector.peak / verify.peak:.1f} times less memory", flush=True)
    return verify.status == 0 and verify.seconds < LIMIT_SECONDS and ratio >= LIMIT_RATIO and verify.peak < LIMIT_MIB


def _remote(label: str, disk: Path, env: dict[str, str], place: Path) -> bool:
    """The look before a copy at an image behind a server that takes its time: nbdkit's delay and stats filters."""
    sock, stats, view = place / "remote", place / "stats", place / "view.qcow2"
    argv = ["nbdkit", "-f", "-r", "-U", str(sock), "--filter=stats", "--filter=delay", "file", str(disk)]
    server = subprocess.Popen([*argv, f"rdelay={DELAY}", f"statsfile={stats}"])
    try:
        while not sock.exists():
            time.sleep(0.01)
        node = {"driver": "nbd", "server": {"type": "unix", "path": str(sock)}}
        made = make_view(view, node, label)
        began = time.monotonic()
        with open_tools(Request(drivers=env["VIRTIO_WIN"])) as tools:
            examine(tools, [(made, "qcow2")], "source", None)
        seconds = time.monotonic() - began
    finally:
        server.terminate()
        server.wait()
        view.unlink(missing_ok=True)
        sock.unlink(missing_ok=True)
    reads = next((line for line in stats.read_text().splitlines() if line.startswith("read:")), "read: 0 ops, 0 s, 0 bytes")
    mib = _bytes(reads) / 1024**2
    print(f"{label}, the look before a copy, {DELAY} a request: {seconds:.2f} s, {mib:.1f} MiB ({reads})", flush=True)
    return seconds <= LIMIT_REMOTE_SECONDS and mib <= LIMIT_REMOTE_MIB


def _bytes(line: str) -> float:
    """The bytes of a line of nbdkit's stats filter: "read: 9 ops, 0.1 s, 1.25 MiB, …"."""
    found = re.search(r"([\d.]+) (bytes|KiB|MiB|GiB),?", line)
    return float(found[1]) * {"bytes": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}[found[2]] if found else 0.0


def _fixing(label: str, disk: Path, env: dict[str, str], place: Path) -> bool:
    """`h2k fix` with either writer, on copies."""
    seconds = {}
    for writer in ("direct", "appliance"):
        copy, policy = place / f"fix-{writer}.qcow2", place / "policy.yaml"
        shutil.copy(disk, copy)
        policy.write_text(f"writer: {writer}\n", encoding="utf-8")
        policy.chmod(0o600)
        seconds[writer] = Measured([H2K, "fix", "--policy", str(policy), str(copy)], env).seconds
        copy.unlink()
        shutil.rmtree(copy.with_suffix(".h2k"), ignore_errors=True)
    ratio = seconds["direct"] / seconds["appliance"]
    print(f"{label}, h2k fix: direct {seconds['direct']:.2f} s, appliance {seconds['appliance']:.2f} s, ratio {ratio:.2f}", flush=True)
    return ratio <= LIMIT_FIX


def _many(place: Path, drivers: Path) -> bool:
    """Overlays of ten made guests, all in one call."""
    jobs = []
    for name in list(descriptions())[:10]:
        image = Path(shutil.copy(cached()[name].disks[0], place / f"many-{name}.qcow2"))
        for number in range(OVERLAYS // 10):
            overlay = place / f"many-{name}-{number}.qcow2"
            run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(image), str(overlay)], dict(os.environ))
            jobs.append(Job(overlay.stem, ((overlay, "qcow2"),)))
    began = time.monotonic()
    failed = [o for o in examine_many(jobs, Request(drivers=str(drivers))) if o.error]
    rate = len(jobs) / (time.monotonic() - began)
    print(f"{len(jobs)} overlays of ten made guests, one call: {rate:.1f} guests a second, {len(failed)} failed", flush=True)
    return rate >= GUESTS_A_SECOND and not failed


def _launches(place: Path, launches: Launches, env: dict[str, str]) -> bool:
    """virt-v2v beside h2k-v2v on a guest as VMware leaves it, and on what h2k-v2v made of it."""
    disk = build(["win2022"], place)["win2022"].disks[0]
    kept = True
    for label, allowed in (("something to repair", 0), ("nothing to repair", 0)):
        counts = []
        for command in ("virt-v2v", V2V):
            out = place / "out"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            argv = [command, "-i", "disk", str(disk), "-o", "local", "-os", str(out), "-on", "guest", "-of", "qcow2"]
            began = time.monotonic()
            counts.append((launches.of(lambda a=argv: run(a, env)), time.monotonic() - began))
        (plain, plain_time), (ours, our_time) = counts
        print(f"conversion, {label}: virt-v2v {plain} launches, h2k-v2v {ours} (allowed: {allowed} more); "
              f"time {our_time / plain_time:.2f} times virt-v2v's", flush=True)  # fmt: skip
        kept &= ours - plain <= allowed and our_time / plain_time <= LIMIT_CONVERT[label]
        disk = (out / "guest-sda").rename(place / "converted.qcow2")
    return kept


if __name__ == "__main__":
    sys.exit(main())
