"""The boot stack, on guests in memory; bindings are in test_driver_repairs.py."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from h2k.disk.reader import VolumeRef
from h2k.guest.changes import DeleteKey, SetValue
from h2k.guest.guest import Guest
from h2k.guest.virtio_win import DriverSource, PackageBad, PackageMissing
from h2k.windows.values import dword
from tests.guests.pe import make_pe
from tests.unit.hooks import ask, options
from tests.unit.memory_reader import MemoryReader, apply_changes, driver, sys_files, windows_guest

WINDOWS = VolumeRef(0, 2)


@pytest.mark.parametrize(
    ("content", "found"),
    [(make_pe("amd64", b"made pci.sys"), set()), (make_pe("x86", b"made pci.sys"), {"boot-stack-driver-disabled"}), (None, {"file-unreadable"})],
)  # fmt: skip
def test_the_boot_stack_s_files_are_programs_for_this_machine(content: Optional[bytes], found: set[str]) -> None:
    stack = [entry.name for entry in options().plan.boot_stack]
    text = "".join(driver(name) for name in stack)
    guest = windows_guest(text, files=sys_files(*stack))
    assert isinstance(guest.reader, MemoryReader)
    path = "/Windows/System32/drivers/pci.sys"
    if content is None:
        guest.reader.unreadable[WINDOWS, path.lower()] = "WOF-compressed"
    else:
        guest.reader.files[WINDOWS][path] = content
    states = ask("boot-storage", guest, bus="sata").states()
    assert {i for i in states if i != "bootstrap-controller-not-boot-start"} == found


def test_a_64_bit_file_of_a_32_bit_boot_stack_is_refused() -> None:
    stack = [entry.name for entry in options().plan.boot_stack]
    text = "".join(driver(name) for name in stack)
    for arch, wrong in (("x86", set()), ("amd64", {"refused"})):
        guest = windows_guest(text, files={**sys_files(*stack, arch="x86"), **sys_files("pci", arch=arch)}, arch="x86")
        said = ask("boot-storage", guest, bus="sata")
        assert {f.state for f in said.findings if f.id == "boot-stack-driver-disabled"} == wrong


OVERRIDE = '"0"=dword:00000003'
MSAHCI = (
    '[$cs\\Control\\CriticalDeviceDatabase\\PCI#CC_0106]\n"Service"="msahci"\n"ClassGUID"="{4D36E96A-E325-11CE-BFC1-08002BE10318}"\n'
)


def bootstrap(guest: Guest) -> set[tuple[str, str]]:
    said = ask("boot-storage", guest, bus="sata")
    return {(f.subject, f.evidence) for f in said.findings if f.id == "bootstrap-controller-not-boot-start"}


def seven(text: str, *names: str) -> Guest:
    return windows_guest(MSAHCI + text, files=sys_files(*names), version="6.1", build="7601", firmware="bios")


def test_sata_of_windows_7_needs_the_driver_of_its_channels() -> None:
    msahci = driver("msahci")
    assert bootstrap(seven(msahci + driver("atapi"), "msahci", "atapi")) == set()
    assert bootstrap(seven(msahci, "msahci")) == set()
    late = seven(msahci + driver("atapi", start=3), "msahci", "atapi")
    assert bootstrap(late) == {("ControlSet001\\Services\\atapi", "Start 3")}
    assert bootstrap(apply_changes(late, ask("boot-storage", late, bus="sata").changes)) == set()


@pytest.mark.parametrize(("version", "build"), [("6.2", "9200"), ("10.0", "20348")])
def test_sata_of_later_windows_does_not(version: str, build: str) -> None:
    ahci = MSAHCI.replace("msahci", "storahci") + driver("storahci") + driver("atapi", start=3)
    assert bootstrap(windows_guest(ahci, files=sys_files("storahci", "atapi"), version=version, build=build)) == set()


def test_start_override_counts_from_windows_8_on() -> None:
    text = driver("msahci", more=f"[$cs\\Services\\msahci\\StartOverride]\n{OVERRIDE}\n")
    assert bootstrap(seven(text, "msahci")) == set()
    assert len(bootstrap(windows_guest(MSAHCI + text, files=sys_files("msahci")))) == 1


@pytest.mark.parametrize("image", ["\\\\Device\\\\HarddiskVolume2\\\\Windows\\\\System32\\\\drivers\\\\pci.sys", "%ProgramFiles%\\\\pci.sys"])
def test_a_boot_stack_file_that_may_be_elsewhere_is_no_refusal(image: str) -> None:
    stack = [entry.name for entry in options().plan.boot_stack]
    text = "".join(driver(name) for name in stack) + f'[$cs\\Services\\pci]\n"ImagePath"=expand:"{image}"\n'
    states = ask("boot-storage", windows_guest(text, files=sys_files(*(n for n in stack if n != "pci"))), bus="sata").states()
    assert states.get("boot-stack-driver-disabled") == {"warning"}
    late = text + '[$cs\\Services\\pci]\n"Start"=dword:00000003\n'
    both = ask("boot-storage", windows_guest(late, files=sys_files(*(n for n in stack if n != "pci"))), bus="sata").states()
    assert both["boot-stack-driver-disabled"] == {"warning", "broken"}, "it is enabled all the same"
    if "Harddisk" in image:
        there = windows_guest(text, files=sys_files(*stack))
        assert "boot-stack-driver-disabled" not in ask("boot-storage", there, bus="sata").states()


# The bootstrap's controller

CONTROLLER = "ControlSet001\\Services\\storahci"
AHCI = MSAHCI.replace("msahci", "storahci")


def ahci(start: int, more: str = "") -> Guest:
    return windows_guest(AHCI + driver("storahci", start, more), files=sys_files("storahci"))


@pytest.mark.parametrize("start", [0, 1, 2, 3, 4])
def test_the_bootstrap_s_controller_starts_at_boot(start: int) -> None:
    guest = ahci(start)
    said = ask("boot-storage", guest, bus="sata")
    assert said.settings == {"bootstrap-bus": "sata"}
    assert bootstrap(guest) == ({(CONTROLLER, f"Start {start}")} if start else set())
    own = [c for c in said.changes if getattr(c, "key", "") == CONTROLLER]
    assert own == ([SetValue("SYSTEM", CONTROLLER, "Start", dword(0))] if start else [])
    assert bootstrap(apply_changes(guest, own)) == set()


@pytest.mark.parametrize("value", [0, 1, 3, 4])
def test_nothing_overrides_the_start_of_the_bootstrap_s_controller(value: int) -> None:
    guest = ahci(0, f'[$cs\\Services\\storahci\\StartOverride]\n"0"=dword:{value:08x}\n')
    said = ask("boot-storage", guest, bus="sata")
    evidence = f"StartOverride 0={value} keeps the loader from loading it"
    assert bootstrap(guest) == ({(CONTROLLER, evidence)} if value else set())
    own = [c for c in said.changes if isinstance(c, DeleteKey)]
    assert own == ([DeleteKey("SYSTEM", f"{CONTROLLER}\\StartOverride")] if value else [])
    assert bootstrap(apply_changes(guest, own)) == set()


def test_the_controller_starts_in_every_control_set() -> None:
    text = AHCI + driver("storahci") + '[ControlSet002\\Services\\storahci]\n"Start"=dword:00000003\n'
    assert bootstrap(windows_guest(text, files=sys_files("storahci"), sets=(1, 2))) == {("ControlSet002\\Services\\storahci", "Start 3")}


IDE = AHCI.replace("CC_0106", "CC_0101").replace("storahci", "intelide")


def test_the_next_bus_serves_where_the_first_has_no_driver() -> None:
    text = AHCI + driver("storahci") + IDE + driver("intelide") + driver("atapi")
    said = ask("boot-storage", windows_guest(text, files=sys_files("intelide", "atapi")), bus="sata")
    assert said.settings == {"bootstrap-bus": "ide"} and "bootstrap-controller-not-boot-start" not in said.states()


@pytest.mark.parametrize("files", [(), ("storahci",)])
def test_no_controller_at_all_is_refused(files: tuple[str, ...]) -> None:
    text = driver("storahci") if files else AHCI + driver("storahci")
    said = ask("boot-storage", windows_guest(text, files=sys_files(*files)), bus="sata")
    (finding,) = [f for f in said.findings if f.id == "bootstrap-controller-not-boot-start"]
    assert (finding.state, finding.subject) == ("refused", "sata, ide") and said.settings == {}


# The package


class NoPackage:
    """A virtio-win that has not what is wanted."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def find(self, *_: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (PackageBad("viostor.sys: truncated", hint="the hint"), "driver-file-invalid"),
        (PackageMissing("no viostor.inf", hint="the hint"), "driver-package-missing"),
    ],
)
def test_a_virtio_win_that_does_not_serve_is_refused(error: Any, found: str) -> None:
    said = ask("boot-storage", ahci(0), drivers=NoPackage(error))
    (finding,) = [f for f in said.findings if f.id == found]
    assert (finding.state, finding.evidence, finding.repair) == ("refused", error.message, "the hint")
    assert not any("viostor" in str(getattr(c, "key", "") + getattr(c, "path", "")) for c in said.changes)


@pytest.mark.parametrize(("error", "way_out"), [
    (PackageBad("viostor.sys: truncated"), "get an intact virtio-win, or convert with --h2k-bus sata"),
    (PackageMissing("no viostor.inf"), "give --h2k-drivers PATH (a virtio-win ISO or directory), or convert with --h2k-bus sata"),
    (None, "give --h2k-drivers PATH (a virtio-win ISO or directory), or convert with --h2k-bus sata"),
])  # fmt: skip
def test_there_is_a_way_out_where_the_refusal_has_none(error: Any, way_out: str) -> None:
    said = ask("boot-storage", ahci(0), drivers=NoPackage(error) if error is not None else None)
    assert [f.repair for f in said.findings if f.state == "refused" and f.subject == "viostor"] == [way_out]


def test_without_any_virtio_win_a_result_is_told_what_it_lacks() -> None:
    said = ask("boot-storage", windows_guest(), phase="result")
    lacks = {f.id for f in said.findings if f.subject != "storahci"}
    assert {"driver-package-missing", "driver-file-missing", "driver-not-boot-start", "device-id-unbound"} <= lacks
    assert not any("viostor" in str(getattr(c, "key", "") + getattr(c, "path", "")) for c in said.changes)
    assert "driver-file-missing" not in {f.id for f in ask("boot-storage", windows_guest(), phase="source").findings}


def test_a_guest_with_its_driver_needs_no_virtio_win_and_a_bad_one_is_named(drivers: DriverSource) -> None:
    bare = windows_guest()
    whole = apply_changes(bare, ask("boot-storage", bare, drivers=drivers).changes)
    quiet = {"boot-stack-driver-disabled", "bootstrap-controller-not-boot-start"}
    assert set(ask("boot-storage", whole).states()) == quiet
    assert set(ask("boot-storage", whole, drivers=NoPackage(PackageMissing("no viostor.inf"))).states()) == quiet
    assert set(ask("boot-storage", whole, drivers=NoPackage(PackageBad("truncated"))).states()) == quiet | {"driver-file-invalid"}


@pytest.mark.parametrize("lost", ["file", "Start", "binding"])
def test_one_thing_that_is_wrong_with_its_driver_is_enough_to_want_a_virtio_win(lost: str, drivers: DriverSource) -> None:
    bare = windows_guest()
    changes = ask("boot-storage", bare, drivers=drivers).changes
    parts = {"file": "viostor.sys", "Start": "'Start'", "binding": "1AF4&DEV_1042"}
    without = apply_changes(bare, [change for change in changes if parts[lost] not in repr(change)])
    assert ask("boot-storage", without).states()["driver-package-missing"] == {"refused"}


def test_a_control_set_that_differs_is_named(drivers: DriverSource) -> None:
    bare = windows_guest(sets=(1, 2))
    assert "control-set-differs" not in ask("boot-storage", bare, drivers=drivers).states(), "both are wrong alike"
    changes = [c for c in ask("boot-storage", bare, drivers=drivers).changes if "ControlSet002" not in getattr(c, "key", "")]
    half = apply_changes(bare, changes)
    (finding,) = [f for f in ask("boot-storage", half, drivers=drivers).findings if f.id == "control-set-differs"]
    assert finding.evidence == "ControlSet002 would not boot like ControlSet001"


# The boot stack


def stack_findings(text: str, **more: Any) -> list[tuple[str, str, str]]:
    names = [entry.name for entry in options().plan.boot_stack]
    said = ask("boot-storage", windows_guest(text, files=sys_files(*names), **more), bus="sata")
    return [(f.state, f.subject.rpartition("\\")[2], f.evidence) for f in said.findings if f.id == "boot-stack-driver-disabled"]


def whole_stack(**starts: int) -> str:
    return "".join(driver(e.name, starts.get(e.name, e.starts[0])) for e in options().plan.boot_stack)


@pytest.mark.parametrize(
    ("name", "start", "wrong"),
    [("pci", 0, False), ("pci", 1, True), ("pci", 3, True), ("pci", 4, True), ("Ntfs", 3, False), ("Ntfs", 0, False), ("Ntfs", 1, False),
     ("Ntfs", 2, True), ("Ntfs", 4, True), ("volume", 4, True)],
)  # fmt: skip
def test_a_driver_that_every_boot_needs_is_enabled(name: str, start: int, wrong: bool) -> None:
    assert stack_findings(whole_stack(**{name: start})) == ([("broken", name, f"Start {start}")] if wrong else [])
    files = sys_files(*(entry.name for entry in options().plan.boot_stack))
    said = ask("boot-storage", windows_guest(whole_stack(**{name: start}), files=files), bus="sata")
    right = 3 if name == "Ntfs" else 0
    told = [f.repair for f in said.findings if f.state == "broken" and f.subject.endswith(f"\\{name}")]
    assert told == [f"Start {right}"] * wrong
    assert [c.value.dword() for c in said.changes if isinstance(c, SetValue) and c.key.endswith(f"\\{name}")] == [right] * wrong


def test_one_that_is_missing_hides_no_other() -> None:
    names = [entry.name for entry in options().plan.boot_stack]
    without = "".join(driver(n, 4 if n == "Ntfs" else 0) for n in names if n != "volume")
    assert stack_findings(without) == [("broken", "Ntfs", "Start 4")], "volume is optional"
    none = "".join(driver(n, 4 if n == "Ntfs" else 0) for n in names if n != "pci")
    assert stack_findings(none) == [("refused", "pci", "the service is missing"), ("broken", "Ntfs", "Start 4")]
    lost = whole_stack(Ntfs=4) + '[$cs\\Services\\pci]\n"ImagePath"=expand:"System32\\\\drivers\\\\gone.sys"\n'
    assert [(state, name) for state, name, _ in stack_findings(lost)] == [("refused", "pci"), ("broken", "Ntfs")]


def test_the_type_and_the_override_of_the_boot_stack() -> None:
    assert stack_findings(whole_stack() + '[$cs\\Services\\disk]\n"Type"=dword:00000010\n') == [("refused", "disk", "Type 16")]
    assert stack_findings(whole_stack() + '[$cs\\Services\\disk]\n"Type"=dword:00000002\n') == []
    demoted = whole_stack() + f"[$cs\\Services\\disk\\StartOverride]\n{OVERRIDE}\n"
    assert [(state, name) for state, name, _ in stack_findings(demoted)] == [("broken", "disk")]
