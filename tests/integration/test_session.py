"""libvirt's session daemon of an ordinary user: names of every kind, a disk in use, a guest that floods COM1."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("libvirt", reason="needs python3-libvirt")

ROOT = Path(__file__).resolve().parents[2]
USER = "nobody"
NAMES = ["web 01", "it's \"web\"", "Büro-1", "-dash", "100%", "a;b&c$(d)"]
REFUSED = ["a\nb", "a/b", "", "..", "x" * 300, "a\x1b[2J"]
FLOOD = bytes.fromhex("baf803b041eeebfd").ljust(510, b"\0") + b"\x55\xaa"  # out dx, al for ever, on COM1

PROGRAM = """
import json, sys, time, uuid
from pathlib import Path
from h2k.base.errors import InUse, Refused
from h2k.base.libvirt_connection import Virt
from h2k.base.steps import Steps
from h2k.boot import com1
from h2k.boot.definition import define_and_start
from h2k.disk.in_use import require_unused
from h2k.domain.names import check_name
from h2k.base.xml import parse_xml
from xml.sax.saxutils import escape

place, names, refused = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
started = sys.argv[4] == "started"
virt, found = Virt("qemu:///session"), {}

def run(name, disk, serial=""):
    machine = str(uuid.uuid4())
    xml = f'''<domain type="qemu"><name>{escape(name)}</name><uuid>{machine}</uuid><memory unit="MiB">16</memory>
<os><type arch="x86_64">hvm</type></os><devices><disk type="file" device="disk"><driver name="qemu" type="raw"/>
<source file="{disk}"/><target dev="hda" bus="ide"/></disk>{serial}</devices></domain>'''
    if started:
        define_and_start(virt, name, machine, xml, place, Steps(quiet=True))
    else:
        virt.call(lambda connection: connection.defineXML(xml))
    return machine

def end(machine):
    domain = virt.lookup(machine)
    if domain.isActive():
        domain.destroy()
    domain.undefine()

for name in names:
    check_name(name)
    machine = run(name, place / "disk")
    domain = virt.lookup(machine)
    said = ""
    try:
        require_unused([place / "disk"])
    except InUse as e:
        said = e.who
    found[name] = [domain.name(), bool(domain.isActive()), bool(domain.isPersistent()), said]
    end(machine)
for name in refused:
    try:
        check_name(name)
        found[name] = "taken"
    except Refused as e:
        found[name] = str(e)
if not started:
    print(json.dumps(found))
    sys.exit()
com1.LOG_LIMIT = 256 * 1024
log = place / "com1.log"
machine = run("flood", place / "flood", f'<serial type="file"><source path="{log}" append="on"/><target port="0"/></serial>')
heard, deadline = com1.Com1(log), time.monotonic() + 60
while not heard.flooded and time.monotonic() < deadline:
    heard.poll(time.monotonic())
    time.sleep(0.1)
found["flood"] = [heard.flooded, heard.bytes_read, len(heard.signals), len(heard._rest)]
end(machine)
virt.close()
print(json.dumps(found))
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A home of the user's, with a disk; the daemons that its libvirt starts are ended."""
    if os.geteuid() != 0 or shutil.which("runuser") is None or shutil.which("libvirtd") is None:
        pytest.skip("needs root, to become an ordinary user, and libvirtd")
    if subprocess.run(["runuser", "-u", USER, "--", "test", "-r", __file__], check=False).returncode != 0:
        pytest.skip("an ordinary user can't read this checkout")
    with tempfile.TemporaryDirectory(prefix="h2k-session-", dir="/var/tmp") as name:
        found = Path(name)
        (found / "disk").write_bytes(bytes(1 << 20))
        (found / "flood").write_bytes(FLOOD.ljust(1 << 20, b"\0"))
        (found / "run").mkdir(mode=0o700)
        for path in (found, *found.iterdir()):
            shutil.chown(path, USER)
        try:
            yield found
        finally:
            for pid in (found / "run" / "libvirt").rglob("*.pid"):
                with contextlib.suppress(OSError, ValueError):
                    os.kill(int(pid.read_text()), signal.SIGTERM)
            time.sleep(0.2)


def as_user(place: Path, *argv: Any) -> subprocess.CompletedProcess[str]:
    env = {"HOME": str(place), "XDG_RUNTIME_DIR": str(place / "run"), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "PYTHONPATH": str(ROOT)}
    setting = [f"{key}={value}" for key, value in env.items()]
    return subprocess.run(
        ["runuser", "-u", USER, "--", "env", "-i", *setting, *map(str, argv)], cwd="/", capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )


@pytest.mark.parametrize("what", ["defined", pytest.param("started", marks=pytest.mark.long)])
def test_the_session_of_an_ordinary_user(what: str, place: Path) -> None:
    done = as_user(place, "/usr/bin/python3", "-B", "-c", PROGRAM, place, json.dumps(NAMES), json.dumps(REFUSED), what)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name in NAMES:
        running = what == "started"
        assert found[name] == [name, running, True, f"in use by the running domain {name}" if running else ""]
    for name in REFUSED:
        assert found[name].startswith("domain-name-invalid: ")
    if what == "started":
        assert found["flood"] == [True, 256 * 1024 + 1, 0, 4096], "no more of it is read, and one line is kept"
