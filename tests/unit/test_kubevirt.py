"""virt-v2v's KubeVirt YAML read, and ours written (golden)."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from h2k.base.errors import BadData, Refused, UsageError
from h2k.domain.facts import NicFacts, complete, remembered, with_a_card, with_source
from h2k.domain.handles import open_guest_files
from h2k.domain.kubevirt import machine, read_target, write_machines
from h2k.domain.libvirt_reader import read_domain_xml
from h2k.domain.libvirt_writer import Choices, bootstrap_xml, final_xml
from tests.guests.stand_in_outputs import MAC, MACHINE
from tests.unit.helpers import many

GOLDEN = Path(__file__).parent / "golden"
DOMAINS = sorted(p for p in GOLDEN.glob("*-q35-*.xml"))


def v2v_yaml(**changes: str) -> bytes:
    disk, volume = "{disk: {bus: virtio}, name: disk-0}", "{hostDisk: {path: /out/g-sda, type: Disk}, name: disk-0}"
    return MACHINE.format(**{"name": "g", "disks": disk, "volumes": volume, "mac": MAC, **changes}).encode()


def test_virt_v2vs_machine_is_read(tmp_path: Path) -> None:
    found = read_target(v2v_yaml(), "g.yaml", tmp_path, tmp_path / "g.h2k")
    assert found.images == ((Path("/out/g-sda"), None),)
    facts = found.domain
    assert facts is not None
    assert (facts.name, facts.memory, facts.vcpus, facts.firmware) == ("g", 2048 << 20, 2, "uefi")
    assert facts.nics == (NicFacts(MAC),) and facts.os_id == "http://microsoft.com/win/2k22"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: VirtualMachine", "kind: Pod", "no VirtualMachine"),
        ("memory: 2048Mi", "memory: lots", "not an amount of memory"),
        ("memory: 2048Mi", "memory: 99999999Ti", "not an amount of memory"),
        ("cores: 2", "cores: [2]", "not a number"),
        ("cores: 2", "cores: 99999", "not a number"),
        ("kind: Virt", "kind: {Virt", "no YAML"),
        ("metadata:", "metadata: " + "[" * 5000, "no YAML"),
    ],
)
def test_what_is_no_machine_of_virt_v2v(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=message):
        read_target(v2v_yaml().replace(old.encode(), new.encode()), "g.yaml", tmp_path, tmp_path)


def test_the_disks_that_virt_v2v_leaves_out_are_those_beside_its_yaml(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It writes only disks on virtio-blk into the YAML."""
    for name in ("g-sda", "g-sdb", "g-sdd", "g-sda.bak", "other-sda"):
        (tmp_path / name).touch()
    text = v2v_yaml(disks="", volumes="")
    for document in (text, text.replace(b"          disks: []\n", b"").replace(b"      volumes: []\n", b"")):
        found = read_target(document, f"{tmp_path}/g.yaml", tmp_path, tmp_path / "g.h2k")
        assert found.images == ((tmp_path / "g-sda", None), (tmp_path / "g-sdb", None)) and found.beside
        assert "names no disk" in caplog.text and "g-sdb" in caplog.text
        assert found.domain is not None and [disk.path for disk in found.domain.disks] == [tmp_path / "g-sda", tmp_path / "g-sdb"]
    facts = complete(found.domain)
    for phase, write in (("bootstrap", bootstrap_xml), ("final", final_xml)):
        choices = Choices(bus="virtio-scsi", scratch=tmp_path / "scratch.qcow2")
        spec = machine(write(dataclasses.replace(facts, firmware="bios"), choices), phase)["spec"]["template"]["spec"]
        disks, volumes = spec["domain"]["devices"]["disks"], {v["name"]: v.get("hostDisk", {}).get("path") for v in spec["volumes"]}
        told = [(volumes[disk["name"]], disk["disk"]["bus"]) for disk in disks if disk["name"] != "scratch"]
        bus = "scsi" if phase == "final" else "sata"
        assert told == [(str(tmp_path / "g-sda"), bus), (str(tmp_path / "g-sdb"), bus)]


def test_a_yaml_without_disks_and_without_disks_beside_it_says_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "g-sdb").touch()
    with pytest.raises(UsageError, match=r"names no disk.*g-sda is not beside it.*h2k fix DISK") as error:
        read_target(v2v_yaml(disks="", volumes=""), "g.yaml", tmp_path, tmp_path)
    assert "--bus virtio-scsi" in error.value.hint
    given = read_target(v2v_yaml(disks="", volumes=""), "g.yaml", tmp_path, tmp_path, disks=[Path("/pool/one")])
    assert given.images == ((Path("/pool/one"), None),) and not given.beside


def test_disks_that_are_no_files_are_not_sought_beside_the_yaml(tmp_path: Path) -> None:
    (tmp_path / "g-sda").touch()
    with pytest.raises(UsageError, match="names no disk image file"):
        read_target(v2v_yaml(volumes=""), "g.yaml", tmp_path, tmp_path)


@pytest.mark.parametrize(("given", "bus"), [("virtio", "virtio"), ("scsi", "virtio-scsi"), ("sata", "sata"), ("[1]", "virtio")])
def test_the_bus_of_a_disk(given: str, bus: str, tmp_path: Path) -> None:
    found = read_target(v2v_yaml(disks=f"{{disk: {{bus: {given}}}, name: disk-0}}"), "g.yaml", tmp_path, tmp_path)
    assert found.domain is not None and [disk.bus for disk in found.domain.disks] == [bus]


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("name disk bus hostDisk path networkName multus".split()), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@many
@given(ANY, st.sampled_from([("disks",), ("interfaces",), ("volumes",), ("networks",), ("cpu",), ("firmware",), ("resources",), ("devices",), ("template",)]))
def test_any_machine(value: Any, where: tuple[str]) -> None:
    content = yaml.safe_load(v2v_yaml())
    for holder in (content["spec"], content["spec"]["template"]["spec"], content["spec"]["template"]["spec"]["domain"], content["spec"]["template"]["spec"]["domain"]["devices"]):
        if where[0] in holder:
            holder[where[0]] = value
    with contextlib.suppress(BadData, UsageError):
        read_target(yaml.safe_dump(content).encode(), "g.yaml", Path("/b"), Path("/s"))


CASES = ("uefi-q35-virtio-3", "bios-q35-virtio-scsi-1", "secure-q35-sata-1")


@pytest.mark.parametrize("path", [p for p in DOMAINS if p.stem.partition(".")[0] in CASES], ids=lambda p: p.stem)
def test_golden_machines(path: Path) -> None:
    text = yaml.safe_dump(machine(path.read_bytes(), path.stem.rpartition(".")[2]), sort_keys=False)
    golden = path.with_suffix(".yaml")
    if os.environ.get("H2K_REGOLD") == "1":
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("path", [p for p in DOMAINS if ".bootstrap" in p.name and "4kn" not in p.name], ids=lambda p: p.stem)
def test_both_phases_are_one_machine(path: Path) -> None:
    final = path.with_name(path.name.replace(".bootstrap", ".final"))
    first, second = machine(path.read_bytes(), "bootstrap"), machine(final.read_bytes(), "final")
    assert first["metadata"]["name"] == second["metadata"]["name"]
    one, other = (m["spec"]["template"]["spec"]["domain"] for m in (first, second))
    assert one["firmware"] == other["firmware"] and one["memory"] == other["memory"]
    assert [n["macAddress"] for n in one["devices"]["interfaces"]] == [n["macAddress"] for n in other["devices"]["interfaces"]]
    buses = [[d["disk"]["bus"] for d in m["devices"]["disks"] if d["name"] != "scratch"] for m in (one, other)]
    assert set(buses[0]) == {"sata"} and len(buses[0]) == len(buses[1])
    for content in (first, second):
        spec = content["spec"]["template"]["spec"]
        assert [d["name"] for d in spec["domain"]["devices"]["disks"]] == [v["name"] for v in spec["volumes"]]
        assert [n["name"] for n in spec["domain"]["devices"]["interfaces"]] == [n["name"] for n in spec["networks"]]
        assert [d.get("bootOrder") for d in spec["domain"]["devices"]["disks"]].count(1) == 1


def test_what_can_only_start_from_ide() -> None:
    with pytest.raises(Refused, match="only start from IDE, which KubeVirt has not"):
        machine((GOLDEN / "bios-pc-virtio-1.bootstrap.xml").read_bytes(), "bootstrap")


def test_nothing_is_written_when_one_phase_is_refused(tmp_path: Path) -> None:
    for phase in ("bootstrap", "final"):
        (tmp_path / f"{phase}.xml").write_bytes((GOLDEN / f"bios-pc-virtio-1.{phase}.xml").read_bytes())
    with pytest.raises(Refused):
        write_machines(tmp_path)
    assert not list(tmp_path.glob("*.yaml"))


def test_what_both_phases_have_and_what_final_alone() -> None:
    path = GOLDEN / "uefi-q35-virtio-3-4kn.final.xml"
    final = machine(path.read_bytes(), "final")["spec"]["template"]["spec"]["domain"]
    bootstrap = machine(path.with_name(path.name.replace("final", "bootstrap")).read_bytes(), "bootstrap")["spec"]["template"]["spec"]["domain"]
    assert final["devices"]["rng"] == {} and "rng" not in bootstrap["devices"]
    assert bootstrap["features"]["hyperv"] == {"relaxed": {}} and "synic" in final["features"]["hyperv"]
    for domain in (bootstrap, final):
        assert domain["clock"]["utc"] == {"offsetSeconds": 3600} and domain["ioThreadsPolicy"] == "shared"
        sizes = [disk.get("blockSize") for disk in domain["devices"]["disks"]]
        assert sizes == [None, None, {"custom": {"logical": 4096, "physical": 4096}}]
        assert domain["devices"]["disks"][2]["disk"]["bus"] == "virtio"


def test_a_clock_in_utc_has_no_offset() -> None:
    xml = (GOLDEN / "uefi-q35-virtio-3.final.xml").read_bytes().replace(b'offset="localtime"', b'offset="utc"')
    assert machine(xml, "final")["spec"]["template"]["spec"]["domain"]["clock"]["utc"] == {}


def test_a_name_that_kubernetes_can_not_have() -> None:
    xml = (GOLDEN / "uefi-q35-virtio-3.final.xml").read_bytes().replace(b"<name>guest", "<name>Büro 1".encode())
    metadata = machine(xml, "final")["metadata"]
    assert (metadata["name"], metadata["annotations"]) == ("b-ro-1", {"h2k/name": "Büro 1"})


# As virt-v2v 2.2 writes it: an instance, its processors among the resources, no firmware and no card.
INSTANCE = """---
# generated by virt-v2v 2.2.0
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata:
  name: g
spec:
  domain:
    devices:
      disks:
      - disk:
          bus: virtio
        name: disk-0
      - disk:
          bus: virtio
        name: disk-1
    resources:
      clock:
        timer:
          hpet:
            present: false
        utc: {}
      requests:
        memory: 3072Mi
      cpu:
        cores: 4
      features:
  volumes:
  - hostDisk:
      path: /out/g-sda
      type: Disk
    name: disk-0
  - hostDisk:
      path: /out/g-sdb
      type: Disk
    name: disk-1
  terminationGracePeriodSeconds: 0
"""


def test_the_instance_of_an_older_virt_v2v_is_read(tmp_path: Path) -> None:
    found = read_target(INSTANCE.encode(), "g.yaml", tmp_path, tmp_path / "g.h2k")
    assert [path for path, _ in found.images] == [Path("/out/g-sda"), Path("/out/g-sdb")]
    facts = found.domain
    assert facts is not None
    assert (facts.name, facts.memory, facts.vcpus, facts.firmware, facts.nics) == ("g", 3 << 30, 4, "", ())
    assert [disk.bus for disk in facts.disks] == ["virtio", "virtio"]


def test_what_an_instance_does_not_tell_is_the_sources_and_stays_so(tmp_path: Path) -> None:
    told = read_target(INSTANCE.encode(), "g.yaml", tmp_path, tmp_path / "g.h2k").domain
    assert told is not None
    source = dataclasses.replace(told, firmware="uefi", secure_boot=True, nics=(NicFacts("52:54:00:00:00:07", "e1000", "bridge", "br7"),))
    facts = with_source(told, source)
    assert [(nic.mac, nic.kind, nic.source) for nic in facts.nics] == [("52:54:00:00:00:07", "network", "default")]
    assert facts.secure_boot and {"nics", "secure_boot"} <= set(facts.sourced or ())
    written = dataclasses.replace(complete(facts), firmware="bios", secure_boot=False, sourced=("nics",))
    earlier = read_domain_xml(final_xml(written, Choices()), "final.xml")
    assert remembered(told, earlier).nics == earlier.nics != (), "of a later command, which reads the instance again"
    again = dataclasses.replace(told, nics=(NicFacts("52:54:00:00:00:08"),))
    assert remembered(again, earlier).nics == again.nics


def test_an_instance_of_which_nothing_else_is_known_has_one_card(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "g.yaml").write_text(INSTANCE)
    found = open_guest_files([str(tmp_path / "g.yaml")]).domain
    assert found is not None and found.nics == (NicFacts(None),) and "g.yaml does not tell the network cards" in caplog.text
    told = dataclasses.replace(found, firmware="bios", nics=())
    assert with_a_card(told) is told, "who tells the firmware tells the cards too"
