"""From a PCI device to its boot driver, as Windows finds it, and as virt-v2v and h2k write it."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2k.base.errors import BadData
from h2k.windows import pnp, values
from h2k.windows.pnp import Binding, PciId, RegEntry, cdd_entries, driver_database_entries, find_binding
from h2k.windows.regf import Hive
from tests.guests.regfile import build_hive
from tests.unit.helpers import corpus_hive, damaged, hive, many

SCSI, HDC = "{4D36E97B-E325-11CE-BFC1-08002BE10318}", "{4D36E96A-E325-11CE-BFC1-08002BE10318}"
LEGACY = PciId(0x1AF4, 0x1001, 0x1AF4, 0x0002, 0, 0x010000).ids()
MODERN = PciId(0x1AF4, 0x1042, 0x1AF4, 0x1100, 1, 0x010000).ids()


def text(entries: list[RegEntry]) -> str:
    return "".join(f'[{e.key}]\n{chr(34) + e.name + chr(34) if e.name else "@"}=hex({e.value.type:x}):{e.value.raw.hex(",")}\n' for e in entries)


def package(
    inf: str, device_id: str, service: str = "viostor", *, guid: str = SCSI, data: str = "01,ff,00,00", date: int = 0,
    version: int = 0, flags: int = 0,
) -> str:  # fmt: skip
    """One INF with a whole chain from the id to the service."""
    name = f"{inf}_amd64_0123456789abcdef"
    raw = bytes.fromhex("00ff090000000000") + uuid.UUID(guid).bytes_le + date.to_bytes(8, "little") + version.to_bytes(8, "little")
    return f"""[DriverDatabase\\DriverInfFiles\\{inf}]
@=multi:["{name}"]
"Active"="{name}"
[DriverDatabase\\DeviceIds\\PCI\\{device_id}]
"{inf}"=hex:{data}
[DriverDatabase\\DriverPackages\\{name}]
"Version"=hex:{(raw + bytes(8)).hex(",")}
[DriverDatabase\\DriverPackages\\{name}\\Configurations\\{service}_conf]
"ConfigFlags"=dword:{flags:08x}
"Service"="{service}"
[DriverDatabase\\DriverPackages\\{name}\\Descriptors\\PCI\\{device_id}]
"Configuration"="{service}_conf"
"""


# The ids


def test_the_ids_of_a_device_best_first() -> None:
    assert LEGACY == (
        "VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00",
        "VEN_1AF4&DEV_1001&SUBSYS_00021AF4",
        "VEN_1AF4&DEV_1001&CC_010000",
        "VEN_1AF4&DEV_1001&CC_0100",
        "VEN_1AF4&DEV_1001&REV_00",
        "VEN_1AF4&DEV_1001",
        "VEN_1AF4&CC_010000",
        "VEN_1AF4&CC_0100",
        "VEN_1AF4",
        "CC_010000",
        "CC_0100",
    )
    assert MODERN[0] == "VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01"


# Up to 6.1


def test_critical_device_database_in_any_case_and_the_first_id_first() -> None:
    made = hive(
        f"""[ControlSet001\\Control\\CriticalDeviceDatabase\\pci#cc_0100]
"Service"="generic"
"ClassGUID"="{HDC}"
[ControlSet001\\Control\\CriticalDeviceDatabase\\pci#ven_1af4&dev_1001]
"Service"="viostor"
"ClassGUID"="{SCSI}"
"""
    )
    best, generic = find_binding(made, 1, LEGACY)
    where = "ControlSet001\\Control\\CriticalDeviceDatabase\\PCI#VEN_1AF4&DEV_1001"
    assert best == Binding("VEN_1AF4&DEV_1001", "viostor", SCSI, where, where)
    assert (generic.service, generic.class_guid) == ("generic", HDC)
    assert find_binding(made, 2, LEGACY) == ()
    assert [b.service for b in find_binding(made, 1, MODERN)] == ["generic"]


@pytest.mark.parametrize("service", ["", "dword:00000001", '"' + "x" * 300 + '"'])
def test_a_critical_device_without_a_service(service: str) -> None:
    line = f'"Service"={service}\n' if service else ""
    made = hive(f"[ControlSet001\\Control\\CriticalDeviceDatabase\\PCI#VEN_1AF4&DEV_1001]\n{line}")
    assert [(b.service, b.class_guid) for b in find_binding(made, 1, LEGACY)] == [("", "")]


def test_cdd_entries_read_back() -> None:
    entries = cdd_entries(2, ["VEN_1AF4&DEV_1001", "VEN_1AF4&DEV_1001&REV_00"], "viostor", SCSI)
    found = find_binding(hive(text(entries)), 2, LEGACY)
    assert [(b.id, b.service, b.class_guid) for b in found] == [
        ("VEN_1AF4&DEV_1001&REV_00", "viostor", SCSI),
        ("VEN_1AF4&DEV_1001", "viostor", SCSI),
    ]
    assert {e.key for e in entries if "REV" in e.key} == {
        "ControlSet002\\Control\\CriticalDeviceDatabase\\PCI#VEN_1AF4&DEV_1001&REV_00"
    }


# From 6.2


def test_the_layout_that_virt_v2v_proved() -> None:
    entries = driver_database_entries("viostor", ["VEN_1AF4&DEV_1001&REV_00"], SCSI, "amd64")
    name = "h2kviostor.inf_amd64_0000000000000000"

    assert entries == [
        RegEntry("DriverDatabase\\DriverInfFiles\\h2kviostor.inf", "", values.multi([name])),
        RegEntry("DriverDatabase\\DriverInfFiles\\h2kviostor.inf", "Active", values.text(name)),
        RegEntry("DriverDatabase\\DriverInfFiles\\h2kviostor.inf", "Configurations", values.multi(["viostor_conf"])),
        RegEntry(
            f"DriverDatabase\\DriverPackages\\{name}", "Version",
            values.binary(bytes.fromhex("00ff0900000000007be9364d25e3ce11bfc108002be10318") + bytes(24)),
        ),
        RegEntry(f"DriverDatabase\\DriverPackages\\{name}\\Configurations\\viostor_conf", "ConfigFlags", values.dword(0)),
        RegEntry(f"DriverDatabase\\DriverPackages\\{name}\\Configurations\\viostor_conf", "Service", values.text("viostor")),
        RegEntry("DriverDatabase\\DeviceIds\\PCI\\VEN_1AF4&DEV_1001&REV_00", "h2kviostor.inf", values.binary(b"\1\xff\0\0")),
        RegEntry(
            f"DriverDatabase\\DriverPackages\\{name}\\Descriptors\\PCI\\VEN_1AF4&DEV_1001&REV_00", "Configuration",
            values.text("viostor_conf"),
        ),
    ]  # fmt: skip
    assert len(entries[3].value.raw) == 48


@pytest.mark.parametrize(("arch", "word"), [("amd64", 9), ("x86", 0), ("arm64", 12)])
def test_architectures(arch: str, word: int) -> None:
    entries = driver_database_entries("viostor", ["X"], SCSI, arch)
    assert entries[3].key.endswith(f"h2kviostor.inf_{arch}_0000000000000000")
    assert entries[3].value.raw[:4] == bytes((0, 0xFF, word, 0)) and len(entries[3].value.raw) == 48


def test_an_architecture_without_drivers() -> None:
    with pytest.raises(BadData, match="no driver packages for the architecture 0x1c4"):
        driver_database_entries("viostor", ["X"], SCSI, "0x1c4")


def test_database_entries_read_back() -> None:
    made = hive(text(driver_database_entries("viostor", ["VEN_1AF4&DEV_1001&REV_00", "VEN_1AF4&DEV_1042&REV_01"], SCSI, "amd64")))
    for ids in (LEGACY, MODERN):
        (found,) = find_binding(made, 1, ids)
        assert (found.service, found.class_guid, found.inf) == ("viostor", SCSI, "h2kviostor.inf")
        assert found.entry == f"DriverDatabase\\DeviceIds\\PCI\\{found.id}"


@pytest.mark.parametrize(
    "device_id", ["VEN_1AF4&DEV_1001&REV_00", "VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00", "ven_1af4&dev_1001&subsys_00021af4"]
)
def test_a_guest_that_virt_v2v_has_converted_counts_as_bound(device_id: str) -> None:
    """2.12 leaves the subsystem out, 2.2 has it in."""
    made = hive(package("guestor.inf", device_id).replace("viostor_conf", "guestor_conf"))
    assert [(b.service, b.class_guid) for b in find_binding(made, 1, LEGACY)] == [("viostor", SCSI)]


def test_a_better_id_beats_a_worse_one() -> None:
    made = hive(package("a.inf", "CC_0100", "generic") + package("b.inf", "VEN_1AF4&DEV_1001", "viostor"))
    assert [b.service for b in find_binding(made, 1, LEGACY)] == ["viostor", "generic"]


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        ({"data": "02,ff,00,00"}, {"data": "01,ff,00,00"}),
        ({"data": "01,ff,00,00"}, {"data": "01,80,00,00"}),
        ({"data": "01,ff,00,00"}, {"data": "02,80,00,00"}),
        ({"data": ""}, {"data": "01,ff,00,00"}),
        ({"date": 1}, {"date": 2}),
        ({"date": 1, "version": 1}, {"date": 1, "version": 2}),
        ({"date": 0, "version": 9}, {"date": 1, "version": 0}),
    ],
)
def test_of_several_infs_for_one_id_the_better_rank(worse: dict[str, object], better: dict[str, object]) -> None:
    for first, second in (("a.inf", "b.inf"), ("b.inf", "a.inf")):
        made = hive(
            package(first, "VEN_1AF4&DEV_1001", "wrong", **worse) + package(second, "VEN_1AF4&DEV_1001", "right", **better)  # type: ignore[arg-type]
        )
        assert [b.service for b in find_binding(made, 1, LEGACY)] == ["right", "wrong"]


def test_a_feature_score_beats_a_better_id() -> None:
    made = hive(package("a.inf", "VEN_1AF4&DEV_1001", "viostor") + package("b.inf", "CC_0100", "scored", data="01,80,00,00"))
    assert [b.service for b in find_binding(made, 1, LEGACY)] == ["scored", "viostor"]


CHAIN = package("a.inf", "VEN_1AF4&DEV_1001")
NAME = "a.inf_amd64_0123456789abcdef"


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ('[DriverDatabase\\DriverInfFiles\\a.inf]\n"Active"=-\n', "DriverInfFiles\\a.inf has no Active package"),
        ('[DriverDatabase\\DriverInfFiles\\a.inf]\n"Active"="gone"\n', "DriverPackages\\gone is not there"),
        (f"-[DriverDatabase\\DriverPackages\\{NAME}\\Descriptors]\n", "\\VEN_1AF4&DEV_1001 has no Configuration"),
        (f"-[DriverDatabase\\DriverPackages\\{NAME}\\Configurations]\n", "Configurations\\viostor_conf is not there"),
        (
            f'[DriverDatabase\\DriverPackages\\{NAME}\\Configurations\\viostor_conf]\n"Service"=-\n',
            "Configurations\\viostor_conf has no Service",
        ),
        (
            f'[DriverDatabase\\DriverPackages\\{NAME}\\Configurations\\viostor_conf]\n"ConfigFlags"=dword:00000001\n',
            "Configurations\\viostor_conf is disabled (ConfigFlags 1)",
        ),
    ],
)
def test_a_chain_that_breaks_says_where(change: str, where: str) -> None:
    (found,) = find_binding(Hive.parse(build_hive(change, build_hive(CHAIN)), "SYSTEM"), 1, LEGACY)
    assert found.service == "" and found.where.endswith(where)


def test_flags_that_real_hives_carry_do_not_disable() -> None:
    made = hive(package("a.inf", "VEN_1AF4&DEV_1001", flags=0x400))
    assert [b.service for b in find_binding(made, 1, LEGACY)] == ["viostor"]


@pytest.mark.parametrize(("version", "guid"), [('"Version"=hex:00,ff', ""), ('"Version"=-', "")])
def test_a_package_without_a_class(version: str, guid: str) -> None:
    (found,) = find_binding(hive(CHAIN + f"[DriverDatabase\\DriverPackages\\{NAME}]\n{version}\n"), 1, LEGACY)
    assert (found.service, found.class_guid) == ("viostor", guid)


def test_the_class_is_in_the_version_from_byte_8() -> None:
    (found,) = find_binding(hive(package("a.inf", "VEN_1AF4&DEV_1001", guid=HDC)), 1, LEGACY)
    assert found.class_guid == HDC


def test_too_many_infs_for_one_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pnp, "MAX_INFS", 1)
    made = hive(package("a.inf", "VEN_1AF4&DEV_1001") + package("b.inf", "VEN_1AF4&DEV_1001"))
    with pytest.raises(BadData, match=r"SYSTEM: DriverDatabase\\DeviceIds\\PCI\\VEN_1AF4&DEV_1001 names 2 INF files"):
        find_binding(made, 1, LEGACY)


@pytest.mark.parametrize("name", ["win10-1903-vmware.SYSTEM", "win8.1-virtualbox.SYSTEM", "made-win10.SYSTEM"])
def test_real_databases(name: str) -> None:
    system = corpus_hive(name)
    assert pnp.uses_driver_database(system)
    sata = find_binding(system, 1, PciId(0x8086, 0x2922, 0x1AF4, 0x1100, 2, 0x010601).ids())
    assert [(b.service, b.class_guid) for b in sata] == [("storahci", HDC)]
    ide = find_binding(system, 1, PciId(0x8086, 0x7010, 0x1AF4, 0x1100, 0, 0x010180).ids())
    assert [b.service for b in ide] == ["intelide", "pciide"]
    assert find_binding(system, 1, LEGACY) == ()


@pytest.mark.parametrize("name", ["win10-1903-vmware.SYSTEM", "made-win10.SYSTEM"])
def test_a_real_package_that_was_never_configured_binds_nothing(name: str) -> None:
    """VMware's pvscsi was put into this machine's driver store, but it had no such device."""
    (found,) = find_binding(corpus_hive(name), 1, ["VEN_15AD&DEV_07C0"])
    assert (found.service, found.class_guid) == ("", SCSI) and found.where.endswith("has no Configuration")


@many
@given(damaged(build_hive(CHAIN + package("b.inf", "VEN_1AF4&DEV_1001", "other"))))
def test_damaged_databases(data: bytes) -> None:
    try:
        find_binding(Hive.parse(data, "SYSTEM"), 1, LEGACY)
    except BadData as bad:
        assert bad.message.startswith("SYSTEM")


@given(st.binary(max_size=60), st.binary(max_size=8))
def test_any_version_and_rank(version: bytes, rank: bytes) -> None:
    change = f'[DriverDatabase\\DriverPackages\\{NAME}]\n"Version"=hex:{version.hex(",")}\n'
    change += f'[DriverDatabase\\DeviceIds\\PCI\\VEN_1AF4&DEV_1001]\n"a.inf"=hex:{rank.hex(",")}\n'
    assert [b.service for b in find_binding(hive(CHAIN + change), 1, LEGACY)] == ["viostor"]
