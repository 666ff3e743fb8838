"""h2k-qemu-img: repaired and proven on an overlay, copied under another name, proven again, and only then in its place."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import pytest

from h2k.base.errors import Refused
from h2k.base.xml import parse_xml
from h2k.config.driver_plan import load_plan
from h2k.convert import qemu_img
from h2k.convert.disk_description import MARK
from h2k.convert.qemu_img import Places, main_qemu_img
from h2k.convert.qemu_img_command import ConvertCommand, parse
from h2k.disk.in_use import converting
from h2k.engine import records
from h2k.engine.hooks import Options, Setting
from h2k.engine.request import Request, Tools
from h2k.guest.changes import WriteFile
from h2k.guest.guest import Guest
from h2k.windows.first_boot import SETTINGS, FirstBoot, settings_text
from tests.unit.conversion_world import REFUSING, Conversion
from tests.unit.engine_world import FOUND, World, made_hook, wants_boot_start
from tests.unit.machines import LIBVIRT_XML as XML
from tests.unit.memory_reader import MemoryReader, windows_guest

STOP = '[ControlSet001\\Control\\CrashControl]\n"AutoReboot"=dword:{stop:08x}\n'
DRIVER = '[ControlSet001\\Services\\made]\n"Start"=dword:{start:08x}\n'


def guest(start: int, stop: int = 1) -> Guest:
    return windows_guest(DRIVER.format(start=start) + STOP.format(stop=stop), firmware="bios")


def no_firmware(secure_boot: bool = False) -> Any:
    raise Refused("no UEFI firmware", hint="install ovmf", commands=("h2k doctor",))


class Disk(Conversion):
    """A world of one source disk: its overlay, the copy under another name, and the copy in its place."""

    part: Optional[Guest] = None
    copied: Optional[Guest] = None  # what the copy holds, where that is not what the overlay held
    place: Path = Path()

    @property
    def out(self) -> Path:
        return self.place / "web.qcow2"

    def open_reader(self, images: Sequence[Any]) -> MemoryReader:
        path = Path(images[0][0])
        where = "overlay" if "source" in path.parts else {"web.vmdk": "source"}.get(path.name, "copy")
        self.done.append(f"read {where}")
        found = {"source": self.image, "overlay": self.overlay, "copy": self.part}[where]
        assert found is not None and isinstance(found.reader, MemoryReader)
        return found.reader

    def create(self, argv: Sequence[str], **_: Any) -> None:
        assert argv[:8] == ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "vmdk", "-b"]
        self.done.append("create-overlay")
        Path(argv[-1]).write_bytes(b"")
        self.overlay = self.image

    def pass_through(self, argv: Sequence[str], env: Any = None) -> int:
        status = super().pass_through(argv)
        if argv[0] == "qemu-img":
            Path(argv[-1]).write_bytes(b"the new disk")
            self.part = self.copied or self.overlay or self.image
        return status

    def files_beside(self) -> set[str]:
        return {p.name for p in self.place.iterdir()} - {"web.vmdk"}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    found = Disk(tmp_path / "web.h2k", image=guest(3), written=guest(0, 0))
    found.place = tmp_path
    (tmp_path / "web.vmdk").write_bytes(b"source")

    def asked(name: str) -> Any:
        def ask(*arguments: Any) -> None:
            found.done.append(name)
            if name in found.fails:
                raise found.fails[name]

        return ask

    for name, fake in {
        "Run": found.new_run, "open_tools": found.open_tools, "pass_through": found.pass_through, "run_command": found.create,
        "open_reader": found.open_reader, "probe": lambda path, form=None: SimpleNamespace(format="vmdk"),
        "require_unused": asked("in-use"), "require_free": asked("source-in-use"), "require_space": asked("space"), "guestfs_settings": lambda say: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(qemu_img, name, fake)
    monkeypatch.setattr("h2k.engine.examination.damage", lambda info: found.damage)
    monkeypatch.setattr(records, "versions", lambda: {"h2k": "0"})
    monkeypatch.setattr(records, "disks_now", lambda images: [])
    monkeypatch.delenv("H2K_MODE", raising=False)
    monkeypatch.delenv("H2K_CALLED", raising=False)
    return found


def convert(world: Disk, *more: str) -> int:
    return main_qemu_img(["convert", "-O", "qcow2", str(world.place / "web.vmdk"), str(world.out), *more])


def record(world: Disk) -> dict[str, Any]:
    content = json.loads((world.state / "report.json").read_text())
    assert isinstance(content, dict)
    return content


# The conversion


def test_a_conversion_in_its_order(world: Disk) -> None:
    assert convert(world) == 0
    told = ("space", "create-overlay", "apply", "read overlay", "qemu-img", "read copy")
    assert world.steps_of(*told) == [*told]
    part = str(world.place / ".web.qcow2.h2k-part")
    assert world.tool == [["qemu-img", "convert", "-O", "qcow2", "-f", "qcow2", "--", str(world.state.resolve() / "source/web.qcow2"), part]]
    assert world.out.read_bytes() == b"the new disk" and world.files_beside() == {"web.qcow2", "web.xml", "web.h2k"}
    assert (world.place / "web.vmdk").read_bytes() == b"source" and not (world.state / "source").exists()
    xml = (world.place / "web.xml").read_bytes()
    assert xml.startswith(MARK) and xml[len(MARK) + 1 :] == (world.state / "final.xml").read_bytes()
    found = record(world)
    assert found["verdict"] == "repaired, verified and converted: 1 change" and found["next"] == [f"h2k boot {world.state}"]
    assert [d["path"] for d in found["guest"]["disks"]] == [str(world.out)] and found["files"]["domain"] == str(world.place / "web.xml")


@pytest.mark.parametrize("had", [((1, 1),), ()], ids=["restarted", "stood"])
def test_a_stop_screen_stays_where_the_first_boot_takes_that_back(had: tuple[tuple[int, int], ...], world: Disk) -> None:
    settings = settings_text(FirstBoot("virtio", auto_reboot=had))

    def staged(guest: Guest, options: Options) -> Iterator[Any]:
        yield from wants_boot_start(guest, options)
        yield WriteFile(guest.volume, SETTINGS, settings, "made")

    world.hooks = [made_hook(staged)]
    world.written = windows_guest(DRIVER.format(start=0) + STOP.format(stop=0 if had else 1), firmware="bios", files={SETTINGS: settings})
    assert convert(world) == 0
    assert [c["name"] for c in record(world)["changes"] if c.get("name") == "AutoReboot"] == ["AutoReboot"] * len(had)


def test_a_healthy_guest_is_copied_without_a_write(world: Disk) -> None:
    world.image = guest(0, 0)
    assert convert(world) == 0
    assert "apply" not in world.done and record(world)["verdict"] == "healthy, and converted"


def test_a_refused_source_is_not_converted(world: Disk) -> None:
    world.hooks = REFUSING
    assert convert(world) == 3
    assert world.tool == [] and "create-overlay" not in world.done
    assert world.files_beside() == {"web.h2k"} and record(world)["verdict"].endswith("; nothing was written")


def test_what_no_change_repairs_is_not_converted(world: Disk) -> None:
    world.hooks = [made_hook(lambda guest, options: iter([FOUND]))]
    assert convert(world) == 4
    assert world.tool == [] and record(world)["verdict"].endswith("; nothing was written")


@pytest.mark.parametrize("step", ["in-use", "source-in-use", "space"])
def test_use_and_space_are_asked_before_the_copy(world: Disk, step: str) -> None:
    world.fails[step] = Refused("not here")
    assert convert(world) == 3 and world.tool == [] and "create-overlay" not in world.done


def test_a_damaged_source_is_not_written_over(world: Disk) -> None:
    world.damage = "3 errors"
    assert convert(world) == 3 and "apply" not in world.done and world.tool == []


def test_a_repair_that_does_not_verify_is_not_copied(world: Disk) -> None:
    world.written = guest(3, 0)
    assert convert(world) == 5
    assert world.tool == [] and not world.out.exists() and not (world.state / "source").exists()
    assert "does not hold" in record(world)["verdict"]


def test_a_copy_that_does_not_read_back_takes_no_place(world: Disk) -> None:
    world.out.write_bytes(b"an earlier disk")
    world.copied = guest(3, 0)
    assert convert(world) == 5
    assert world.out.read_bytes() == b"an earlier disk" and world.files_beside() == {"web.qcow2", "web.h2k"}
    assert "does not read back" in record(world)["verdict"]


@pytest.mark.parametrize("status", [1, 2, 3, 77])
def test_qemu_img_s_failure_is_passed_on_unchanged(world: Disk, status: int) -> None:
    world.out.write_bytes(b"an earlier disk")
    (world.place / "web.xml").write_bytes(MARK)
    world.status = status
    assert convert(world) == status
    assert world.out.read_bytes() == b"an earlier disk" and world.files_beside() == {"web.qcow2", "web.xml", "web.h2k"}
    assert (record(world)["status"], record(world)["word"]) == (status, "FAILED") and "read copy" not in world.done


def test_somebody_who_began_to_use_the_disk_meanwhile_keeps_it(world: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def in_use(paths: Any) -> None:
        asked.append(list(paths))
        if len(asked) == 2:
            raise Refused("in use by web")

    monkeypatch.setattr(qemu_img, "require_unused", in_use)
    world.out.write_bytes(b"an earlier disk")
    assert convert(world) == 3
    assert asked == [[world.out]] * 2 and world.out.read_bytes() == b"an earlier disk"


def test_what_is_said_of_an_earlier_disk_goes_before_the_new_one_is_there(world: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    world.state.mkdir()
    old = [world.place / "web.xml", world.state / "report.json", world.state / "plan.json"]
    for path in old:
        path.write_bytes(MARK + b"{}")
    replace, seen = qemu_img.os.replace, []

    def look(source: Any, target: Any) -> None:
        if Path(target) == world.out:
            seen.append([p.exists() for p in old])
        replace(source, target)

    monkeypatch.setattr("os.replace", look)
    assert convert(world) == 0 and seen == [[False, False, False]]


def test_a_part_of_a_run_that_was_cut_off_goes_first(world: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    part = world.place / ".web.qcow2.h2k-part"
    part.symlink_to(world.place / "elsewhere")
    assert convert(world) == 0 and not part.is_symlink() and not (world.place / "elsewhere").exists()


# Dry runs


def test_a_dry_run_writes_nothing(world: Disk) -> None:
    assert convert(world, "--h2k-dry-run") == 0
    assert world.tool == [] and world.files_beside() == set() and "create-overlay" not in world.done
    world.hooks = REFUSING
    assert convert(world, "--h2k-dry-run") == 3 and world.files_beside() == set()


def test_a_dry_run_names_the_command_that_shows_the_changes(world: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(world, "--h2k-dry-run", "--h2k-bus", "sata", "--h2k-accept", "volume-dirty", "--h2k-root", "first") == 0
    source = world.place / "web.vmdk"
    assert f"next: h2k plan {source} --bus sata --accept volume-dirty --root first\n" in capsys.readouterr().out
    described = parse(["convert", "a.vmdk", "b", "--h2k-domain", "/d/a b.vmx"])
    assert described is not None and qemu_img._plan_of(described) == ("h2k plan '/d/a b.vmx'",)
    served = parse(["convert", "nbd://h/a", "b"])
    assert served is not None and qemu_img._plan_of(served) == ()


# A machine that can't be written

UEFI = [*World.hooks, made_hook(lambda guest, options: iter([Setting("firmware", "uefi", "a test")]), "uefi")]


@pytest.mark.parametrize("more", [[], ["--h2k-dry-run"]])
def test_without_its_firmware_nothing_is_copied(world: Disk, monkeypatch: pytest.MonkeyPatch, more: list[str]) -> None:
    monkeypatch.setattr("h2k.engine.write_domains.choose_firmware", no_firmware)
    world.hooks = UEFI
    assert convert(world, *more) == 3
    assert world.tool == [] and not {"create-overlay", "apply"} & set(world.done) and not world.out.exists()


def test_another_system_without_its_firmware_is_not_converted_either(world: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    world.image.reader.files.clear()  # type: ignore[attr-defined]
    monkeypatch.setattr(qemu_img, "holds_another_system", lambda reader: True)
    monkeypatch.setattr(qemu_img, "choose_firmware", no_firmware)
    assert convert(world, "--h2k-firmware", "uefi") == 3 and world.tool == [] and not world.out.exists()


# Report mode


@pytest.mark.parametrize("hooks", [REFUSING, []])
@pytest.mark.parametrize("status", [0, 1, 3])
def test_report_mode_converts_whatever_is_found(world: Disk, monkeypatch: pytest.MonkeyPatch, hooks: Any, status: int) -> None:
    monkeypatch.setenv("H2K_MODE", "report")
    world.hooks, world.status = hooks, status
    assert convert(world) == status
    assert world.tool == [["qemu-img", "convert", "-O", "qcow2", "--", str(world.place / "web.vmdk"), str(world.out)]]
    assert not {"create-overlay", "apply", "space"} & set(world.done)
    assert (world.state / "report.json").exists() == (status == 0)
    assert (world.state / "final.xml").exists() == (status == 0 and not hooks)


def test_a_dry_run_in_report_mode_converts_nothing(world: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("H2K_MODE", "report")
    assert convert(world, "--h2k-dry-run") == 0 and world.tool == [] and world.files_beside() == set()


# What is not Windows


@pytest.fixture
def other(world: Disk, monkeypatch: pytest.MonkeyPatch) -> Disk:
    world.image.reader.files.clear()  # type: ignore[attr-defined]
    monkeypatch.setattr(qemu_img, "holds_another_system", lambda reader: True)
    return world


def test_another_system_goes_through_virt_v2v_in_place(other: Disk) -> None:
    assert convert(other) == 0
    description = str(other.state.resolve() / "source" / "domain.xml")
    assert other.tool[0] == ["virt-v2v-in-place", "-i", "libvirtxml", description]
    assert [argv[0] for argv in other.tool] == ["virt-v2v-in-place", "qemu-img"] and "apply" not in other.done
    final = (other.state / "final.xml").read_text()
    assert "hyperv" not in final and "virtio" in final and record(other)["verdict"] == "not Windows: converted by virt-v2v-in-place"


@pytest.mark.parametrize("lacks", ["firmware", "final.xml"])
def test_a_domain_that_can_not_be_is_refused_before_the_copy(lacks: str, other: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    other.out.write_bytes(b"an earlier disk")
    other.state.mkdir()
    old = [other.place / "web.xml", other.state / "plan.json"]
    for path in old:
        path.write_bytes(MARK)
    if lacks == "firmware":
        monkeypatch.setattr(qemu_img, "_firmware", lambda command, image: "uefi")

        def none() -> Any:
            raise Refused("no UEFI firmware on this host")

        monkeypatch.setattr(qemu_img, "choose_firmware", none)
    else:
        (other.state / "final.xml").write_text("<domain")
    assert convert(other) == 3
    assert other.tool == [] and other.out.read_bytes() == b"an earlier disk"
    assert all(path.exists() for path in old) and record(other)["word"] == "REFUSED"


def test_a_disk_without_a_system_needs_no_firmware(other: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_img, "_firmware", lambda command, image: "uefi")
    monkeypatch.setattr(qemu_img, "holds_another_system", lambda reader: False)
    monkeypatch.setattr(qemu_img, "choose_firmware", lambda: pytest.fail("there is no domain"))
    assert convert(other) == 0 and other.out.exists()


@pytest.mark.parametrize("system", ["Windows", "another"])
def test_what_fails_once_the_disk_is_in_its_place_is_no_refusal(system: str, world: Disk, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if system == "another":
        request.getfixturevalue("other")

    def refuse(*_: Any) -> Any:
        raise Refused("the lock is gone")

    monkeypatch.setattr(qemu_img, "_finish", refuse)
    assert convert(world) == 1
    found = record(world)
    assert world.out.read_bytes() == b"the new disk" and found["word"] == "FAILED"
    done = "repaired, verified and converted: 1 change" if system == "Windows" else "not Windows: converted by virt-v2v-in-place"
    assert found["verdict"] == f"{done}; but the lock is gone"


@pytest.mark.parametrize("status", [1, 2, 77])
def test_its_failure_is_passed_on(other: Disk, status: int) -> None:
    other.status = status
    assert convert(other) == status
    assert [argv[0] for argv in other.tool] == ["virt-v2v-in-place"] and not other.out.exists()


def test_a_disk_without_a_system_is_copied_as_it_is(other: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_img, "holds_another_system", lambda reader: False)
    assert convert(other) == 0
    assert [argv[0] for argv in other.tool] == ["qemu-img"] and not (other.place / "web.xml").exists()
    assert other.files_beside() == {"web.qcow2"}, "a disk of data is nobody's guest, and has no record"


# Boots


def test_boots_follow_where_they_are_asked_for(world: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    def boot_too(run: Any, outcome: Any) -> Any:
        world.done.append("boot")
        return dataclasses.replace(outcome, status=5, word="NOT VERIFIED")

    monkeypatch.setattr(qemu_img, "boot_too", boot_too)
    assert convert(world) == 0 and "boot" not in world.done
    assert convert(world, "--h2k-boot") == 5
    world.done.clear()
    assert convert(world, "--h2k-boot", "--h2k-dry-run") == 0 and "boot" not in world.done


# Before anything


def test_source_and_target_are_not_one_file(world: Disk) -> None:
    world.out.symlink_to(world.place / "web.vmdk")
    assert convert(world) == 2 and world.tool == [] and world.files_beside() == {"web.qcow2"}


def test_a_domain_of_somebody_else_s_is_not_replaced(world: Disk) -> None:
    (world.place / "web.xml").write_text("<domain/>")
    assert convert(world) == 2 and world.tool == [] and (world.place / "web.xml").read_text() == "<domain/>"


def test_a_directory_that_is_not_there(world: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    assert main_qemu_img(["convert", str(world.place / "web.vmdk"), "/nowhere/web.raw"]) == 2
    assert "/nowhere: no such directory" in capsys.readouterr().err


def test_an_unfinished_run_on_the_disk_is_finished_first(world: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_img, "finish_earlier", lambda disks, steps: world.done.append("finish-earlier"))
    monkeypatch.setattr(qemu_img, "DiskSet", lambda images, state: None)
    world.state.mkdir()
    (world.state / "journal.json").write_text("{}")
    assert convert(world) == 0 and "finish-earlier" not in world.done, "there is no such disk"
    assert convert(world) == 0
    assert world.steps_of("finish-earlier", "qemu-img")[-2:] == ["finish-earlier", "qemu-img"]


def test_what_is_no_conversion_is_qemu_img_s(world: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    world.pass_through = lambda argv: world.tool.append(list(argv)) or 7  # type: ignore[method-assign,func-returns-value]
    qemu_img.pass_through = world.pass_through
    assert main_qemu_img(["info", "/x"]) == 7 and world.tool == [["qemu-img", "info", "/x"]]
    assert main_qemu_img(["--h2k-help"]) == 0 and "--h2k-firmware KIND" in capsys.readouterr().out
    assert main_qemu_img(["--h2k-version"]) == 0 and capsys.readouterr().out.startswith("h2k-qemu-img ")
    assert len(world.tool) == 1


def test_a_wrapper_that_calls_itself(world: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("H2K_CALLED", "qemu-img")
    assert convert(world) == 2 and world.tool == []


@pytest.mark.parametrize(
    ("argv", "part", "state"),
    [
        (["a", "/out/b.qcow2"], "/out/.b.qcow2.h2k-part", "/out/b.h2k"),
        (["-n", "a", "/out/b.qcow2"], "/out/b.qcow2", "/out/b.h2k"),
        (["a", "/dev/null"], "/dev/null", "/dev/null.h2k"),
        (["--h2k-report", "/r", "a", "/out/b"], "/out/.b.h2k-part", "/r"),
    ],
)
def test_places(argv: list[str], part: str, state: str) -> None:
    command = parse(["convert", *argv])
    assert isinstance(command, ConvertCommand)
    places = Places.of(command)
    assert (str(places.part), str(places.state)) == (part, state)
    assert places.out == Path(argv[-1]) and places.xml == places.out.with_name(f"{places.out.stem}.xml")


def test_one_conversion_at_a_time_makes_a_disk(world: Disk) -> None:
    with converting(world.state):
        assert convert(world) == 3
        assert world.tool == [] and "create-overlay" not in world.done
        assert "another h2k works on this guest" in record(world)["verdict"]
    assert convert(world) == 0 and "converting" not in {path.name for path in world.state.iterdir()}


def test_an_edited_domain_of_an_earlier_disk_is_kept(world: Disk) -> None:
    assert convert(world) == 0 and convert(world) == 0
    assert world.files_beside() == {"web.qcow2", "web.xml", "web.h2k"}, "nothing was edited"
    edited = (world.place / "web.xml").read_bytes().replace(b"</domain>", b"<!-- mine --></domain>")
    (world.place / "web.xml").write_bytes(edited)
    assert convert(world) == 0
    assert (world.place / "web.xml.edited").read_bytes() == edited and b"mine" not in (world.place / "web.xml").read_bytes()


# The bus


@pytest.fixture
def no_bus(world: Disk, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """No option says the bus; a description beside the source says virtio-scsi."""

    @contextmanager
    def open_tools(request: Request) -> Iterator[Tools]:
        yield Tools(request, tuple(world.hooks), load_plan(), None, None)

    monkeypatch.setattr(qemu_img, "open_tools", open_tools)
    monkeypatch.setattr("h2k.engine.write_domains._make_scratch", lambda state: None)
    xml = XML.format(type="file", source="file='web.vmdk'").replace("firmware='efi'", "")
    (world.place / "source.xml").write_text(xml.replace("</devices>", "<controller type='scsi' model='virtio-scsi'/></devices>"))
    return world


def buses(world: Disk) -> list[str]:
    """The buses of the disk in both phases, the bootstrap's scratch disk behind it."""
    domains = [parse_xml((world.state / f"{phase}.xml").read_bytes(), phase) for phase in ("bootstrap", "final")]
    return [disk.find("target").get("bus") for domain in domains for disk in domain.findall("devices/disk[@device='disk']")]


@pytest.mark.parametrize("mode", ["repair", "report"])
@pytest.mark.parametrize(
    ("more", "described", "bus"),
    [([], True, "virtio-scsi"), ([], False, "virtio"), (["--h2k-bus", "virtio"], True, "virtio"), (["--h2k-bus", "sata"], True, "sata")],
)
def test_the_bus_is_what_the_description_says_unless_one_is_given(no_bus: Disk, mode: str, more: list[str], described: bool, bus: str) -> None:
    asked: list[str] = []

    def listens(guest: Guest, options: Options) -> Iterator[Any]:
        asked.append(options.bus)
        return iter(())

    no_bus.hooks = [*no_bus.hooks, made_hook(listens, "listens")]
    if not described:
        (no_bus.place / "source.xml").unlink()
    assert convert(no_bus, *more, "--h2k-mode", mode) == 0
    assert set(asked) == {bus}
    shown = "scsi" if bus == "virtio-scsi" else bus
    assert buses(no_bus) == (["sata", shown, shown] if bus != "sata" else ["sata", "sata"])
