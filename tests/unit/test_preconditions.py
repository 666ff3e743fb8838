"""What is refused before a domain is started: a lack of this host, and descriptions that reach for its files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import Refused
from h2k.boot import preconditions
from h2k.boot.phase_domain import Description, read_description_of
from h2k.boot.preconditions import check_files, check_host, check_reach, is_variable_store

UUID = "2b0c1c6e-92c4-4b0f-9a3e-0d6f7a1e0001"
VARIABLES = bytes(40) + b"_FVH" + bytes(100)


class Guest:
    """A directory with one disk, NAME.h2k and its final.xml."""

    def __init__(self, base: Path) -> None:
        self.base, self.state = base / "vms", base / "vms" / "g.h2k"
        self.state.mkdir(parents=True)
        self.disk = self.base / "g-sda"
        self.disk.write_bytes(b"")
        self.elsewhere = base / "elsewhere"
        self.elsewhere.mkdir()

    def description(self, more: str = "", os_more: str = "", disk: str = "", phase: str = "final") -> Description:
        disk = disk or self.xml_of(self.disk)
        (self.state / f"{phase}.xml").write_text(
            f'<domain type="kvm" xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0"><name>g</name><uuid>{UUID}</uuid>'
            f"<memory>1048576</memory><os><type>hvm</type>{os_more}</os><devices>{disk}{more}</devices></domain>"
        )
        return read_description_of(self.state, phase)

    def xml_of(self, path: Path, device: str = "disk") -> str:
        target = path.name[-3:]
        return f'<disk type="file" device="{device}"><driver type="raw"/><source file="{path}"/><target dev="{target}" bus="sata"/></disk>'


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


def test_a_description_of_the_guest_alone(guest: Guest) -> None:
    check_files(guest.description(), guest.state, [guest.disk])
    check_files(guest.description('<serial type="pty"/><console type="pty"/>'), guest.state, [])


@pytest.mark.parametrize(
    "more",
    [
        '<serial type="file"><source path="/etc/cron.d/x"/></serial>',
        '<console type="file"><source path="/etc/cron.d/x"/></console>',
        '<parallel type="dev"><source path="/dev/sda"/></parallel>',
        '<channel type="pipe"><source path="/run/x"/></channel>',
        '<serial type="pty"><log file="/etc/cron.d/x"/></serial>',
        '<filesystem type="mount"><source dir="/etc"/><target dir="x"/></filesystem>',
        "<emulator>/tmp/evil</emulator>",
        "<emulator>/usr/../tmp/evil</emulator>",
        '<disk type="file" device="floppy"><driver type="raw"/><source file="/etc/passwd"/><target dev="fda"/></disk>',
        '<disk type="block" device="lun"><driver type="raw"/><source dev="/dev/sda"/><target dev="sdq"/></disk>',
    ],
)
def test_what_reaches_for_this_host_is_refused(more: str, guest: Guest) -> None:
    with pytest.raises(Refused, match=r"final\.xml: <"):
        check_files(guest.description(more), guest.state, [guest.disk])


def test_options_for_qemu_itself(guest: Guest) -> None:
    description = guest.description()
    (guest.state / "final.xml").write_bytes(
        description.xml.replace(b"</devices>", b"</devices><qemu:commandline><qemu:arg value='-drive'/></qemu:commandline>")
    )
    with pytest.raises(Refused, match="<commandline> hands options"):
        check_files(read_description_of(guest.state, "final"), guest.state, [])


def test_a_loader_that_may_be_written(guest: Guest) -> None:
    for attributes, good in (('type="pflash" readonly="yes"', True), ('type="pflash"', False), ('type="pflash" readonly="no"', False)):
        description = guest.description(os_more=f"<loader {attributes}>/etc/passwd</loader>")
        if good:
            check_files(description, guest.state, [])
        else:
            with pytest.raises(Refused, match="<loader>"):
                check_files(description, guest.state, [])


def test_a_file_of_its_own_directory_is_the_guest_s(guest: Guest) -> None:
    check_files(guest.description(f'<serial type="file"><source path="{guest.state}/log"/></serial>'), guest.state, [])


def test_the_guest_s_disks_and_others_beside_them(guest: Guest) -> None:
    beside, other = guest.base / "g-sdb", guest.elsewhere / "sdc"
    for path in (beside, other):
        path.write_bytes(b"")
    both = guest.xml_of(guest.disk) + guest.xml_of(beside)
    check_files(guest.description(disk=both), guest.state, [guest.disk])
    with pytest.raises(Refused, match="is no disk that h2k has seen"):
        check_files(guest.description(disk=guest.xml_of(guest.disk) + guest.xml_of(other)), guest.state, [guest.disk])
    with pytest.raises(Refused, match="g-sda, a disk of the guest, is not in it"):
        check_files(guest.description(disk=guest.xml_of(beside)), guest.state, [guest.disk])
    check_files(guest.description(disk=guest.xml_of(beside), phase="bootstrap"), guest.state, [guest.disk])


def nvram(path: Path) -> str:
    return f"<nvram>{path}</nvram>"


def test_firmware_variables_have_their_places(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preconditions, "LIBVIRT_NVRAM", (guest.elsewhere / "nvram",))
    (guest.elsewhere / "nvram").mkdir()
    for good in (guest.state / "nvram.fd", guest.base / "g_VARS.fd", guest.elsewhere / "nvram" / "g_VARS.fd"):
        check_files(guest.description(os_more=nvram(good)), guest.state, [guest.disk])
        good.write_bytes(VARIABLES)
        check_files(guest.description(os_more=nvram(good)), guest.state, [guest.disk])
    (guest.base / "link").symlink_to(guest.base / "g_VARS.fd")
    for bad in (guest.elsewhere / "x.fd", guest.elsewhere / "nvram" / "other_VARS.fd", guest.base / "link", guest.disk):
        with pytest.raises(Refused, match="firmware variables"):
            check_files(guest.description(os_more=nvram(bad)), guest.state, [guest.disk])
    other = guest.elsewhere / "other.fd"
    other.write_bytes(b"root:x:0")
    with pytest.raises(Refused, match="no template"):
        check_files(guest.description(os_more=f'<nvram template="{other}"/>'), guest.state, [guest.disk])


@pytest.mark.parametrize("data, good", [(VARIABLES, True), (VARIABLES[:44], True), (VARIABLES[:43], False), (b"", False), (bytes(200), False)])
def test_a_variable_store(data: bytes, good: bool, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(data)
    assert is_variable_store(tmp_path / "x") == good
    assert not is_variable_store(tmp_path) and not is_variable_store(tmp_path / "missing")


# The host


class Libvirt:
    class libvirtError(Exception):
        pass


class Host:
    """As much of Virt as is asked: capabilities, and networks that are active."""

    libvirt = Libvirt

    def __init__(self, label: str = "+64055:+108", networks: tuple[str, ...] = ()) -> None:
        self.label, self.networks = label, networks

    def call(self, what: Any) -> Any:
        return what(self)

    def getCapabilities(self) -> str:
        return f"<capabilities><host><secmodel><model>dac</model><baselabel type='kvm'>{self.label}</baselabel></secmodel></host></capabilities>"

    def networkLookupByName(self, name: str) -> Any:
        if name not in self.networks:
            raise Libvirt.libvirtError
        return self

    def isActive(self) -> bool:
        return True


def host(**more: Any) -> Any:
    return Host(**more)


def test_a_directory_that_qemu_s_user_cannot_pass(guest: Guest) -> None:
    home = guest.base / "home"
    (home / "g.h2k").mkdir(parents=True)
    for directory in (*reversed(home.parents), home):
        if os.stat(directory).st_uid == os.geteuid():
            directory.chmod(directory.stat().st_mode | 0o011)
    home.chmod(0o700)
    with pytest.raises(Refused, match=r"home: QEMU's user .* can't pass it"):
        check_reach(host(), [home / "g.h2k" / "boot"])
    check_reach(host(label=f"+{os.geteuid()}:+0"), [home / "g.h2k" / "boot"])
    check_reach(host(label="no numbers"), [home / "g.h2k" / "boot"])
    home.chmod(0o710)
    os.chown(home, -1, os.getegid())
    check_reach(host(label=f"+64055:+{os.getegid()}"), [home / "g.h2k" / "boot"])
    home.chmod(0o711)
    check_reach(host(), [home / "g.h2k" / "boot"])


def test_networks_and_bridges(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preconditions, "SYS_NET", guest.elsewhere)
    lan, bridge = ('<interface type="network"><source network="lan"/></interface>', '<interface type="bridge"><source bridge="br0"/></interface>')
    with pytest.raises(Refused, match="'lan' is not active"):
        check_host(host(), guest.description(lan))
    check_host(host(networks=("lan",)), guest.description(lan))
    with pytest.raises(Refused, match="'br0'"):
        check_host(host(), guest.description(bridge))
    (guest.elsewhere / "br0").mkdir()
    check_host(host(), guest.description(bridge))


def test_missing_firmware_and_images(guest: Guest) -> None:
    with pytest.raises(Refused, match=r"/no/code.fd: the UEFI firmware"):
        check_host(host(), guest.description(os_more='<loader type="pflash" readonly="yes">/no/code.fd</loader>'))
    description = guest.description()
    guest.disk.unlink()
    with pytest.raises(Refused, match="not there"):
        check_host(host(), description)
