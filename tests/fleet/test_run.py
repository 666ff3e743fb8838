"""h2k fleet run with real programs on disks without a system, which are only copied: killed at random it ends right, and no limit is
passed; a few whole guests in the long tier."""

from __future__ import annotations

import collections
import configparser
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import NOT_READY, READY, REFUSED, USAGE
from h2k.engine.records import records
from h2k.fleet import runner
from h2k.fleet.guest_state import is_running
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


def test_the_unit_runs_its_wave(tmp_path: Path) -> None:
    """The command of h2k-fleet@2.service, on waves of ours; what it takes for success is what h2k says of guests that are left."""
    unit = configparser.RawConfigParser()
    unit.read(Path(H2K).parents[1] / "packaging" / "h2k-fleet@.service")
    service = unit["Service"]
    guests = data_disks(tmp_path, 2)
    file = waves(tmp_path, [], waves=[{"wave": number, "guests": [guest]} for number, guest in enumerate(guests, 1)])
    program, *words = service["ExecStart"].replace("/etc/h2k/waves.yaml", str(file)).replace("%i", "2").split()
    assert program == "/usr/bin/h2k"
    done = subprocess.run([H2K, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == READY and "1 done" in done.stdout, done.stdout + done.stderr
    assert not same(tmp_path, guests[0]) and same(tmp_path, guests[1])
    assert int(service["SuccessExitStatus"]) == NOT_READY and int(service["TimeoutStopSec"]) > runner._GRACE


def test_ctrl_c_once_lets_what_runs_end_and_twice_stops_it(tmp_path: Path) -> None:
    """Copies that are slow enough to be met; what was stopped leaves nothing half done, and the same command goes on."""
    guests = [{**guest, "options": ["-r", "512K"]} for guest in data_disks(tmp_path, 6)]  # eight seconds each
    file = waves(tmp_path, guests)
    states = _ctrl_c(tmp_path, file, times=1)
    assert states["done"] == JOBS and states["waiting"] == 6 - JOBS, states
    states = _ctrl_c(tmp_path, file, times=2)
    assert states["done"] == JOBS and states["interrupted"] == JOBS and not states["running"], states
    assert {path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".h2k"} == {f"data{number}.qcow2" for number in range(JOBS)}
    assert not _workers(tmp_path)
    waves(tmp_path, [{**guest, "options": []} for guest in guests])
    status, text = fleet("run", file)
    assert status == READY and "6 done" in text and all(same(tmp_path, guest) for guest in guests), text


def _ctrl_c(top: Path, file: Path, times: int) -> dict[str, int]:
    """Begin a run, look from another terminal until all its jobs work, and press Ctrl-C so often; the states at its end."""
    run = subprocess.Popen([H2K, "fleet", "run", str(file)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, preexec_fn=_heard)
    deadline = time.monotonic() + 60
    while len(_workers(top)) < JOBS or states_of(file)["running"] < JOBS:
        assert run.poll() is None and time.monotonic() < deadline
    for _ in range(times):
        run.send_signal(signal.SIGINT)
        time.sleep(1)
    assert run.wait(timeout=300) == NOT_READY
    return states_of(file)


def _heard() -> None:
    """A shell that has put the tests in the background lets its children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def states_of(file: Path) -> dict[str, int]:
    """By h2k fleet status."""
    done = subprocess.run([H2K, "fleet", "status", str(file), "--json"], capture_output=True, text=True)
    found: dict[str, int] = json.loads(done.stdout)["states"]
    return found


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


def _workers(top: Path, *programs: str) -> list[int]:
    """The leaders of the programs that work below this directory: each is the leader of its group."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            argv = (entry / "cmdline").read_bytes()
            ours = f"{top}/out".encode() in argv and any(program.encode() in argv for program in programs or ("h2k-qemu-img",))
            if ours and os.getpgid(int(entry.name)) == int(entry.name):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


class Watch:
    """Asks the guests' own locks all the time who is being worked on: the most at once, in all and from each datastore.

    The lock is held by each program and by what it has started, so a conversion that a killed run left behind counts.
    """

    def __init__(self, guests: list[dict[str, Any]], out: Path) -> None:
        self.most: collections.Counter[str] = collections.Counter()
        self._guests = {out / f"{guest['name']}.h2k": guest["datastore"] for guest in guests}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.05):
            busy = [store for state, store in self._guests.items() if is_running(state)]
            for store, count in [("all", len(busy)), *collections.Counter(busy).items()]:
                self.most[store] = max(self.most[store], count)


WAVE, BY_V2V = 40, 11  # guests, and of how many one is virt-v2v's


def exported(top: Path) -> list[dict[str, Any]]:
    """Forty exports of two made guests from two datastores: qcow2 disks, and every eleventh a VMX with its VMDK, for virt-v2v."""
    known = build.cached()
    names, parts = ("win2022", "win2012r2"), top / "parts"
    parts.mkdir()
    for name in names:
        shutil.copy(known[name].disks[0], parts / f"{name}.qcow2")
        build.write_vmx(known[name], parts / name)
    found = []
    for number in range(WAVE):
        guest, store = names[number // 2 % 2], f"store{number % 2}"
        place = top / store / f"web{number:02d}"
        place.mkdir(parents=True)
        if number % BY_V2V != 4:
            source, kind = place / f"{guest}.qcow2", "disk"
            os.link(parts / f"{guest}.qcow2", source)
        else:
            source, kind = place / f"{guest}.vmx", "vmx"
            for part in (parts / guest).iterdir():
                os.link(part, place / part.name)
        size = sum(part.stat().st_size for part in place.iterdir())
        found.append({"name": place.name, "source": str(source), "kind": kind, "datastore": store, "bytes": size})
    return found


@pytest.mark.long
def test_a_wave_of_forty_guests_killed_twenty_times(tmp_path: Path, drivers: Path, v2v_env: dict[str, str]) -> None:
    """Whole guests, repaired by the direct writer, four of them by virt-v2v; two jobs, one from each datastore. Every other kill
    takes the programs that run with it."""
    (tmp_path / "tmp").mkdir()
    env = {**os.environ, **v2v_env, "VIRTIO_WIN": str(drivers), "XDG_STATE_HOME": str(tmp_path), "TMPDIR": str(tmp_path / "tmp")}
    guests, chance, hit = exported(tmp_path), random.Random(16), {"h2k-v2v": 0, "h2k-qemu-img": 0}
    sources = {p: (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).digest()) for p in (tmp_path / "parts").rglob("*.*") if p.is_file()}
    file = waves(tmp_path, guests, limits={"jobs": 2, "per_source": 1})
    with Watch(guests, tmp_path / "out") as watch:
        for number in range(20):
            run = subprocess.Popen([H2K, "fleet", "run", str(file)], env=env, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            time.sleep(chance.uniform(0.5, 6))
            assert run.poll() is None
            run.kill()
            run.wait()
            for program in hit if number % 2 == 0 else ():
                for pid in _workers(tmp_path, program):
                    hit[program] += 1
                    os.killpg(pid, signal.SIGKILL)
        status, text = fleet("run", file, env=env)
        again = 0
        while status == NOT_READY and again < 3:
            status, text = fleet("run", file, env=env)
            again += 1
    print(f"killed in mid-conversion: {hit}; the most at once: {dict(watch.most)}")
    assert status == READY and f"{WAVE} done" in text, text
    assert all(hit.values()), hit
    assert watch.most == {"all": 2, "store0": 1, "store1": 1} and most_at_once(tmp_path) <= 2
    out = tmp_path / "out"
    for guest in guests:
        done = subprocess.run([H2K, "verify", str(out / f"{guest['name']}.h2k")], env=env, capture_output=True, text=True)
        assert done.returncode == READY, f"{guest['name']}: {done.stdout}{done.stderr}"
        by = {record["command"].split()[0] for record in records(out / f"{guest['name']}.h2k") if record["status"] == READY}
        assert by - {"h2k"} == {"h2k-v2v" if guest["kind"] == "vmx" else "h2k-qemu-img"}, by
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]
    assert sources == {p: (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).digest()) for p in sources}


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
