"""The two domains: golden XML, libvirt's schema, one machine in two phases."""

from __future__ import annotations

import dataclasses
import itertools
import os
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from h2k.base.errors import Refused
from h2k.domain.facts import DiskFacts, DomainFacts, NicFacts
from h2k.domain.libvirt_writer import GUEST, Choices, bootstrap_xml, final_xml
from tests.unit.machines import BUSES, CASES, FIRMWARES, PLAIN, make

GOLDEN = Path(__file__).parent / "golden"
SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")
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
    (firmware, machine, bus, disks, nics)
    for firmware, machine, bus, disks, nics in itertools.product(FIRMWARES, ("q35", "pc"), BUSES, (1, 3, 13), (0, 1, 3))
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
    for path in ("devices/controller[@type='usb']", "devices/panic", "iothreads", "devices/input"):
        first, second = ([etree.tostring(e, method="c14n").strip() for e in d.findall(path)] for d in (bootstrap, final))
        assert first == second, path
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
    for path in ("features/hyperv/synic", "clock/timer[@name='hypervclock']", agent, "devices/memballoon[@model='virtio']"):
        assert final.find(path) is not None and bootstrap.find(path) is None, path
    assert final.find("features/hyperv/spinlocks").get("retries") == "8191"


def test_what_is_delivered_is_for_kvm() -> None:
    for domain in both(*make("bios", "q35", "virtio", 1, 1)):
        assert domain.get("type") == "kvm" and domain.find("cpu").get("mode") == "host-model"


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


def test_relaxed_alone_in_the_bootstrap() -> None:
    bootstrap, _ = both(*make("bios", "q35", "virtio", 1, 1))
    assert [e.tag for e in bootstrap.find("features/hyperv")] == ["relaxed"]


@pytest.mark.parametrize("bus", BUSES)
def test_what_is_trimmed_goes_back_to_the_host_and_disks_have_a_thread(bus: str) -> None:
    facts, choices = make("bios", "q35", bus, 2, 1)
    facts = dataclasses.replace(facts, disks=(facts.disks[0], dataclasses.replace(facts.disks[1], format="raw")))
    for domain in both(facts, choices):
        drivers = [d.find("driver") for d in domain.findall("devices/disk[@device='disk']")]
        assert {d.get("discard") for d in drivers} == {"unmap"}
        assert {(d.get("type"), d.get("detect_zeroes")) for d in drivers} == {("qcow2", None), ("raw", "unmap")}
        assert domain.find("devices/disk[@device='cdrom']/driver").get("discard") is None
        threads = domain.findall("devices//driver[@iothread='1']")
        assert (domain.findtext("iothreads") == "1") == bool(threads) == (bus != "sata")
    final = both(facts, choices)[1]
    assert len(final.findall("devices/disk/driver[@iothread]")) == (2 if bus == "virtio" else 0)


@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_random_numbers_and_pvpanic_where_their_drivers_are(machine: str) -> None:
    facts, choices = make("bios", machine, "virtio", 1, 1)
    for rng, pvpanic in itertools.product((True, False), repeat=2):
        bootstrap, final = both(facts, dataclasses.replace(choices, rng=rng, pvpanic=pvpanic))
        assert (final.find("devices/rng") is not None) == rng and bootstrap.find("devices/rng") is None
        for domain in (bootstrap, final):
            assert [p.get("model") for p in domain.findall("devices/panic")] == (["isa"] if pvpanic else [])
    places = [
        attributes(both(facts, dataclasses.replace(choices, rng=rng))[1].find("devices/disk/address")) for rng in (True, False)
    ]
    assert places[0] == places[1]


def test_free_ports_for_what_is_plugged_in_later() -> None:
    for domain in both(*make("bios", "q35", "virtio", 3, 2)):
        ports = {c.get("index") for c in domain.findall("devices/controller[@model='pcie-root-port']")}
        used = {str(int(a.get("bus"), 16)) for a in domain.findall("devices/*/address[@type='pci']")}
        assert len(ports - used) >= 4


@pytest.mark.parametrize("machine", ["q35", "pc"])
@pytest.mark.parametrize(("version", "usb3"), [((6, 1), False), ((6, 2), True), ((6, 3), True), ((10, 0), True)])
def test_usb_3_from_windows_8_on(version: tuple[int, int], usb3: bool, machine: str) -> None:
    facts, choices = make("bios", machine, "virtio", 1, 1)
    for domain in both(facts, dataclasses.replace(choices, version=version)):
        models = {c.get("model") for c in domain.findall("devices/controller[@type='usb']")}
        assert models == {"qemu-xhci"} if usb3 else "qemu-xhci" not in models and models


@pytest.mark.parametrize("bus", ["virtio", "virtio-scsi"])
def test_a_boot_disk_with_large_sectors_is_where_it_will_be_from_the_start(bus: str) -> None:
    facts, choices = make("uefi", "q35", bus, 3, 1, sectors=4096)
    bootstrap, final = both(facts, choices)
    disks = [boot_disks(domain)[0] for domain in (bootstrap, final)]
    assert etree.tostring(disks[0].find("address"), method="c14n") == etree.tostring(disks[1].find("address"), method="c14n")
    assert [d.find("target").get("bus") for d in disks] == [bus.replace("virtio-", "")] * 2
    for domain in (bootstrap, final):
        assert [b.get("logical_block_size") for b in domain.findall("devices/disk/blockio")] == ["4096"]
    assert b"scratch" not in etree.tostring(bootstrap)
    assert len(bootstrap.findall("devices/disk/target[@bus='sata']")) == 3  # the data disks and the ISO


def test_a_data_disk_with_large_sectors() -> None:
    facts, choices = make("uefi", "q35", "virtio", 3, 1)
    bootstrap, final = both(facts, dataclasses.replace(choices, sectors={0: 4096}))
    first, second = (d.find("devices/disk/blockio/..") for d in (bootstrap, final))
    assert attributes(first.find("address")) == attributes(second.find("address"))
    assert b"scratch" in etree.tostring(bootstrap)
    with pytest.raises(Refused, match="sector-size-mismatch"):
        bootstrap_xml(facts, dataclasses.replace(choices, bus="sata", scratch=None, sectors={0: 4096}))


def test_the_offset_of_local_time_is_noted() -> None:
    facts, choices = make("bios", "q35", "virtio", 1, 1)
    path = f"metadata/{{{GUEST}}}clock"
    for domain in both(facts, dataclasses.replace(choices, utc_offset=-12600)):
        assert domain.find(path).get("utc-offset") == "-12600"
    for domain in both(facts, dataclasses.replace(choices, utc_offset=3600, utc=True)):
        assert domain.find(path) is None


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
        ({"name": "a/b"}, "domain-name-invalid"),
        ({"name": ""}, "domain-name-invalid"),
        ({"name": "a\x01b"}, "domain-name-invalid"),
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
