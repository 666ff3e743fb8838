"""After any kill nothing of a run is left: no process, no socket, no directory; and hivex crashes alone."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from h2k.base.children import cleaned_up
from h2k.base.errors import BadData, H2kError
from h2k.base.run import run
from h2k.engine import apply
from h2k.windows import regf
from h2k.windows.hive_edit import DeleteKey, HiveEdit, SetValue
from h2k.windows.hive_edit_child import edit_hive_apart
from h2k.windows.regf import Hive
from tests.guests.rawhive import Node, RawHive, resum

ROOT = Path(__file__).resolve().parents[2]
# Each prints "ready" when everything is open, and waits to be killed.
READER = """
from h2k.disk.open_reader import open_reader
with open_reader([(image, "qcow2")], "direct"):
    ready()
"""
WRITER = """
from h2k.disk.nbd_server import serving
with serving(image, "qcow2", write=True) as nbd:
    nbd.pwrite(b"x" * 4096, 0)
    ready()
"""
BEFORE_ITS_FIRST_CLIENT = """
import nbd
from h2k.disk import nbd_server
nbd.NBD = lambda: ready()
nbd_server.start(["-f", "qcow2", str(image)])
"""
COMMAND = """
import threading
from h2k.base.run import run
from h2k.engine import apply
threading.Timer(0.3, lambda: print("ready", flush=True)).start()
run(["qemu-nbd", "--persistent", "-t", "-k", str(image) + ".socket", str(image)])
"""
PASS_THROUGH = """
import threading
from h2k.base.run import pass_through
threading.Timer(0.3, lambda: print("ready", flush=True)).start()
pass_through(["qemu-nbd", "--persistent", "-t", "-k", str(image) + ".socket", str(image)])
"""
ASKING = """
import h2k.boot.hardware as hardware
hardware.scratch_copy = lambda xml, name, directory: (directory / "disk0").write_bytes(b"x") and ready()
hardware.ask(None, b"<domain/>")
"""
KVM = """
from h2k.base import kvm
qemu = Path(str(image) + "-qemu")
qemu.write_text("#!/bin/sh\\nwhile :; do sleep 1; done\\n")
qemu.chmod(0o755)
kvm._signs = lambda child: ready()
kvm.probe(str(qemu))
"""
RATE = """
from h2k.fleet import rate
rate.run = lambda *_, **__: ready()
rate.measured()
"""
SURVEY = """
import os
os.environ["LIBGUESTFS_CACHEDIR"] = os.environ["TMPDIR"]
from h2k.cli.survey_command import _scratch
with _scratch():
    ready()
"""
DIRECTORY = """
from h2k.base.children import temporary_directory
with temporary_directory("h2k-test-", image.parent) as path:
    (path / "large").write_bytes(bytes(1 << 20))
    (path / "closed").mkdir(mode=0o000)
    ready()
"""
KILLED = {
    "reader": READER, "writer": WRITER, "fork": BEFORE_ITS_FIRST_CLIENT, "run": COMMAND, "pass through": PASS_THROUGH, "asking": ASKING,
    "directory": DIRECTORY, "KVM": KVM, "rate": RATE, "survey": SURVEY,
}  # fmt: skip
PROLOGUE = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
image = Path(sys.argv[1])
def ready():
    print("ready", flush=True)
    time.sleep(60)
"""


def left(image: Path) -> list[str]:
    """What still names the image, or lies in the temporary directory that the run was given."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            argv = (process / "cmdline").read_bytes().decode("utf-8", "replace")
        except OSError:
            continue
        if str(image) in argv:
            found.append(argv.replace("\0", " ")[:200])
    return found + [str(path) for path in image.parent.iterdir() if path.is_dir() for path in path.iterdir()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["KILL", "TERM"])
@pytest.mark.parametrize("code", KILLED.values(), ids=KILLED)
def test_nothing_is_left_after_a_kill(code: str, number: int, tmp_path: Path) -> None:
    image, scratch = tmp_path / "g-sda", tmp_path / "tmp"
    scratch.mkdir()
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "8M"], check=True)
    env = {**os.environ, "TMPDIR": str(scratch)}
    with subprocess.Popen([sys.executable, "-c", PROLOGUE + code, str(image)], stdout=subprocess.PIPE, env=env) as killed:
        assert killed.stdout is not None and killed.stdout.readline() == b"ready\n"
        killed.send_signal(number)
        killed.wait()
    deadline = time.monotonic() + 5
    while left(image) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left(image) == []
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write 0 512", str(image)], check=True, stdout=subprocess.DEVNULL)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("h2k-test-")]


def test_a_child_has_no_more_memory_than_it_was_given() -> None:
    assert run(["sh", "-c", "ulimit -v"], memory=1 << 30).stdout.strip() == b"1048576"
    assert run(["sh", "-c", "ulimit -v"]).stdout.strip() != b"1048576"


@pytest.mark.parametrize(("argument", "goes"), [
    ("socket,path=SOCKET,id=channel0", True),
    ("file=/srv/a.vmdk,,socket,path=SOCKET,id=channel0", False),  # a disk's name
    ("file=/srv/a.vmdk\nsocket,path=SOCKET,id=channel0", False),
    ("socket,path=DIRECTORY/other/../libguestfsAbCdEf/guestfsd.sock,id=channel0", False),
    ("socket,path=SOCKET.none/libguestfsAbCdEf/guestfsd.sock,id=channel0", False),
], ids=["qemu", "name", "line", "detour", "missing"])  # fmt: skip
def test_only_sockets_of_qemu_go_with_what_was_killed(argument: str, goes: bool, tmp_path: Path) -> None:
    place = tmp_path / "libguestfsAbCdEf"
    place.mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place / "guestfsd.sock"))
        words = argument.replace("SOCKET", str(place / "guestfsd.sock")).replace("DIRECTORY", str(tmp_path))
        with cleaned_up("h2k-test-") as environment:
            argv = ["sh", "-c", "read line", "sh", words]
            killed = subprocess.Popen(argv, stdin=subprocess.PIPE, env={**os.environ, **environment})
        assert killed.wait(timeout=20) != 0
        deadline = time.monotonic() + 5
        while Path(environment["TMPDIR"]).exists() and time.monotonic() < deadline:
            time.sleep(0.02)
    assert not Path(environment["TMPDIR"]).exists() and place.exists() is not goes


# hivex


def hive_that_hivex_aborts_on() -> bytes:
    """A key without a class whose class offset is not nowhere, but at 7."""
    data = bytearray(RawHive(Node("ROOT", keys=[Node("Gone"), Node("Select")])).data())
    at = data.index(b"Gone") - 76
    struct.pack_into("<I", data, at + 48, 7)
    struct.pack_into("<H", data, at + 74, 0)
    return resum(bytes(data))


def test_hivex_crashes_alone(tmp_path: Path) -> None:
    path = tmp_path / "SYSTEM"
    path.write_bytes(hive_that_hivex_aborts_on())
    assert regf.state(path.read_bytes()) == "clean"
    with pytest.raises(BadData, match=r"SYSTEM: hive-corrupt: hivex crashed on it \(SIG"):
        edit_hive_apart(path, [DeleteKey("Gone")])
    assert "a class name nowhere" in regf.check(hive_that_hivex_aborts_on(), "SYSTEM", deep=True)[0]


def test_a_run_survives_a_hive_that_hivex_aborts_on() -> None:
    """What both writers call; the process is a child, since an abort would end the test too."""
    hive = hive_that_hivex_aborts_on()
    guest: Any = SimpleNamespace(hive_bytes=lambda name: hive, hive_logs=lambda name: {}, complete_hive=lambda name: hive)
    child = os.fork()
    if child == 0:
        try:
            apply._edited(guest, SimpleNamespace(name="SYSTEM"), [DeleteKey("Gone")], SimpleNamespace(keep=lambda *_: None))  # type: ignore[arg-type]
        except BadData as e:
            os._exit(7 if "hive-corrupt: hivex crashed" in e.message else 8)
        finally:
            os._exit(9)
    assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 7, "the run ended, or without the word hive-corrupt"


@pytest.mark.parametrize(
    ("edit", "message"), [(SetValue("Select", "Current", 4, bytes(4)), ""), (DeleteKey("a\0b"), "names that contain NUL")]
)
def test_edits_apart_are_the_same_edits(edit: HiveEdit, message: str, tmp_path: Path) -> None:
    path = tmp_path / "SYSTEM"
    path.write_bytes(RawHive(Node("ROOT", keys=[Node("Select")])).data())
    if message:
        with pytest.raises(BadData, match=message):
            edit_hive_apart(path, [edit])
        return
    edit_hive_apart(path, [edit])
    value = Hive.parse(path.read_bytes()).value("Select", "Current")
    assert value is not None and value.dword() == 0


def test_a_line_break_in_a_place_never_names_two_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is told by a line: of two, the first would be somebody else's directory, and removed."""
    other = tmp_path / "other"
    (other / "work").mkdir(parents=True)
    (tmp_path / "other\nplace").mkdir()
    monkeypatch.setenv("VIRT_V2V_TMPDIR", f"{other}\nplace")
    with pytest.raises(H2kError, match="a line break is in its name"), cleaned_up("h2k-test-"):
        pass
    assert (other / "work").is_dir()
