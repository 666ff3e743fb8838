"""The two domains of a guest: built by the hooks' settings before a write, and written when it is ready."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from h2k.base.errors import Refused
from h2k.domain.facts import DiskFacts
from h2k.engine import write_domains as module
from h2k.engine.hooks import Setting
from h2k.engine.pipeline import look
from h2k.engine.request import Request
from h2k.engine.write_domains import SCRATCH, SCRATCH_SIZE, build_domains, iso_for_cdrom, next_commands, write_domains
from h2k.guest.guest import Guest
from tests.unit.engine_world import World, made_domain, made_guest, made_hook
from tests.unit.memory_reader import MemoryReader, make_disk


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "web.h2k", image=made_guest(0), domain=made_domain("web"))


@pytest.fixture
def created(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    found: list[list[str]] = []

    def run(argv: Any) -> None:
        found.append(list(argv))
        Path(argv[-2]).write_bytes(b"scratch")

    monkeypatch.setattr(module, "run_command", run)
    return found


def built(world: World, **settings: str) -> dict[str, Any]:
    items = [Setting(name.replace("_", "-"), value, "a test") for name, value in settings.items()]
    world.hooks = [made_hook(lambda guest, options: iter(items))]
    run = world.run()
    return {phase: etree.fromstring(xml) for phase, xml in build_domains(run, look(run)).items()}


def buses(domain: Any) -> list[str]:
    return [disk.find("target").get("bus") for disk in domain.findall("devices/disk[@device='disk']")]


def test_nothing_is_written_while_they_are_built(world: World, tmp_path: Path) -> None:
    assert list(built(world)) == ["bootstrap", "final"] and list(tmp_path.iterdir()) == []


def test_settings_of_hooks_reach_both_phases(world: World) -> None:
    world.request = Request(bus="virtio")
    found = built(world, bootstrap_bus="ide", bootstrap_nic="rtl8139", final_nic="e1000", clock="utc")
    assert buses(found["bootstrap"])[0] == "ide" and buses(found["final"]) == ["virtio"]
    models = [found[phase].find("devices/interface/model").get("type") for phase in ("bootstrap", "final")]
    assert models == ["rtl8139", "e1000"] and found["final"].find("clock").get("offset") == "utc"
    found = built(world)
    assert buses(found["bootstrap"])[0] == "sata" and found["bootstrap"].find("devices/interface/model").get("type") == "e1000e"
    assert found["final"].find("devices/interface/model").get("type") == "virtio" and found["final"].find("clock").get("offset") != "utc"


def test_a_scratch_disk_only_where_the_final_bus_is_another(world: World, created: list[list[str]]) -> None:
    run = world.run()
    write_domains(run, {"bootstrap": b"<domain/>", "final": b"<domain/>"}, True)
    assert created == [] and set(run.report.files) == {"bootstrap", "final"}
    world.request = Request(bus="virtio")
    run = world.run()
    write_domains(run, {"final": b"<domain/>"}, False)
    assert created == []
    for _ in range(2):
        write_domains(run, {"final": b"<domain/>"}, True)
    path = world.state.resolve() / SCRATCH
    assert created == [["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(SCRATCH_SIZE)]] and SCRATCH_SIZE == 64 << 20
    assert (world.state / "final.xml").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(("bus", "disks"), [("sata", ["sata"]), ("virtio", ["sata", "virtio"]), ("virtio-scsi", ["sata", "scsi"])])
def test_the_bootstrap_has_a_disk_of_the_final_bus(world: World, bus: str, disks: list[str]) -> None:
    world.request = Request(bus=bus)
    found = built(world)
    assert buses(found["bootstrap"]) == disks and len(buses(found["final"])) == 1
    scratch = [s.get("file") for s in found["bootstrap"].iterfind("devices/disk[@device='disk']/source")][1:]
    assert scratch == [str(world.state.resolve() / SCRATCH)][: len(disks) - 1]


def test_an_identity_of_an_earlier_run_stays(world: World) -> None:
    world.domain = dataclasses.replace(made_domain("web"), nics=(dataclasses.replace(made_domain().nics[0], mac=None),))
    run = world.run()
    first = build_domains(run, look(run))
    write_domains(run, first, True)
    again = world.run()
    assert build_domains(again, look(again)) == first


def test_a_name_that_is_none_is_refused(world: World) -> None:
    world.domain = made_domain("team/web")
    with pytest.raises(Refused, match="team/web"):
        built(world)


def test_without_a_description_there_are_none(world: World, tmp_path: Path) -> None:
    world.domain = None
    assert built(world) == {}
    write_domains(world.run(), {}, True)
    assert list(tmp_path.iterdir()) == []


def test_a_guest_that_is_not_windows_has_the_one_domain_that_came_with_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("h2k.engine.examination.damage", lambda info: "")
    world.image = Guest(MemoryReader([make_disk(0, ["ext4"])], {}))
    run = world.run()
    assert build_domains(run, look(run)) == {}
    xml = b"<domain><devices><disk><source file='disk'/></disk></devices></domain>"
    run.files = dataclasses.replace(run.guest_files, description=xml)
    (final,) = build_domains(run, look(run)).items()
    assert final[0] == "final" and b"file=\"/image\"" in final[1].replace(b"'", b'"')


def test_images_are_named_by_absolute_paths_and_disks_that_are_no_files_stay(world: World) -> None:
    network = DiskFacts(None, None, "virtio", "vda")
    world.domain = dataclasses.replace(made_domain(), disks=(network, *made_domain().disks))
    files = dataclasses.replace(world.files, images=((Path("image"), "qcow2"),))
    assert [d.path for d in module._absolute(world.domain, files)] == [None, Path.cwd() / "image"]


@pytest.mark.parametrize(("has", "setting", "gets"), [(True, "on", True), (True, "off", False), (False, "on", False)])
def test_secure_boot_is_the_source_s_unless_a_hook_turns_it_off(has: bool, setting: str, gets: bool, world: World) -> None:
    world.domain = made_domain(secure_boot=has)
    world.hooks = [made_hook(lambda guest, options: iter([Setting("secure-boot", setting, "a test")]))]
    run = world.run()
    assert module._decided(run, world.domain, look(run), run.guest_files)[0].secure_boot == gets


def test_the_boot_disk_is_counted_without_disks_that_are_no_files() -> None:
    disks = (DiskFacts(None, None, "virtio", "vda"), *made_domain(disks=2).disks)
    domain = dataclasses.replace(made_domain(), disks=disks)
    assert [module._boot_disk(domain, image) for image in (0, 1)] == [1, 2]


@pytest.mark.parametrize(
    ("files", "command"),
    [({"bootstrap": "/x", "bootstrap-script": "/a b.sh", "bootstrap-machine": "/m"}, "sh '/a b.sh'"),
     ({"bootstrap": "/x", "bootstrap-machine": "/m"}, "kubectl apply -f /m"), ({"bootstrap": "/x"}, "h2k boot STATE"), ({"final": "/x"}, "")],
)  # fmt: skip
def test_next_commands(world: World, files: dict[str, str], command: str) -> None:
    run = world.run()
    run.report.files = dict(files)
    boot = (command.replace("STATE", str(world.state)),) if command else ()
    assert next_commands(run, False) == boot and next_commands(run, True) == (*boot, f"h2k rollback {world.state}")


def test_the_cd_of_the_drivers(tmp_path: Path) -> None:
    iso = tmp_path / "virtio-win.iso"
    assert iso_for_cdrom(None) is None and iso_for_cdrom(tmp_path) is None and iso_for_cdrom(iso) is None
    iso.write_bytes(b"")
    assert iso_for_cdrom(tmp_path) == iso_for_cdrom(iso) == iso.resolve()


def test_what_its_owner_edited_is_kept(world: World, created: list[list[str]]) -> None:
    run = world.run()
    write_domains(run, {"final": b"<domain/>"}, False)
    (world.state / "final.xml").write_bytes(b"<domain><memory>8</memory></domain>")
    write_domains(run, {"final": b"<domain/>"}, False)
    assert (world.state / "final.xml").read_bytes() == b"<domain/>"
    assert (world.state / "final.xml.edited").read_bytes() == b"<domain><memory>8</memory></domain>"


def test_a_scratch_disk_is_no_link(world: World, created: list[list[str]], tmp_path: Path) -> None:
    """QEMU would follow it, and the guest write to what it names."""
    (tmp_path / "victim").write_text("kept")
    world.request = Request(bus="virtio")
    run = world.run()
    world.state.mkdir(mode=0o711)
    for target in ("../victim", "../nothing"):
        (world.state / SCRATCH).unlink(missing_ok=True)
        (world.state / SCRATCH).symlink_to(target)
        write_domains(run, {"bootstrap": b"<domain/>", "final": b"<domain/>"}, True)
        assert (world.state / SCRATCH).read_bytes() == b"scratch" and not (world.state / SCRATCH).is_symlink()
    assert (tmp_path / "victim").read_text() == "kept" and not (tmp_path / "nothing").exists()
