"""h2k fleet run with real programs on disks without a system, which are only copied: killed at random it ends right, and no limit is
passed; a few whole guests in the long tier."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import NOT_READY, READY, REFUSED, USAGE
from tests.guests import build

H2K = str(Path(__file__).resolve().parents[2] / "wrappers" / "h2k")
JOBS, PER_SOURCE = 3, 2


def waves(top: Path, guests: list[dict[str, Any]], **more: Any) -> Path:
    content = {"version": 1, "output": str(top / "out"), "limits": {"jobs": JOBS, "per_source": PER_SOURCE}}
    path = top / "waves.yaml"
    path.write_text(json.dumps({**content, "waves": [{"wave": 1, "guests": guests}], **more}))
    return path


def data_disks(top: Path, count: int) -> list[dict[str, Any]]:
    """Disks with a file system's mark and random content, from two datastores in turn."""
    found = []
    for number in range(count):
        place = top / f"store{number % 2}" / f"data{number}.raw"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(bytes(510) + b"\x55\xaa" + os.urandom(4 * 1024 * 1024))
        found.append({"name": f"data{number}", "source": str(place), "kind": "disk", "datastore": f"store{number % 2}", "bytes": 4 << 20})
    return found


def fleet(*arguments: Any, **more: Any) -> tuple[int, str]:
    done = subprocess.run([H2K, "fleet", *map(str, arguments)], capture_output=True, text=True, timeout=1200, **more)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def most_at_once(top: Path, datastore: str = "") -> int:
    """By the guests' own marks: how many worked at one time."""
    edges = []
    for path in (top / "out").glob("*.h2k/fleet.json"):
        mark = json.loads(path.read_text())
        if mark.get("seconds") is not None and datastore in mark["source"]:
            edges += [(mark["began"], 1), (mark["began"] + mark["seconds"] - 0.2, -1)]  # the end is seen a moment late
    most = now = 0
    for _, step in sorted(edges):
        now += step
        most = max(most, now)
    return most


def same(top: Path, guest: dict[str, Any]) -> bool:
    argv = ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", guest["source"], str(top / "out" / f"{guest['name']}.qcow2")]
    return subprocess.run(argv, capture_output=True).returncode == 0


def test_a_run_that_is_killed_goes_on_by_the_same_command(tmp_path: Path) -> None:
    guests = data_disks(tmp_path, 7)
    file = waves(tmp_path, guests)
    first = subprocess.Popen([H2K, "fleet", "run", str(file)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/*.h2k/fleet.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    status, text = fleet("run", file)
    assert status == REFUSED and "another h2k fleet run" in text, text
    first.send_signal(signal.SIGKILL)
    first.wait()
    status, text = fleet("status", file)
    assert status == NOT_READY and "waiting" in text, text
    summary, page = tmp_path / "summary.json", tmp_path / "fleet.html"
    status, text = fleet("run", file, "--on-end", f"tee {summary}", "--html", page)
    assert status == READY and "7 done" in text, text
    assert "7 of 7 done" in page.read_text() and "data-running" not in page.read_text()
    assert json.loads(summary.read_text())["states"]["done"] == 7
    assert all(same(tmp_path, guest) for guest in guests)
    assert most_at_once(tmp_path) <= JOBS and most_at_once(tmp_path, "store0") <= PER_SOURCE
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    status, _ = fleet("run", file)
    assert status == READY and {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")} == before
    waves(tmp_path, [*guests, {"name": "gone", "source": str(tmp_path / "gone.raw"), "kind": "disk"}])
    status, text = fleet("run", file, "--json")
    told = json.loads(text[text.index("\n{") if not text.startswith("{") else 0 : text.rindex("}") + 1])
    assert status == REFUSED and told["states"] == {**told["states"], "done": 7, "refused": 1}, text
    assert fleet("report", file, "--html", page)[0] == REFUSED
    assert "7 of 8 done" in page.read_text() and "What needs somebody" in page.read_text()
    file.write_text(file.read_text().replace('"version": 1', '"version": 9'))
    status, text = fleet("run", file)
    assert status == USAGE and "line 1" in text and "version 9" in text, text


@pytest.mark.long
def test_killed_twenty_times(tmp_path: Path) -> None:
    """Forty disks, two jobs; the run is killed at random, now with its programs and now alone."""
    guests = data_disks(tmp_path, 40)
    file = waves(tmp_path, guests)
    chance = random.Random(16)
    for _ in range(20):
        run = subprocess.Popen([H2K, "fleet", "run", str(file)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.5, 4))
        run.kill()
        run.wait()
        if chance.random() < 0.5:
            for pid in _workers(tmp_path):
                os.killpg(pid, signal.SIGKILL)
    status, text = fleet("run", file)
    if status == NOT_READY:
        status, text = fleet("run", file)
    assert status == READY, text
    assert all(same(tmp_path, guest) for guest in guests)
    assert most_at_once(tmp_path) <= JOBS
    assert not list((tmp_path / "out").glob(".*h2k-part"))


def _workers(top: Path) -> list[int]:
    """The leaders of the programs that work below this directory: each is the leader of its group."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            argv = (entry / "cmdline").read_bytes()
            if f"{top}/out/".encode() in argv and b"h2k-qemu-img" in argv and os.getpgid(int(entry.name)) == int(entry.name):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.long
def test_a_survey_a_plan_and_a_run_of_whole_guests(tmp_path: Path, drivers: Path) -> None:
    top = tmp_path / "exports"
    top.mkdir()
    for name in ("win2022", "win2012r2"):
        shutil.copy(build.cached()[name].disks[0], top / f"{name}.qcow2")
    (top / "empty.qcow2").touch()
    env = {**os.environ, "VIRTIO_WIN": str(drivers), "XDG_STATE_HOME": str(tmp_path)}
    subprocess.run([H2K, "survey", str(top), "-o", str(tmp_path / "survey.json")], env=env, capture_output=True)
    status, text = fleet("plan", tmp_path / "survey.json", "-o", tmp_path / "out", env=env)
    assert status == READY, text
    (tmp_path / "waves.yaml").write_text(text)
    status, text = fleet("run", tmp_path / "waves.yaml", env=env)
    assert status == READY and "2 done" in text, text
    done = subprocess.run([H2K, "verify", str(tmp_path / "out" / "win2022.h2k")], env=env, capture_output=True, text=True)
    assert done.returncode == READY, done.stdout
