"""The boot cycle on real libvirt, firmware and devices, with the boot lab's stand-in for Windows as the guest."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.boot import lab
from tests.guests import build as guests
from tests.integration.virthost import H2K, VirtHost, own_libvirt

pytest.importorskip("libvirt", reason="needs python3-libvirt")

UUIDS = {"uefi": "2b0c1c6e-92c4-4b0f-9a3e-0d6f7a1e0001", "bios": "2b0c1c6e-92c4-4b0f-9a3e-0d6f7a1e0002"}
NAMES = {"uefi": "win2022", "bios": "win7-x86"}
POLICY = "validation: {minutes: 0}\ntimeouts: {start: 600, settle: 60, shutdown: 300}\n"


@pytest.fixture(scope="module")
def host() -> Iterator[VirtHost]:
    with own_libvirt() as found:
        yield found


@dataclasses.dataclass
class Machine:
    """A converted guest as `h2k fix` left it, in a directory that QEMU's user can reach."""

    directory: Path
    saved: Path
    firmware: str
    host: VirtHost

    @property
    def disk(self) -> Path:
        return self.directory / "g-sda"

    @property
    def state(self) -> Path:
        return self.directory / "g.h2k"

    @property
    def name(self) -> str:
        return f"h2k-{self.firmware}"

    def restore(self) -> None:
        """As it was before the first boot, at the same place."""
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.copytree(self.saved, self.directory)
        self.directory.chmod(0o711)

    def knobs(self, *names: str) -> None:
        lab.set_knobs(self.disk, "qcow2", self.firmware, self.directory, names)

    def policy(self, text: str = POLICY) -> Path:
        path = self.directory / "policy.yaml"
        path.write_text(text)
        return path

    def content(self) -> Path:
        """A copy of what the guest would read from its disk."""
        copy = self.directory / "content.raw"
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(self.disk), str(copy)], check=True)
        return copy

    def same(self, content: Path) -> bool:
        argv = ["qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(self.disk), str(content)]
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0

    def boot(self, *options: Any, policy: str = POLICY, status: int = 0) -> dict[str, Any]:
        """`h2k boot`, to its end; the report, also when it went wrong."""
        argv = [H2K, "boot", self.state, "--policy", self.policy(policy), *options]
        done = self.host.run(*argv, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        report = self.state / "boot" / "boot.json"
        found: dict[str, Any] = json.loads(report.read_text()) if report.exists() else {}
        return {**found, "said": done.stdout + done.stderr}

    def edit(self, phase: str, old: str, new: str) -> None:
        path = self.state / f"{phase}.xml"
        text = path.read_text()
        assert re.search(old, text), f"{old} in {path}"
        path.write_text(re.sub(old, new, text))


@pytest.fixture(scope="module")
def machines(host: VirtHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Machine]]:
    """A guest for each firmware, with the lab's loader in it, repaired once by the real `h2k fix`."""
    drivers = tmp_path_factory.mktemp("virtio-win") / "tree"
    subprocess.run(["/usr/bin/python3", "-m", "tests.guests.virtio_win", str(drivers)], cwd=H2K.parents[1], check=True, capture_output=True)
    with tempfile.TemporaryDirectory(prefix="h2k-boot-", dir="/var/tmp") as base:
        Path(base).chmod(0o711)
        made: dict[str, Machine] = {}

        class Lazily(dict[str, Machine]):
            def __missing__(self, firmware: str) -> Machine:
                made[firmware] = self[firmware] = _repaired(Path(base), firmware, drivers, host)
                return made[firmware]

        yield Lazily()


def _repaired(base: Path, firmware: str, drivers: Path, host: VirtHost) -> Machine:
    machine = Machine(base / firmware, base / f"{firmware}.saved", firmware, host)
    machine.directory.mkdir(mode=0o711)
    shutil.copy(guests.cached()[NAMES[firmware]].disks[0], machine.disk)
    lab.install(machine.disk, "qcow2", firmware, machine.directory)
    efi = ' firmware="efi"' if firmware == "uefi" else ""
    xml = machine.directory / "g.xml"
    xml.write_text(
        f'<domain type="kvm"><name>{machine.name}</name><uuid>{UUIDS[firmware]}</uuid><memory unit="MiB">768</memory>'
        f'<vcpu>1</vcpu><os{efi}><type arch="x86_64" machine="q35">hvm</type></os><devices>'
        f'<disk type="file" device="disk"><driver name="qemu" type="qcow2"/><source file="{machine.disk}"/>'
        '<target dev="vda" bus="virtio"/></disk><interface type="user"><model type="virtio"/></interface></devices></domain>'
    )
    argv = [str(H2K), "fix", str(xml), "--drivers", str(drivers), "--policy", str(machine.policy())]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.copytree(machine.directory, machine.saved)
    return machine


@pytest.fixture
def machine(request: pytest.FixtureRequest, machines: dict[str, Machine], host: VirtHost) -> Iterator[Machine]:
    found = machines[getattr(request, "param", "bios")]
    found.restore()
    yield found
    host.stop_domains()
    shutil.rmtree(found.directory, ignore_errors=True)


def as_it_was(machine: Machine, content: Path, defined: bool = False) -> None:
    """The disk is what it was, no domain is there but one that was, no overlay, no half-written variables are left."""
    assert machine.same(content)
    assert machine.host.domains() == ({machine.name: "shut off"} if defined else {})
    left = [*machine.state.glob("overlay-*"), *machine.state.glob("boot/scratch-*"), *machine.state.glob("**/nvram.fd")]
    assert left == []


def until(process: subprocess.Popen[str], line: str) -> str:
    """Read the process's standard error until a line that contains the text; all that was read."""
    assert process.stderr is not None
    read = ""
    for text in process.stderr:
        read += text
        if line in text:
            return read
    raise AssertionError(f"{line!r} never came:\n{read}")


def asking_directories() -> set[str]:
    """What "asking QEMU" has made in the directory for temporary files."""
    return {path.name for path in Path(tempfile.gettempdir()).glob("h2k-ask-*")}


def said(done: subprocess.CompletedProcess[str]) -> str:
    """All that a command printed, its line breaks as blanks."""
    return " ".join((done.stdout + done.stderr).split())


def is_png(path: Any) -> bool:
    return Path(path).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


# The whole cycle


@pytest.mark.parametrize("machine", ["uefi"], indirect=True)
def test_both_boots_commit_and_production(machine: Machine, host: VirtHost) -> None:
    """libvirtd is killed and started anew in each of the two phases meanwhile: the guests do not notice, nor do we."""
    content = machine.content()
    with host.begin(H2K, "boot", machine.state, "--policy", machine.policy()) as process:
        told = until(process, "bootstrap: booting")
        host.wait_for("grep", "-q", "BdsDxe: starting", machine.state / "boot/bootstrap-com1.log")
        host.kill_libvirtd()
        host.start_libvirtd()
        told += until(process, "final: booting")
        host.wait_for("grep", "-q", "BdsDxe: starting", machine.state / "boot/final-com1.log")
        assert machine.same(content), "nothing is written before the commit"
        host.kill_libvirtd()
        host.start_libvirtd()
        output, errors = process.communicate()
    assert process.returncode == 0, told + errors
    assert output.startswith("h2k: BOOTED: both boots observed and committed")
    report = json.loads((machine.state / "boot/boot.json").read_text())
    assert [phase["phase"] for phase in report["phases"]] == ["bootstrap", "final", "production"]
    states = {check["name"]: check["state"] for check in report["checks"]}
    assert states["hardware"] == states["virtio-bound"] == states["first-boot: done"] == "passed"
    assert "failed" not in states.values()
    for phase in report["phases"][:2]:
        assert is_png(phase["files"]["screen-last"])
        assert Path(phase["files"]["com1"]).stat().st_size
    assert host.domains() == {machine.name: "running"}
    running = host.run("virsh", "dumpxml", machine.name).stdout
    assert str(machine.disk) in running and "overlay-" not in running and "link state='down'" not in running
    assert (machine.state / "nvram.fd").exists() and str(machine.state / "nvram.fd") in running
    validation = {check["name"]: check["state"] for check in report["validation"]}
    assert validation["running"] == validation["logs"] == "passed" and validation["quiet"] == "skipped", "the policy asks for 0 minutes"
    assert validation["agent"] == "unknown", "the stand-in has no agent, and that is not a pass"
    alone = host.run(H2K, "validate", machine.name, "--policy", machine.policy(), "--json")
    assert {c["name"]: c["state"] for c in json.loads(alone.stdout)["checks"]}["running"] == "passed"
    again = host.run(H2K, "boot", machine.state, check=False)
    assert again.returncode == 3 and "is running" in said(again)
    # Production has written to the disk since: going back would mix old and new.
    host.stop_domains()
    assert not machine.same(content)
    back = host.run(H2K, "rollback", machine.directory / "g.xml", check=False)
    assert back.returncode == 3 and "somebody has written" in said(back)


@pytest.mark.long
def test_overlay_kept_then_committed(machine: Machine, host: VirtHost) -> None:
    content = machine.content()
    report = machine.boot("--keep-overlay")
    assert report["stage"] == "kept" and "on the kept overlays" in report["verdict"]
    assert "overlay-0.qcow2" in host.run("virsh", "dumpxml", machine.name).stdout
    assert machine.same(content)
    assert host.run(H2K, "fix", machine.directory / "g.xml", check=False).returncode != 0, "the overlays are in use"
    while host.domains()[machine.name] != "shut off":
        host.run("virsh", "shutdown", machine.name, check=False)
        time.sleep(5)
    assert "runs on VirtIO" in machine.boot()["verdict"]
    assert "overlay-0.qcow2" not in host.run("virsh", "dumpxml", machine.name).stdout
    host.stop_domains()
    assert not machine.same(content)


# Boots that go wrong


@pytest.mark.long
def test_a_bootstrap_that_does_not_bind_virtio_never_reaches_the_final_domain(machine: Machine) -> None:
    machine.knobs("no-pnp")
    content = machine.content()
    report = machine.boot(status=5)
    assert [phase["phase"] for phase in report["phases"]] == ["bootstrap"]
    assert report["phases"][0]["up"] is True
    assert "virtio-bound" in report["verdict"] and "never met it" in report["verdict"]
    as_it_was(machine, content)


@pytest.mark.long
@pytest.mark.parametrize("machine", ["uefi"], indirect=True)
def test_a_final_boot_that_stops_at_0x7b(machine: Machine) -> None:
    machine.knobs("only-first")
    content = machine.content()
    report = machine.boot(status=5)
    assert [(phase["phase"], phase["up"]) for phase in report["phases"]] == [("bootstrap", True), ("final", False)]
    assert "pvpanic" in report["verdict"]
    assert is_png(report["phases"][1]["files"]["screen-stop"])
    assert report["stage"] == "failed"
    as_it_was(machine, content)


@pytest.mark.long
def test_a_guest_that_stands_still(machine: Machine, host: VirtHost) -> None:
    """Its owner has defined it as the bootstrap before: so it stays."""
    machine.knobs("hang")
    content = machine.content()
    host.run("virsh", "define", machine.state / "bootstrap.xml")
    before = host.run("virsh", "dumpxml", "--inactive", machine.name).stdout
    report = machine.boot(policy=POLICY.replace("start: 600", "start: 120"), status=5)
    assert "stands still" in report["verdict"] and is_png(report["phases"][0]["files"]["screen-stop"])
    as_it_was(machine, content, defined=True)
    assert host.run("virsh", "dumpxml", "--inactive", machine.name).stdout == before


@pytest.mark.long
def test_a_reboot_loop(machine: Machine) -> None:
    machine.knobs("reboot-loop")
    content = machine.content()
    report = machine.boot(status=5)
    assert "a reboot loop: it restarted" in report["verdict"] and report["phases"][0]["restarts"] > 1
    as_it_was(machine, content)


# h2k itself ends


@pytest.mark.parametrize("phase", ["bootstrap", "final"])
@pytest.mark.long
def test_h2k_is_killed_and_the_same_command_cleans_up(phase: str, machine: Machine, host: VirtHost) -> None:
    content = machine.content()
    with host.begin(H2K, "boot", machine.state, "--policy", machine.policy()) as process:
        until(process, f"{phase}: booting")
        while host.domains().get(machine.name) != "running":
            time.sleep(0.2)
        os.kill(process.pid, signal.SIGKILL)
    assert host.domains() == {machine.name: "running"}, "a killed program can't clean up"
    assert machine.same(content)
    # Again, and this time it is told to stop: that cleans up at once.
    with host.begin(H2K, "boot", machine.state, "--policy", machine.policy()) as process:
        said = until(process, "bootstrap: booting")
        assert "stopping it" in said and "discarded" in said
        while host.domains().get(machine.name) != "running":
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode != 0
    as_it_was(machine, content)


@pytest.mark.long
def test_killed_between_commit_and_production(machine: Machine, host: VirtHost) -> None:
    content = machine.content()
    with host.begin(H2K, "boot", machine.state, "--policy", machine.policy()) as process:
        until(process, "committing both boots")
        while json.loads((machine.state / "boot/boot.json").read_text())["stage"] != "committed":
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    host.stop_domains()
    copy = machine.directory.with_suffix(".committed")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(machine.directory, copy)
    # The way back, as long as nobody has written: first the boots, then the repair.
    assert not machine.same(content)
    assert "the boot is undone" in host.run(H2K, "rollback", machine.directory / "g.xml").stdout
    assert machine.same(content) and not (machine.state / "nvram.fd").exists()
    assert "the fix is undone" in host.run(H2K, "rollback", machine.directory / "g.xml").stdout
    shutil.rmtree(machine.directory)
    shutil.copytree(copy, machine.directory)
    machine.directory.chmod(0o711)
    report = machine.boot()
    assert "going on with production" in report["said"]
    assert [phase["phase"] for phase in report["phases"]] == ["production"]
    assert host.domains() == {machine.name: "running"}


BOOT_WITH_LITTLE_PATIENCE = """
import sys
from h2k.base import libvirt_connection
libvirt_connection.RECONNECT_LIMIT = 3.0
from h2k.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_killed_doubled_stopped_and_without_libvirt(machine: Machine, host: VirtHost) -> None:
    """One guest with a disk more in final.xml, and all that may happen to h2k in its first boot; nothing waits for it."""
    more = machine.directory / "g-sdb"
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", str(more), "8M"], check=True)
    disk = f'<disk type="file" device="disk"><driver name="qemu" type="raw"/><source file="{more}"/><target dev="vdz" bus="virtio"/></disk>'
    machine.edit("final", "</devices>", disk + "</devices>")
    content, before = machine.content(), asking_directories()
    argv = [H2K, "boot", machine.state, "--policy", machine.policy()]

    with host.begin(*argv) as process:  # killed while QEMU is asked
        until(process, "asking QEMU")
        while asking_directories() == before:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    while asking_directories() != before or host.domains() != {}:
        time.sleep(0.1)
    as_it_was(machine, content)

    with host.begin(*argv) as process:  # a second one at once, then Ctrl-C
        until(process, "bootstrap: booting")
        while host.domains().get(machine.name) != "running":
            time.sleep(0.2)
        second = host.run(*argv, check=False)
        assert second.returncode == 3 and "another h2k works on this guest" in said(second)
        back = host.run(H2K, "rollback", machine.directory / "g.xml", check=False)
        assert back.returncode == 3 and "another h2k" in said(back)
        assert host.domains() == {machine.name: "running"}, "the first one's guest is left alone"
        process.send_signal(signal.SIGINT)
        line = " ".join("".join(process.communicate()).split())
    assert process.returncode == 5
    assert "stopped by SIGINT" in line and "the disks are what they were" in line and "h2k boot" in line and "Traceback" not in line
    verdict = json.loads((machine.state / "boot/boot.json").read_text())["verdict"]
    assert "stopped by SIGINT" in verdict and "h2k boot" in verdict
    as_it_was(machine, content)
    assert list(machine.state.glob("undo-0-*")), "the way back from the repair is kept"

    argv = ["/usr/bin/python3", "-c", BOOT_WITH_LITTLE_PATIENCE, *argv[1:]]
    with host.begin(*argv) as process:  # libvirtd ends for good
        until(process, "bootstrap: booting")
        while host.domains().get(machine.name) != "running":
            time.sleep(0.2)
        host.kill_libvirtd()
        errors = " ".join("".join(process.communicate()).split())
    assert process.returncode == 5, errors
    assert "did not come back" in errors and "the overlays are left" in errors and "Traceback" not in errors
    assert "did not come back" in json.loads((machine.state / "boot/boot.json").read_text())["verdict"]
    assert (machine.state / "overlay-0.qcow2").exists() and machine.same(content)
    blocked = host.run(H2K, "fix", machine.directory / "g.xml", check=False)
    assert blocked.returncode == 3 and ("in use" in said(blocked) or "a guest runs on it" in said(blocked)), said(blocked)
    host.start_libvirtd()
    back = host.run(H2K, "rollback", machine.directory / "g.xml")
    assert "stopping it" in said(back)
    as_it_was(machine, content)
    assert "the fix is undone" in host.run(H2K, "rollback", machine.directory / "g.xml").stdout


KEEP = """
import sys
from pathlib import Path
from h2k.boot.phase_domain import production_xml, read_description_of
from h2k.disk.overlay import DiskSet
state = Path(sys.argv[1])
final = read_description_of(state, "final")
disks = DiskSet(final.disks, state)
overlays = disks.create_overlays("boot")
disks.keep()
sys.stdout.buffer.write(production_xml(final, {final.disks[0][0]: overlays[0]}, None, False))
"""


def test_kept_overlays_are_thrown_away_with_the_definition_and_not_below_a_guest(machine: Machine, host: VirtHost) -> None:
    content = machine.content()
    kept = machine.directory / "kept.xml"
    kept.write_text(host.run("/usr/bin/python3", "-c", KEEP, machine.state).stdout)
    host.run("virsh", "define", kept)
    host.run("virsh", "start", "--paused", machine.name)
    back = host.run(H2K, "rollback", machine.directory / "g.xml", check=False)
    assert back.returncode == 3 and f"{machine.name} runs" in said(back) and "virsh shutdown" in said(back)
    assert (machine.state / "overlay-0.qcow2").exists()
    host.run("virsh", "destroy", machine.name)
    back = host.run(H2K, "rollback", machine.directory / "g.xml")
    assert "kept overlay" in said(back) and "not defined any more" in said(back)
    as_it_was(machine, content)


# What is refused before anything starts


def refused(machine: Machine, *words: str, status: int = 3) -> None:
    content = machine.content()
    before = machine.host.domains()
    done = machine.host.run(H2K, "boot", machine.state, check=False)
    assert done.returncode == status, said(done)
    assert "h2k: " in said(done) and "Traceback" not in said(done)
    assert all(word in said(done) for word in words), said(done)
    assert machine.same(content) and machine.host.domains() == before
    assert not list(machine.state.glob("overlay-*"))


def other_domain(host: VirtHost, name: str, uuid: str) -> None:
    xml = f"<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory>65536</memory><os><type>hvm</type></os></domain>"
    with tempfile.NamedTemporaryFile("w", suffix=".xml") as file:
        file.write(xml)
        file.flush()
        host.run("virsh", "define", file.name)


def test_the_name_is_taken(machine: Machine, host: VirtHost) -> None:
    other_domain(host, machine.name, "2b0c1c6e-92c4-4b0f-9a3e-0d6f7a1effff")
    refused(machine, "name", machine.name, "taken", "domrename")


def test_the_uuid_is_taken(machine: Machine, host: VirtHost) -> None:
    other_domain(host, "somebody-else", UUIDS[machine.firmware])
    refused(machine, "UUID", "taken", "somebody-else")


def test_it_runs_already(machine: Machine, host: VirtHost) -> None:
    other_domain(host, machine.name, UUIDS[machine.firmware])
    host.run("virsh", "start", machine.name)
    refused(machine, "is running", "virsh shutdown")


@pytest.mark.parametrize("machine", ["uefi"], indirect=True)
def test_no_ovmf(machine: Machine) -> None:
    machine.edit("final", r"/usr/share/OVMF/OVMF_CODE[^<]*", "/usr/share/OVMF/missing.fd")
    refused(machine, "/usr/share/OVMF/missing.fd", "install ovmf")


def test_the_network_is_missing(machine: Machine) -> None:
    machine.edit("final", r'<interface type="user">', '<interface type="network"><source network="lan"/>')
    refused(machine, "'lan' is not active", "net-start")


def test_the_bridge_is_missing(machine: Machine) -> None:
    machine.edit("final", r'<interface type="user">', '<interface type="bridge"><source bridge="br-lan"/>')
    refused(machine, "'br-lan'")


def test_not_ready(machine: Machine) -> None:
    for path in (machine.state / "report.json", *machine.state.glob("runs/*.json")):
        path.write_text(json.dumps({**json.loads(path.read_text()), "status": 4, "verdict": "3 changes to make"}))
    refused(machine, "not ready", "3 changes to make")


def test_no_report_directory(machine: Machine) -> None:
    shutil.rmtree(machine.state)
    refused(machine, "no report directory", status=2)


def test_a_disk_without_a_driver(machine: Machine) -> None:
    machine.edit("final", r'<driver name="qemu" type="qcow2"[^>]*/>', "")
    refused(machine, "has no <driver type>", "final.xml:")


def test_a_directory_of_somebody_else_and_a_link(machine: Machine) -> None:
    os.chown(machine.state, 65534, 65534)
    refused(machine, "belongs to nobody")
    os.chown(machine.state, 0, 0)
    (machine.state / "boot").symlink_to(machine.directory)
    refused(machine, "boot: a link")


def test_a_description_that_reaches_for_other_files(machine: Machine) -> None:
    machine.edit("final", "</devices>", '<serial type="file"><source path="/etc/cron.d/h2k-test"/></serial></devices>')
    refused(machine, "opens /etc/cron.d/h2k-test")
    assert not Path("/etc/cron.d/h2k-test").exists()


def test_a_home_that_qemu_s_user_cannot_enter(machine: Machine) -> None:
    machine.directory.chmod(0o700)
    refused(machine, "can't pass it", "chmod o+x")


def test_no_libvirt(machine: Machine) -> None:
    done = machine.host.run(H2K, "boot", machine.state, "--connect", "qemu:///system?socket=/nowhere", check=False)
    assert done.returncode == 2 and "libvirt does not answer" in said(done)


def test_a_remote_libvirt(machine: Machine) -> None:
    done = machine.host.run(H2K, "boot", machine.state, "--connect", "test+ssh://elsewhere.invalid/default", check=False)
    assert done.returncode == 2 and "h2k: " in said(done)


@pytest.mark.long
def test_bootstrap_required_by_policy(machine: Machine, host: VirtHost) -> None:
    policy = machine.policy("bootstrap: required\n")
    done = host.run(H2K, "boot", machine.state, "--policy", policy, "--skip-bootstrap", check=False)
    assert done.returncode == 3 and "required" in said(done)
    policy = machine.policy("bootstrap: recommended\n")
    done = host.run(H2K, "boot", machine.state, "--policy", policy, "--skip-bootstrap", check=False)
    assert done.returncode == 3 and "not ready for the final domain" in said(done) and "never met it" in said(done)


def test_no_space_for_the_overlays(machine: Machine, host: VirtHost) -> None:
    """The report directory on a file system that fills up while the guest writes: QEMU pauses it, and h2k says so."""
    small = machine.directory / "small"
    small.mkdir()
    content = machine.content()
    host.run("mount", "-t", "tmpfs", "-o", "size=80m,mode=711", "none", small)
    try:
        host.run("cp", "-a", f"{machine.state}/.", small)
        host.run("mount", "--bind", small, machine.state)
        with host.begin(H2K, "boot", machine.state, "--policy", machine.policy()) as process:
            until(process, "bootstrap: booting")
            host.run("sh", "-c", f"dd if=/dev/zero of={machine.state}/filler bs=64k 2>/dev/null || true")
            errors = " ".join("".join(process.communicate()).split())
        assert process.returncode == 5, errors
        assert "space" in errors and "the disks are what they were" in errors
        assert machine.same(content) and host.domains() == {}
    finally:
        host.run("umount", machine.state, check=False)
        host.run("umount", small)


# Hardware asked, not guessed


IDS = {"q35": {"virtio": "1AF4:1042", "virtio-scsi": "1AF4:1048"}, "pc": {"virtio": "1AF4:1001", "virtio-scsi": "1AF4:1004"}}

ASK = """
import json, sys
from pathlib import Path
from h2k.base.libvirt_connection import Virt
from h2k.boot.hardware import ask, disk_controllers
from h2k.domain.libvirt_writer import bootstrap_xml, final_xml
from tests.integration.test_domain_libvirt import _small_guest
directory, bus, first_boot = sys.argv[1:]
facts, choices = _small_guest(Path(directory), "uefi", bus, first_boot)
virt = Virt()
print(json.dumps([[str(d.pci) for d in disk_controllers(xml, ask(virt, xml))] for xml in (bootstrap_xml(facts, choices), final_xml(facts, choices))]))
"""


@pytest.mark.parametrize("bus", ["virtio", "virtio-scsi"])
@pytest.mark.parametrize("machine_type, first_boot, controller", [("q35", "sata", "8086:2922"), ("pc", "ide", "8086:7010")])
def test_qemu_is_asked(bus: str, machine_type: str, first_boot: str, controller: str, host: VirtHost, tmp_path: Path) -> None:
    before = asking_directories()
    done = host.run("/usr/bin/python3", "-c", ASK, tmp_path, bus, first_boot)
    bootstrap, final = json.loads(done.stdout)
    assert sorted(bootstrap) == sorted([IDS[machine_type][bus], controller])
    assert final == [IDS[machine_type][bus]]
    assert host.domains() == {} and asking_directories() == before


def test_verify_ask_qemu(machine: Machine, host: VirtHost) -> None:
    xml = machine.directory / "g.xml"
    done = host.run(H2K, "verify", xml, "--ask-qemu", "--json", check=False)
    findings = [f for f in json.loads(done.stdout)["findings"] if f["id"] == "device-id-unbound"]
    assert {f["subject"].split(": ")[0] for f in findings} == {"bootstrap", "final"}
    assert all(f["state"] == "ok" for f in findings) and any("1AF4:1042" in f["subject"] for f in findings)
    # The registry knows nothing of virtio-scsi, which this domain would show.
    machine.edit("final", r'<target dev="vda" bus="virtio"/>\s*<address[^>]*/>', '<target dev="sda" bus="scsi"/>')
    machine.edit("final", "</devices>", '<controller type="scsi" index="0" model="virtio-scsi"/></devices>')
    done = host.run(H2K, "verify", xml, "--ask-qemu", "--bus", "virtio", "--json", check=False)
    assert done.returncode == 4, done.stderr
    broken = [f for f in json.loads(done.stdout)["findings"] if f["state"] == "broken"]
    assert [f["id"] for f in broken] == ["device-id-unbound"] and "1AF4:1048" in broken[0]["subject"]
    refused(machine, "device-id-unbound", "1AF4:1048")
    assert host.domains() == {}

