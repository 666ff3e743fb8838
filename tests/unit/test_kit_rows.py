"""The way from a fault to its row, with every tool replaced: which disks are broken, converted, started and judged, and when."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Optional

import jsonschema
import pytest

from tests.unit.kit_world import SHA, answers
from tests.unit.test_kit_convert import XML
from tests.windows import __main__ as kit_main
from tests.windows import evidence
from tests.windows.agent import Seen
from tests.windows.boots import STARTS, STOPS, Judged, Start
from tests.windows.convert import Converted, Tools, described
from tests.windows.evidence import Bench
from tests.windows.faults import HEALTHY, KitFault, chosen, guest_facts
from tests.windows.install import Installed, Wanted
from tests.windows.machine import Machine
from tests.windows.media import Media
from tests.windows.steps import StepFailed
from tests.windows.tables import SCHEMA_FILE, table, verdict

REPORT = {"word": "READY", "findings": [{"id": "nic-ghost", "state": "repaired"}]}


class World:
    """Tools that only note what they were given: a guest whose disks lie in a "broken" directory does not start."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.status = {"h2k_v2v": 0, "virt_v2v": 0, "h2k_qemu_img": 0}
        self.source_starts = True
        for name in ("h2k_v2v", "virt_v2v"):
            monkeypatch.setattr(kit_main.convert, name, self._converter(name))
        monkeypatch.setattr(kit_main.convert, "h2k_qemu_img", lambda vmdk, vmx, out, name, tools: self._converter("h2k_qemu_img")(vmx, out, name, tools))
        monkeypatch.setattr(kit_main.convert, "h2k_fix", self.fix)
        monkeypatch.setattr(kit_main.convert, "h2k_boot", lambda converted, tools: self.note("h2k_boot", 0))
        monkeypatch.setattr(kit_main, "run_logged", lambda argv, step, log, *_: log.write_text("log") * 0)
        monkeypatch.setattr(kit_main, "put", lambda fault, image, stand_in: self.note(f"put {fault.name} into {image.name}", None))
        monkeypatch.setattr(kit_main.source, "write_source", self.write_source)
        monkeypatch.setattr(kit_main.boots, "start", self.start)
        monkeypatch.setattr(kit_main.boots, "judge", lambda disks, *rest: Judged(self.outcome(disks)))
        monkeypatch.setattr(evidence, "tool_versions", lambda: {"h2k": "0.2.0"})
        media = Media(tmp_path / "a.iso", SHA, "EVAL", False, ())
        machine = Machine("uefi", 4096, True)
        wanted = Wanted(media, answers(), machine, tmp_path / "v.iso", tmp_path, 1 << 30)
        installed = Installed(tmp_path / "system.qcow2", tmp_path / "data.qcow2", tmp_path, True, "sata", 60)
        self.kit = kit_main.Kit(wanted, installed, Tools(tmp_path / "v.iso", True), Bench(media, answers(), SHA, "sata", True), tmp_path / "r")

    def note(self, what: str, value: Any) -> Any:
        self.calls.append(what)
        return value

    def write_source(self, text: str, name: str, disks: Any, place: Path, log: Path, kvm: bool) -> Path:
        place.mkdir(parents=True, exist_ok=True)
        (place / "source.vmx").write_text(text)
        return place / "source.vmx"

    def _converter(self, tool: str) -> Any:
        def convert(vmx: Path, out: Path, name: str, tools: Tools) -> Converted:
            self.calls.append(tool)
            state = out / f"{name}.h2k"
            state.mkdir(parents=True, exist_ok=True)
            (state / "report.json").write_text(json.dumps(REPORT))
            log = out.parent / f"{tool}.log"
            log.write_text("log")
            found = Converted(tool.replace("_", "-"), self.status[tool], log, state=state)
            if found.status != 0:
                return found
            (out / "source-sda").write_text("disk")
            (out / f"{name}.xml").write_text(XML.format(bus="virtio", dev="vda", place=out, format="qcow2"))
            disks, bus = described(out / f"{name}.xml")
            return dataclasses.replace(found, disks=disks, bus=bus)

        return convert

    def fix(self, converted: Converted, tools: Tools) -> Converted:
        self.calls.append("h2k_fix")
        converted.disks[0].path.write_text("fixed")
        return dataclasses.replace(converted, tool="h2k fix")

    def outcome(self, disks: Any) -> str:
        path = disks[0].path
        broken = path.parent.name == "broken" and path.read_text() != "fixed"
        return STOPS if broken or not (self.source_starts or path.name != "system.qcow2") else STARTS

    def start(self, machine: Machine, disks: Any, bus: str, place: Path, virtio: bool) -> Start:
        self.calls.append(f"start on {bus}{' with VirtIO cards' if virtio else ''}")
        place.mkdir(parents=True, exist_ok=True)
        (place / "serial").write_text("")
        return Start(self.outcome(disks), "", Seen("Windows", bound={"VEN_1AF4&DEV_1042": "viostor"}))

    def run(self, name: Optional[str] = None) -> dict[str, Any]:
        row = self.kit.run(KitFault(HEALTHY, "source") if name is None else chosen(name, guest_facts(answers()))[1])
        jsonschema.Draft7Validator(json.loads(SCHEMA_FILE.read_text())).validate(table([row]))
        return row


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_the_healthy_guest_is_asked_before_and_after_and_goes_through_every_tool(world: World) -> None:
    row = world.run()
    assert world.calls == [
        "start on sata", "put healthy into system.qcow2", "h2k_v2v", "h2k_boot", "start on virtio with VirtIO cards",
        "h2k_qemu_img", "start on virtio with VirtIO cards", "virt_v2v", "start on virtio with VirtIO cards",
    ]  # fmt: skip
    assert verdict(row) == "starts with or without h2k" and row["with"]["boot_status"] == 0 and row["without"]["boot_status"] is None
    place = world.kit.results / "evidence" / "healthy"
    for path in ("source/serial", "with/start/serial", "with/h2k_v2v.log", "with/NAME.h2k/report.json", "without/virt_v2v.log", "qemu-img/side.json", "SHA256SUMS"):
        assert (place / path).exists(), path
    assert row["with"]["findings"] == ["nic-ghost"]


def test_a_source_that_does_not_start_proves_nothing(world: World) -> None:
    world.source_starts = False
    with pytest.raises(StepFailed, match="the source does not start"):
        world.run()
    assert world.calls == ["start on sata"]


def test_a_fault_of_the_source_goes_through_both_conversions(world: World) -> None:
    row = world.run("nic-ghost")
    assert [call for call in world.calls if not call.startswith("start")] == ["put nic-ghost into system.qcow2", "h2k_v2v", "h2k_boot", "virt_v2v"]
    assert (row["with"]["tool"], row["without"]["tool"]) == ("h2k-v2v", "virt-v2v") and row["into"] == "source"
    assert row["with"]["findings"] == ["nic-ghost"] and row["with"]["word"] == "READY"
    assert not (world.kit.work / "nic-ghost").exists(), "its disks are left"


def test_a_refused_source_is_not_started(world: World) -> None:
    world.status["h2k_v2v"] = 3
    row = world.run("nic-ghost")
    assert row["with"]["outcome"] == "refused" and row["with"]["lab"] == "not tried"
    assert world.calls == ["put nic-ghost into system.qcow2", "h2k_v2v", "virt_v2v", "start on virtio with VirtIO cards"]
    assert verdict(row) == "refused, and it would have started"


def test_a_fault_of_the_result_is_put_into_a_copy_and_fixed_there(world: World) -> None:
    world.run()
    healthy = world.kit.work / HEALTHY / "with" / "source-sda"
    world.calls.clear()
    row = world.run("driver-file-missing")
    assert world.calls == [
        "put driver-file-missing into source-sda", "start on virtio with VirtIO cards", "h2k_fix", "h2k_boot",
        "start on virtio with VirtIO cards",
    ]  # fmt: skip
    assert verdict(row) == "starts only with h2k" and row["into"] == "result" and row["without"]["tool"] == "none"
    assert row["with"]["findings"] == ["nic-ghost"]
    assert healthy.read_text() == "disk", "the healthy result was written"


def test_without_a_healthy_result_one_is_made_once(world: World) -> None:
    for name in ("driver-file-missing", "driver-start-override:0"):
        world.run(name)
    assert world.calls.count("h2k_v2v") == 1


def test_a_healthy_guest_that_is_not_converted_ends_its_faults(world: World) -> None:
    world.status["h2k_v2v"] = 1
    with pytest.raises(StepFailed, match="the healthy guest was not converted"):
        world.run("driver-file-missing")


def test_h2k_boot_is_left_out_where_there_is_no_libvirt(world: World) -> None:
    world.kit.tools = dataclasses.replace(world.kit.tools, boots=False)
    assert world.run("nic-ghost")["with"]["boot_status"] is None and "h2k_boot" not in world.calls


def test_a_control_that_is_not_converted_is_not_started(world: World) -> None:
    world.status["virt_v2v"] = 1
    row = world.run("nic-ghost")
    assert (row["without"]["outcome"], row["without"]["status"]) == ("failed", 1)
    assert [call for call in world.calls if call.startswith("start")] == ["start on virtio with VirtIO cards"]
