"""The two domains: golden XML, libvirt's schema, one machine in two phases; and reading hostile descriptions."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree

from h2k.base.errors import BadData, Refused
from h2k.domain.facts import DiskFacts, DomainFacts, NicFacts, Topology, complete
from h2k.domain.firmware import Firmware, choose_firmware
from h2k.domain.libvirt_reader import read_domain_xml
from h2k.domain.libvirt_writer import Choices, bootstrap_xml, final_xml
from h2k.domain.vmx import read_vmx

GOLDEN = Path(__file__).parent / "golden"
SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")
UUID = "5f2a1f6e-2a51-4f4e-9d5b-0c6f6a0f3b11"
PLAIN = Firmware(Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd"), False)
SECURE = Firmware(Path("/usr/share/OVMF/OVMF_CODE_4M.ms.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.ms.fd"), True)
FIRMWARES: dict[str, Optional[Firmware]] = {"bios": None, "uefi": PLAIN, "secure": SECURE}


def make(firmware: str, machine: str, bus: str, many: int, nics: int, kvm: bool = True) -> tuple[DomainFacts, Choices]:
    """A guest with `many` disks and `nics` cards, the last disk the boot disk, and the choices for it."""
    facts = DomainFacts(
        name="guest",
        uuid=UUID,
        memory=4 * 2**30,
        vcpus=4,
        disks=tuple(
            DiskFacts(Path(f"/var/lib/libvirt/images/guest-sd{'abcdefghijklmnopqrstuvwxyz'[n % 26]}"), "qcow2", "virtio", f"{n}")
            for n in range(many)
        ),
        nics=tuple(NicFacts(f"00:0c:29:00:00:{n:02x}", "virtio") for n in range(nics)),
        topology=Topology(2, 2, 1) if many == 1 else None,
        firmware="bios" if firmware == "bios" else "uefi",
        secure_boot=firmware == "secure",
        tpm="tpm-crb" if firmware == "secure" else None,
        cdrom=many > 1,
        sound="ich9" if many > 1 else None,
        os_id="http://microsoft.com/win/2k22" if many > 1 else None,
    )
    choices = Choices(
        bus=bus,
        bootstrap_bus="ide" if machine == "pc" else "sata",
        boot_disk=many - 1,
        nic_model="virtio" if many == 1 else "e1000e",
        scratch=None if bus == "sata" else Path("/var/lib/libvirt/images/guest.h2k/scratch.qcow2"),
        driver_iso=Path("/usr/share/virtio-win/virtio-win.iso"),
        firmware=FIRMWARES[firmware],
        utc=firmware == "secure",
        accelerated=kvm,
    )
    return facts, choices


BUSES = ("virtio", "virtio-scsi", "sata")
KINDS = [("bios", "q35"), ("secure", "q35"), ("bios", "pc")]
CASES = {
    f"{firmware}-{machine}-{bus}-{many}": make(firmware, machine, bus, many, many)
    for (firmware, machine), bus, many in itertools.product(KINDS, BUSES, (1, 3))
}
CASES.update(
    {
        "uefi-q35-virtio-1": make("uefi", "q35", "virtio", 1, 1),
        "uefi-q35-virtio-3": make("uefi", "q35", "virtio", 3, 3),
        "uefi-pc-virtio-1": make("uefi", "pc", "virtio", 1, 1),
        "bios-q35-virtio-1-tcg": make("bios", "q35", "virtio", 1, 1, kvm=False),
    }
)
PHASES = {"bootstrap": bootstrap_xml, "final": final_xml}


@pytest.fixture(scope="module")
def schema() -> etree.RelaxNG:
    if not SCHEMA.exists():
        pytest.fail(f"{SCHEMA} is missing: install libvirt's schemas (Debian: libvirt0)")
    return etree.RelaxNG(etree.parse(str(SCHEMA)))


def both(facts: DomainFacts, choices: Choices) -> tuple[etree._Element, etree._Element]:
    return etree.fromstring(bootstrap_xml(facts, choices)), etree.fromstring(final_xml(facts, choices))


def attributes(element: etree._Element) -> dict[str, str]:
    return {str(key): str(value) for key, value in element.attrib.items()}


# Writing


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, phase: str, schema: etree.RelaxNG) -> None:
    xml = PHASES[phase](*CASES[case])
    path = GOLDEN / f"{case}.{phase}.xml"
    if os.environ.get("H2K_REGOLD") == "1":
        path.write_bytes(xml)
    assert xml.decode() == path.read_text(), f"{path.name} differs; H2K_REGOLD=1 writes it anew"
    assert schema.validate(etree.fromstring(xml)), schema.error_log.last_error


def test_no_golden_file_is_left_over() -> None:
    assert {p.name for p in GOLDEN.glob("*.xml")} == {f"{case}.{phase}.xml" for case in CASES for phase in PHASES}


ALL = [
    (firmware, machine, bus, disks, nics, kvm)
    for firmware, machine, bus, disks, nics, kvm in itertools.product(
        FIRMWARES, ("q35", "pc"), BUSES, (1, 3, 13), (0, 1, 3), (True, False)
    )
    if (firmware, machine) != ("secure", "pc")
]


def test_every_combination_is_valid_and_one_machine(schema: etree.RelaxNG) -> None:
    for combination in ALL:
        facts, choices = make(*combination)
        bootstrap, final = both(facts, choices)
        for domain in (bootstrap, final):
            assert schema.validate(domain), (combination, schema.error_log.last_error)
            addresses = [
                tuple(sorted(attributes(a).items()))
                for a in domain.findall("devices/*/address[@type='pci']")
            ]
            assert len(addresses) == len({tuple((k, v) for k, v in a if k != "multifunction") for a in addresses})
            targets = [t.get("dev") for t in domain.findall("devices/disk/target")]
            assert len(targets) == len(set(targets))
            places = [
                (d.find("target").get("bus"), tuple(sorted(attributes(d.find("address")).items())))
                for d in domain.findall("devices/disk")
            ]
            assert len(places) == len(set(places))
        assert_one_machine(bootstrap, final)


def assert_one_machine(bootstrap: etree._Element, final: etree._Element) -> None:
    """What must not differ between the phases, or Windows would meet another machine."""
    for tag in ("name", "uuid", "memory", "vcpu"):
        assert bootstrap.findtext(tag) == final.findtext(tag)
    for path in ("os", "cpu", "devices/tpm", "devices/video", "devices/serial", "features/smm"):
        first, second = bootstrap.find(path), final.find(path)
        assert (first is None) == (second is None)
        if first is not None:
            assert etree.tostring(first, method="c14n") == etree.tostring(second, method="c14n")
    assert nics(bootstrap) == nics(final)
    assert pci_bridges(bootstrap) == pci_bridges(final)
    assert [d.find("source").attrib for d in boot_disks(bootstrap)] == [d.find("source").attrib for d in boot_disks(final)]


def nics(domain: etree._Element) -> list[tuple[Any, ...]]:
    return [
        (attributes(nic.find("mac")), attributes(nic.find("address")), attributes(nic.find("source")))
        for nic in domain.findall("devices/interface")
    ]


def pci_bridges(domain: etree._Element) -> list[bytes]:
    return [etree.tostring(c, method="c14n").strip() for c in domain.findall("devices/controller[@type='pci']")]


def boot_disks(domain: etree._Element) -> list[etree._Element]:
    disks = [d for d in domain.findall("devices/disk") if d.find("boot") is not None]
    assert [d.find("boot").get("order") for d in disks] == ["1"]
    return disks


@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_scratch_disk_sits_where_the_boot_disk_will(machine: str) -> None:
    bootstrap, final = both(*make("bios", machine, "virtio", 3, 1))
    scratch = bootstrap.find("devices/disk/target[@bus='virtio']/..")
    assert scratch.find("source").get("file").endswith("scratch.qcow2")
    assert attributes(scratch.find("address")) == attributes(boot_disks(final)[0].find("address"))

    bootstrap, final = both(*make("bios", machine, "virtio-scsi", 3, 1))
    controllers = [d.find("devices/controller[@type='scsi']") for d in (bootstrap, final)]
    assert controllers[0].get("model") == "virtio-scsi"
    assert next(attributes(c.find("address")) for c in controllers) == attributes(controllers[1].find("address"))
    assert bootstrap.find("devices/disk/target[@bus='scsi']/../source").get("file").endswith("scratch.qcow2")


def test_bootstrap_links_are_down_and_final_ones_up_unless_asked() -> None:
    facts, choices = make("bios", "q35", "virtio", 1, 3)
    down = "devices/interface/link[@state='down']"
    bootstrap, final = both(facts, choices)
    assert len(bootstrap.findall(down)) == 3 and not final.findall(down)
    assert not etree.fromstring(bootstrap_xml(facts, choices, links_up=True)).findall(down)
    assert len(etree.fromstring(final_xml(facts, choices, links_up=False)).findall(down)) == 3


def test_nothing_of_the_bootstrap_alone_is_in_final() -> None:
    facts, choices = make("bios", "q35", "virtio", 1, 1)
    final = final_xml(facts, choices)
    assert b"scratch" not in final and b".iso" not in final and b"e1000" not in final and b"cdrom" not in final


def test_final_alone_has_enlightenments_agent_and_balloon() -> None:
    bootstrap, final = both(*make("bios", "q35", "virtio", 1, 1))
    agent = "devices/channel/target[@name='org.qemu.guest_agent.0']"
    for path in ("features/hyperv", "clock/timer[@name='hypervclock']", agent, "devices/memballoon[@model='virtio']"):
        assert final.find(path) is not None and bootstrap.find(path) is None, path
    assert final.find("features/hyperv/spinlocks").get("retries") == "8191"


def test_without_kvm_nothing_that_only_kvm_has() -> None:
    for domain in both(*make("bios", "q35", "virtio", 1, 1, kvm=False)):
        assert domain.get("type") == "qemu" and domain.find("cpu").get("mode") == "maximum"
        assert domain.find("features/hyperv") is None and domain.find("clock/timer[@name='hypervclock']") is None


@pytest.mark.parametrize("utc, offset", [(True, "utc"), (False, "localtime")])
def test_clock_follows_real_time_is_universal(utc: bool, offset: str) -> None:
    facts, choices = make("bios", "q35", "virtio", 1, 1)
    for domain in both(facts, dataclasses.replace(choices, utc=utc)):
        assert domain.find("clock").get("offset") == offset


def test_ide_bootstrap_leaves_data_disks_out() -> None:
    bootstrap, final = both(*make("bios", "pc", "virtio", 5, 1))
    ide = [d.get("device") for d in bootstrap.findall("devices/disk") if d.find("target").get("bus") == "ide"]
    assert ide == ["disk", "cdrom"]
    assert len(final.findall("devices/disk[@device='disk']")) == 5


def test_the_iso_drive_is_final_s_empty_one_when_the_source_had_one() -> None:
    bootstrap, final = (d.find("devices/disk[@device='cdrom']") for d in both(*make("bios", "q35", "virtio", 3, 1)))
    assert bootstrap.find("source") is not None and final.find("source") is None
    assert attributes(bootstrap.find("address")) == attributes(final.find("address"))


def test_nvram_path_is_kept() -> None:
    facts, choices = make("uefi", "q35", "virtio", 1, 1)
    facts = dataclasses.replace(facts, nvram=Path("/var/lib/libvirt/qemu/nvram/guest_VARS.fd"))
    for domain in both(facts, choices):
        assert domain.findtext("os/nvram") == "/var/lib/libvirt/qemu/nvram/guest_VARS.fd"
        assert domain.find("os/nvram").get("template") == str(PLAIN.template)


@pytest.mark.parametrize("kind, key", [("bridge", "bridge"), ("direct", "dev")])
def test_network_kinds(kind: str, key: str, schema: etree.RelaxNG) -> None:
    facts, choices = make("bios", "q35", "virtio", 1, 1)
    facts = dataclasses.replace(facts, nics=(dataclasses.replace(facts.nics[0], kind=kind, source="br0"),))
    for domain in both(facts, choices):
        assert domain.find("devices/interface/source").get(key) == "br0"
        assert schema.validate(domain)


def test_block_device_and_serial_file(schema: etree.RelaxNG) -> None:
    facts, choices = make("bios", "q35", "virtio", 1, 1)
    facts = dataclasses.replace(facts, disks=(DiskFacts(Path("/dev/vg/lv"), "raw", "virtio", "vda"),))
    for domain in both(facts, dataclasses.replace(choices, serial=Path("/var/log/com1"))):
        assert domain.find("devices/disk/source[@dev='/dev/vg/lv']/..").get("type") == "block"
        assert domain.find("devices/serial/source").get("path") == "/var/log/com1"
        assert schema.validate(domain)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"name": "a/b"}, "no domain name"),
        ({"name": ""}, "no domain name"),
        ({"name": "a\x01b"}, "can't be written"),
        ({"disks": (DiskFacts(None, None, "virtio", "vda"),)}, "no file"),
        ({"disks": ()}, "boot disk"),
        ({"disks": (DiskFacts(Path("/a\udc80"), "raw", "virtio", "vda"),)}, "can't be written"),
        ({"nics": (NicFacts("52:54:00:00:00:01"),) * 33}, "more than"),
    ],
)
def test_refused(change: dict[str, Any], words: str) -> None:
    facts, choices = make("bios", "q35", "virtio", 1, 1)
    with pytest.raises(Refused, match=words):
        bootstrap_xml(dataclasses.replace(facts, **change), choices)


def test_secure_boot_on_i440fx_is_refused() -> None:
    with pytest.raises(Refused, match="q35"):
        final_xml(*make("secure", "pc", "virtio", 1, 1))


def test_full_pci_bus_is_refused_with_the_way_out() -> None:
    with pytest.raises(Refused, match="virtio-scsi"):
        final_xml(*make("bios", "pc", "virtio", 40, 1))
    assert final_xml(*make("bios", "pc", "virtio-scsi", 40, 1))
    assert final_xml(*make("bios", "q35", "virtio", 64, 32))
    assert bootstrap_xml(*make("bios", "q35", "sata", 64, 32))


def test_programming_errors() -> None:
    facts, choices = make("uefi", "q35", "virtio", 1, 1)
    with pytest.raises(ValueError, match="complete"):
        final_xml(dataclasses.replace(facts, uuid=None), choices)
    with pytest.raises(ValueError, match="choose_firmware"):
        final_xml(facts, dataclasses.replace(choices, firmware=None))
    with pytest.raises(ValueError, match="bus"):
        Choices(bus="ide")


# UUID and MACs


def test_complete_is_idempotent_through_the_earlier_bootstrap() -> None:
    facts, choices = make("bios", "q35", "virtio", 1, 3)
    bare = dataclasses.replace(facts, uuid=None, nics=(facts.nics[0], NicFacts(None), NicFacts(None)))
    first = complete(bare)
    assert first.nics[0].mac == "00:0c:29:00:00:00"
    assert all(n.mac is not None and n.mac.startswith("52:54:00:") for n in first.nics[1:])
    previous = read_domain_xml(bootstrap_xml(first, choices), "bootstrap.xml")
    assert complete(bare, previous) == first
    assert complete(first) == first
    assert complete(dataclasses.replace(bare, name="other"), previous).uuid != first.uuid


def test_complete_gives_no_mac_twice() -> None:
    facts, _ = make("bios", "q35", "virtio", 1, 2)
    previous = dataclasses.replace(facts, nics=(facts.nics[1], facts.nics[1]))
    done = complete(dataclasses.replace(facts, nics=(facts.nics[1], NicFacts(None))), previous)
    assert done.nics[0].mac != done.nics[1].mac


# Firmware


def descriptor(directory: Path, name: str, features: list[str], machines: Any = None, **mapping: Any) -> Path:
    directory.mkdir(exist_ok=True)
    code, variables = directory / f"{name}.code", directory / f"{name}.vars"
    code.touch()
    variables.touch()
    (directory / f"{name}.json").write_text(
        json.dumps(
            {
                "interface-types": ["uefi"],
                "mapping": {
                    "device": "flash",
                    "executable": {"filename": str(code), "format": "raw"},
                    "nvram-template": {"filename": str(variables), "format": "raw"},
                    **mapping,
                },
                "targets": [{"architecture": "x86_64", "machines": machines or ["pc-q35-*"]}],
                "features": features,
            }
        )
    )
    return code


def test_firmware_by_secure_boot_and_machine(tmp_path: Path) -> None:
    enrolled = descriptor(tmp_path, "40", ["secure-boot", "enrolled-keys", "requires-smm"])
    descriptor(tmp_path, "50", ["secure-boot", "requires-smm"])
    plain = descriptor(tmp_path, "60", [], ["pc-q35-*", "pc-i440fx-*"])
    assert choose_firmware([tmp_path], secure_boot=True) == Firmware(enrolled, tmp_path / "40.vars", True)
    assert choose_firmware([tmp_path]).loader == plain
    assert choose_firmware([tmp_path], machine="pc").loader == plain
    with pytest.raises(Refused, match="Secure Boot keys for pc"):
        choose_firmware([tmp_path], secure_boot=True, machine="pc")


def test_firmware_that_can_leave_secure_boot_off_is_second_choice(tmp_path: Path) -> None:
    descriptor(tmp_path, "40", ["secure-boot", "enrolled-keys", "requires-smm"])
    unenrolled = descriptor(tmp_path, "50", ["secure-boot", "requires-smm"])
    assert choose_firmware([tmp_path]) == Firmware(unenrolled, tmp_path / "50.vars", True)


def test_firmware_directories_override_and_mask(tmp_path: Path) -> None:
    own, packaged = tmp_path / "own", tmp_path / "packaged"
    descriptor(packaged, "40", [])
    other = descriptor(packaged, "60", [])
    mine = descriptor(own, "40", [])
    assert choose_firmware([own, packaged]).loader == mine
    (own / "40.json").write_text("")
    assert choose_firmware([own, packaged]).loader == other


@pytest.mark.parametrize(
    "mapping",
    [
        {"mode": "stateless"},
        {"device": "memory"},
        {"executable": {"filename": "/nowhere/code.fd", "format": "raw"}},
        {"executable": 1},
        {"nvram-template": {"filename": "x", "format": "qcow2"}},
    ],
)
def test_firmware_that_does_not_fit(tmp_path: Path, mapping: dict[str, Any]) -> None:
    descriptor(tmp_path, "40", [], None, **mapping)
    with pytest.raises(Refused, match="ovmf"):
        choose_firmware([tmp_path])


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, "\udc80"])
def test_bad_descriptor_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "40.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BadData, match=r"40\.json"):
        choose_firmware([tmp_path])


def test_no_descriptor_directory(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="ovmf"):
        choose_firmware([tmp_path / "none"])


# Reading libvirt's XML

V2V_XML = b"""<?xml version='1.0' encoding='utf-8'?>
<domain type='kvm'>
  <!-- generated by virt-v2v 2.2.0rhel=9 -->
  <name>web01</name>
  <metadata>
    <libosinfo:libosinfo xmlns:libosinfo='http://libosinfo.org/xmlns/libvirt/domain/1.0'>
      <libosinfo:os id='http://microsoft.com/win/2k22'/>
    </libosinfo:libosinfo>
  </metadata>
  <memory unit='MiB'>2048</memory>
  <currentMemory unit='KiB'>2097152</currentMemory>
  <vcpu>4</vcpu>
  <cpu><topology sockets='2' cores='2' threads='1'/></cpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <loader readonly='yes' type='pflash' secure='yes'>/usr/share/OVMF/OVMF_CODE.secboot.fd</loader>
    <nvram template='/usr/share/OVMF/OVMF_VARS.fd'/>
  </os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='/out/web01-sda'/>
      <target dev='vda' bus='virtio'/>
      <boot order='1'/>
    </disk>
    <disk type='network' device='disk'><target dev='vdb' bus='virtio'/></disk>
    <disk device='cdrom' type='file'><target dev='sda' bus='sata'/></disk>
    <interface type='network'>
      <source network='VM Network'/><model type='virtio'/><mac address='00:0C:29:AA:BB:CC'/>
    </interface>
    <interface type='bridge'><source bridge='br0'/><model type='e1000'/>
      <address type='pci' domain='0' bus='0' slot='0x03' function='0'/></interface>
    <interface type='vhostuser'><source type='unix' path='/x'/></interface>
    <tpm model='tpm-crb'/>
    <graphics type='vnc'/>
    <video><model type='qxl'/></video>
  </devices>
</domain>
"""


def test_virt_v2v_domain() -> None:
    assert read_domain_xml(V2V_XML, "web01.xml") == DomainFacts(
        name="web01",
        memory=2 * 2**30,
        vcpus=4,
        topology=Topology(2, 2, 1),
        firmware="uefi",
        secure_boot=True,
        tpm="tpm-crb",
        nvram_template=Path("/usr/share/OVMF/OVMF_VARS.fd"),
        disks=(
            DiskFacts(Path("/out/web01-sda"), "qcow2", "virtio", "vda", 1),
            DiskFacts(None, None, "virtio", "vdb"),
        ),
        nics=(
            NicFacts("00:0c:29:aa:bb:cc", "virtio", "network", "VM Network"),
            NicFacts(None, "e1000", "bridge", "br0", 3),
            NicFacts(None, None, "network", "default"),
        ),
        cdrom=True,
        graphics="vnc",
        video="qxl",
        os_id="http://microsoft.com/win/2k22",
    )


@pytest.mark.parametrize("case", CASES)
def test_our_own_domains_read_back(case: str) -> None:
    facts, choices = CASES[case]
    seen = read_domain_xml(final_xml(facts, choices), "final.xml")
    for field in ("name", "uuid", "memory", "vcpus", "firmware", "tpm", "cdrom", "os_id"):
        assert getattr(seen, field) == getattr(facts, field), field
    assert [d.path for d in seen.disks] == [d.path for d in facts.disks]
    assert [n.mac for n in seen.nics] == [n.mac for n in facts.nics]
    assert seen.secure_boot == facts.secure_boot


def test_firmware_autoselection() -> None:
    xml = b"<domain><name>a</name><memory>9999</memory><os firmware='efi'>%s</os></domain>"
    feature = b"<firmware><feature enabled='yes' name='secure-boot'/></firmware>"
    assert read_domain_xml(xml % b"", "a.xml").secure_boot is False
    facts = read_domain_xml(xml % feature, "a.xml")
    assert (facts.firmware, facts.secure_boot) == ("uefi", True)


def in_domain(inner: bytes) -> bytes:
    return b"<domain>\n<name>a</name><memory>1024</memory>\n" + inner + b"</domain>"


BAD_XML = {
    "empty": (b"", "no XML"),
    "random": (b"\x00\xff\x13" * 99, "no XML"),
    "truncated": (V2V_XML[:700], "no XML"),
    "other root": (b"<network/>", "<network>"),
    "doctype": (b'<!DOCTYPE domain [<!ENTITY a SYSTEM "file:///etc/passwd">]><domain>&a;</domain>', "document type"),
    "doctype in UTF-16": ('<!DOCTYPE domain [<!ENTITY a "b">]><domain>&a;</domain>'.encode("utf-16"), "document type"),
    "unknown entity": (in_domain(b"&a;"), "no XML"),
    "deep": (b"<domain>" + b"<a>" * 5000, "no XML"),
    "too large": (b" " * (5 * 2**20), "larger than"),
    "no name": (b"<domain><memory>1</memory></domain>", "no <name>"),
    "no memory": (b"<domain><name>a</name></domain>", "no <memory>"),
    "negative memory": (b"<domain><name>a</name><memory>-1</memory></domain>", "a.xml:1: <memory>"),
    "huge memory": (b"<domain><name>a</name><memory unit='T'>99999999</memory></domain>", "bytes of memory"),
    "unit": (b"<domain><name>a</name><memory unit='parsec'>1</memory></domain>", "parsec"),
    "uuid": (in_domain(b"<uuid>x</uuid>"), "a.xml:3: <uuid>"),
    "vcpu": (in_domain(b"<vcpu>0</vcpu>"), "<vcpu>"),
    "mac": (in_domain(b"<devices><interface><mac address='xx'/></interface></devices>"), "a.xml:3.*no MAC"),
    "multicast": (in_domain(b"<devices><interface><mac address='01:0c:29:0:0:0'/></interface></devices>"), "no MAC"),
    "slot": (in_domain(b"<devices><interface><address type='pci' slot='-1'/></interface></devices>"), "slot"),
    "no target": (in_domain(b"<devices><disk/></devices>"), "no <target"),
    "many disks": (in_domain(b"<devices>" + b"<disk><target dev='a'/></disk>" * 99 + b"</devices>"), "64 disks"),
    "many cards": (in_domain(b"<devices>" + b"<interface/>" * 99 + b"</devices>"), "32 network"),
    "long value": (b"<domain><name>" + b"a" * 5000 + b"</name></domain>", "4096"),
    "topology": (in_domain(b"<cpu><topology cores='x'/></cpu>"), "<topology>"),
}


@pytest.mark.parametrize("case", BAD_XML)
def test_bad_xml(case: str) -> None:
    data, words = BAD_XML[case]
    with pytest.raises(BadData, match=words) as caught:
        read_domain_xml(data, "a.xml")
    assert str(caught.value).startswith("a.xml") and "\n" not in str(caught.value)


# Reading VMX

VMX = b"""#!/usr/bin/vmware
.encoding = "windows-1252"
config.version = "8"
displayName = "K\xf6ln |22a|22"
MemSize = "4096"
numvcpus = "4"
cpuid.coresPerSocket = "2"
firmware = "efi"
uefi.secureBoot.enabled = "TRUE"
vtpm.present = "TRUE"
uuid.bios = "56 4d 12 34 56 78 9a bc-de f0 12 34 56 78 9a bc"
annotation = "two|0Alines"
bios.hddOrder = "scsi0:1"
ide1:0.present = "TRUE"
ide1:0.fileName = "d.vmdk"
sata0:0.present = "TRUE"
sata0:0.fileName = "auto detect"
sata0:0.deviceType = "cdrom-raw"
nvme0:0.present = "TRUE"
nvme0:0.fileName = "c.vmdk"
scsi0.present = "TRUE"
scsi0:10.present = "TRUE"
scsi0:10.fileName = "b.vmdk"
scsi0:1.present = "true"
scsi0:1.fileName = "/vmfs/volumes/a.vmdk"
scsi0:2.present = "FALSE"
scsi0:2.fileName = "gone.vmdk"
ethernet0.present = "TRUE"
ethernet0.virtualDev = "vmxnet3"
ethernet0.networkName = "VM Network"
ethernet0.addressType = "generated"
ethernet0.generatedAddress = "00:0C:29:AA:BB:CC"
ethernet0.address = "00:50:56:00:00:01"
ethernet0.pciSlotNumber = "192"
ethernet1.present = "TRUE"
ethernet1.addressType = "static"
ethernet1.address = "00:50:56:00:00:02"
ethernet2.present = "FALSE"
""".replace(b"\n", b"\r\n")


def test_vmx() -> None:
    assert read_vmx(VMX, "a.vmx") == DomainFacts(
        name='Köln "a"',
        uuid="564d1234-5678-9abc-def0-123456789abc",
        memory=4 * 2**30,
        vcpus=4,
        topology=Topology(2, 2, 1),
        firmware="uefi",
        secure_boot=True,
        tpm="tpm-crb",
        disks=(
            DiskFacts(Path("/vmfs/volumes/a.vmdk"), "vmdk", "scsi", "scsi0:1", 1),
            DiskFacts(Path("b.vmdk"), "vmdk", "scsi", "scsi0:10"),
            DiskFacts(Path("c.vmdk"), "vmdk", "nvme", "nvme0:0"),
            DiskFacts(Path("d.vmdk"), "vmdk", "ide", "ide1:0"),
        ),
        nics=(
            NicFacts("00:0c:29:aa:bb:cc", "vmxnet3", "network", "VM Network", 192),
            NicFacts("00:50:56:00:00:02", None, "network", "default"),
        ),
        cdrom=True,
    )


def test_vmx_defaults() -> None:
    facts = read_vmx(b'displayname="a"', "a.vmx")
    assert (facts.memory, facts.vcpus, facts.firmware, facts.tpm) == (32 * 2**20, 1, "bios", None)
    assert read_vmx(b"config.version = 8\n", "/x/web.vmx").name == "web"


def test_vmx_virtual_tpm_of_a_managed_guest_and_sound() -> None:
    facts = read_vmx(b'memsize = "64"\nmanagedVM.autoAddVTPM = "software"\nsound.present = "TRUE"\n', "a.vmx")
    assert (facts.tpm, facts.sound) == ("tpm-crb", "es1371")


BAD_VMX = {
    "empty": (b"", "not a VMX"),
    "binary": (b"KDMV\x01\x00\xff\xfe", "a.vmx:1"),
    "random text": (b"hello\nworld", "a.vmx:1"),
    "other keys": (b'a = "b"\n', "not a VMX"),
    "truncated": (b'displayName = "a"\nmemsize = "40', "a.vmx:2"),
    "twice": (b'memsize = "1"\n\nmemsize = "2"\n', "a.vmx:3.*line 1"),
    "memory": (b'memsize = "much"\n', "a.vmx:1: memsize"),
    "huge memory": (b'memsize = "99999999999999999999"\n', "memsize"),
    "cpus": (b'memsize = "1"\nnumvcpus = "0"\n', "a.vmx:2: numvcpus"),
    "encoding": (b'.encoding = "rot13"\n', "rot13"),
    "not utf-8": (b'displayName = "a"\nb = "\xff"\n', "a.vmx:2: not utf-8"),
    "control": (b'displayName = "a|00b"\n', "a.vmx:1: displayname"),
    "long name": (b'displayName = "' + b"a" * 5000 + b'"\n', "4096"),
    "too large": (b"#" * (2 * 2**20), "larger than"),
    "lines": (b"\n" * 30_000, "lines"),
    "mac": (b'memsize = "1"\nethernet0.present = "1"\nethernet0.address = "ff:ff:ff:ff:ff:ff"\n', "a.vmx:3.*MAC"),
    "slot": (b'memsize = "1"\nethernet0.present = "1"\nethernet0.pciSlotNumber = "-1"\n', "a.vmx:3"),
    "many cards": (b'memsize="1"\n' + b"".join(b'ethernet%d.present="1"\n' % n for n in range(40)), "32 network"),
    "many disks": (b'memsize="1"\n' + b"".join(b'scsi0:%d.fileName="x"\n' % n for n in range(99)), "64 disks"),
}


@pytest.mark.parametrize("case", BAD_VMX)
def test_bad_vmx(case: str) -> None:
    data, words = BAD_VMX[case]
    with pytest.raises(BadData, match=words) as caught:
        read_vmx(data, "a.vmx")
    assert str(caught.value).startswith("a.vmx") and "\n" not in str(caught.value)


def test_cores_that_do_not_divide_the_cpus_are_dropped() -> None:
    assert read_vmx(b'memsize = "1"\nnumvcpus = "4"\ncpuid.coresPerSocket = "3"\n', "a.vmx").topology is None


def mutated(data: bytes) -> st.SearchStrategy[bytes]:
    """The data with some pieces overwritten, cut out or doubled."""

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        changed = data
        for start, length, piece in edits:
            changed = changed[:start] + piece + changed[start + length :]
        return changed

    edit = st.tuples(st.integers(0, len(data)), st.integers(0, 40), st.binary(max_size=8) | st.sampled_from(
        [b'"', b"<", b">", b"\0", b"\n", b"-1", b"9" * 30, b"=", b"&x;", b"|00", b"\xff"]
    ))  # fmt: skip
    return st.lists(edit, max_size=4).map(apply)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=300) | mutated(VMX))
def test_any_vmx_gives_facts_or_bad_data(data: bytes) -> None:
    facts_or_bad_data(read_vmx, data)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=300) | mutated(V2V_XML))
def test_any_xml_gives_facts_or_bad_data(data: bytes) -> None:
    facts_or_bad_data(read_domain_xml, data)


def facts_or_bad_data(read: Any, data: bytes) -> None:
    """Whatever was read can be written, or is refused; nothing else may be raised."""
    try:
        facts = complete(read(data, "a"))
    except BadData as bad:
        assert str(bad).startswith("a")
        return
    with contextlib.suppress(Refused):
        final_xml(facts, Choices(firmware=PLAIN))
