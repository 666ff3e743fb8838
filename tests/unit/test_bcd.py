"""The BCD: what the boot manager would start, from where, and nothing but BadData for what is no store."""

from __future__ import annotations

import struct
import uuid
from typing import Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2k.base.errors import BadData
from h2k.windows import bcd
from h2k.windows.bcd import BOOT_MANAGER, BcdDevice, BcdStore, decode_device, encode_partition, read_bcd, resolve
from h2k.windows.regf import Hive
from tests.guests.build import bcd_text
from tests.guests.regfile import build_hive
from tests.unit.helpers import corpus_hive, damaged, hive, many

DISK, PARTITION = "0B2394A9-095E-487D-8D48-719ECD4D78CA", "8E0F2C38-E4EA-47BA-B7FC-9D8C74DCCF0B"
LOADER, OTHER = "{11111111-1111-1111-1111-111111111111}", "{22222222-2222-2222-2222-222222222222}"
GPT = encode_partition("gpt", DISK, PARTITION)


def text(object_id: str, kind: Optional[int] = bcd.WINDOWS_LOADER, **elements: str) -> str:
    """One object; elements as e11000001='"text"'."""
    lines = [f"[Objects\\{object_id}]"]
    if kind is not None:
        lines += [f"[Objects\\{object_id}\\Description]", f'"Type"=dword:{kind:08x}']
    for number, value in elements.items():
        lines += [f"[Objects\\{object_id}\\Elements\\{number[1:]}]", f'"Element"={value}']
    return "\n".join(lines) + "\n"


def store(*objects: str) -> BcdStore:
    return read_bcd(hive("".join(objects), "BCD"))


def manager(**elements: str) -> str:
    return text(BOOT_MANAGER, 0x10100002, **elements)


def binary(data: bytes) -> str:
    return "hex:" + data.hex(",")


# The store


def test_the_default_loader_with_its_path_and_devices() -> None:
    found = store(
        manager(e23000003=f'"{LOADER.upper()}"', e24000001=f'multi:["{OTHER}","{LOADER}"]', e11000001=binary(GPT)),
        text(LOADER, e11000001=binary(GPT), e21000001=binary(GPT), e12000002='"\\\\Windows\\\\winload.efi"', e22000002='"\\\\Windows"'),
        text(OTHER, e12000002='"\\\\other.efi"'),
    )
    loader = found.default_loader()
    assert loader is not None
    assert (loader.id, loader.path, loader.system_root) == (LOADER, "\\Windows\\winload.efi", "\\Windows")
    assert loader.device == loader.os_device == found.boot_manager.device == BcdDevice("partition", "gpt", DISK, PARTITION)
    assert found.display_order == (OTHER, LOADER)
    assert len(found.loaders) == 2


def test_without_a_default_the_first_of_the_display_order() -> None:
    found = store(manager(e24000001=f'multi:["{OTHER}","{LOADER}"]'), text(LOADER), text(OTHER))
    loader = found.default_loader()
    assert found.default is None and loader is not None and loader.id == OTHER


@pytest.mark.parametrize(
    ("elements", "objects"),
    [
        ({}, text(LOADER)),
        ({"e23000003": f'"{OTHER}"', "e24000001": f'multi:["{LOADER}"]'}, text(LOADER)),  # the default is gone
        ({"e23000003": f'"{OTHER}"'}, text(OTHER, 0x10200004)),  # a resume object
        ({"e23000003": f'"{OTHER}"'}, text(OTHER, None)),  # no description
        ({"e24000001": f'multi:["{OTHER}"]'}, text(LOADER)),
        ({"e23000003": "dword:00000001"}, text(LOADER)),
        ({"e24000001": f'"{LOADER}"'}, text(LOADER)),  # a string where a list belongs
    ],
)
def test_no_default_loader(elements: dict[str, str], objects: str) -> None:
    assert store(manager(**elements), objects).default_loader() is None


def test_the_one_time_boot_sequence_has_each_object_of_the_store_once() -> None:
    gone = "{99999999-9999-9999-9999-999999999999}"
    found = store(
        manager(e24000002=f'multi:["{gone}","{OTHER.upper()}","{LOADER}","{OTHER}"]'),
        text(LOADER), text(OTHER, 0x10200005, e12000004='"Memory test"', e12000002='"\\\\boot\\\\memtest.efi"'),
    )  # fmt: skip
    assert [(entry.id, entry.description) for entry in found.boot_sequence] == [(OTHER, "Memory test"), (LOADER, "")]
    assert store(manager(), text(LOADER)).boot_sequence == ()
    assert store(manager(e24000002=f'"{LOADER}"'), text(LOADER)).boot_sequence == (), "a string where a list belongs"


def test_elements_are_inherited_nearest_first() -> None:
    parent, grandparent = "{33333333-3333-3333-3333-333333333333}", "{44444444-4444-4444-4444-444444444444}"
    found = store(
        manager(e23000003=f'"{LOADER}"'),
        text(LOADER, e14000006=f'multi:["{parent.upper()}","{{00000000-0000-0000-0000-000000000000}}"]'),
        text(parent, 0x20200003, e14000006=f'multi:["{grandparent}"]', e12000002='"\\\\near"'),
        text(grandparent, 0x20100000, e12000002='"\\\\far"', e22000002='"\\\\root"', e11000001=binary(GPT)),
    ).default_loader()
    assert found is not None
    assert (found.path, found.system_root) == ("\\near", "\\root")
    assert found.device is not None and found.device.kind == "partition"


def test_inheritance_that_loops_ends() -> None:
    found = store(
        manager(e23000003=f'"{LOADER}"'),
        text(LOADER, e14000006=f'multi:["{OTHER}","{LOADER}"]'),
        text(OTHER, e14000006=f'multi:["{LOADER}","{OTHER}"]', e12000002='"\\\\x"'),
    ).default_loader()
    assert found is not None and found.path == "\\x"


def test_long_inheritance_ends() -> None:
    ids = [f"{{{number:08x}-0000-0000-0000-000000000000}}" for number in range(1, 40)]
    chain = [text(a, e14000006=f'multi:["{b}"]') for a, b in zip(ids, ids[1:])]
    found = store(manager(e23000003=f'"{ids[0]}"'), *chain, text(ids[-1], e12000002='"\\\\far"')).default_loader()
    assert found is not None and found.path is None


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ("[Elsewhere]\n", "BCD: no key Objects"),
        (text(LOADER), "BCD: no boot manager object"),
        (manager() + "".join(f"[Objects\\x{n}]\n" for n in range(bcd.MAX_OBJECTS)), "BCD: 1025 objects are too many"),
    ],
)
def test_what_is_no_store(made: str, message: str) -> None:
    with pytest.raises(BadData, match=message):
        read_bcd(hive(made, "BCD"))


def test_values_that_cost_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bcd, "MAX_ELEMENT_VALUES", 20)
    with pytest.raises(BadData, match="BCD: too many values"):
        store(manager(), *(text(f"{{{n}}}", e12000002='"x"') for n in range(20)))


# Device elements


def test_gpt_and_mbr_partitions_as_they_are_written() -> None:
    assert len(GPT) == 88
    assert decode_device(GPT) == BcdDevice("partition", "gpt", DISK, PARTITION)
    mbr = encode_partition("mbr", "0x1234abcd", "105906176")
    assert decode_device(mbr) == BcdDevice("partition", "mbr", "0x1234abcd", "105906176")
    assert decode_device(GPT + b"more") == decode_device(GPT)


def element(**numbers: int) -> bytes:
    """The GPT element with DWORDs at other values: at16=5."""
    raw = bytearray(GPT)
    for place, number in numbers.items():
        struct.pack_into("<I", raw, int(place[2:]), number)
    return bytes(raw)


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"", "unknown"),
        (GPT[:31], "unknown"),
        (GPT[:71], "unknown"),
        (element(at16=5), "boot"),
        (element(at16=5)[:32], "boot"),
        (element(at16=8), "locate"),
        (element(at16=0), "unknown"),  # a ramdisk, as WinRE's loader has it
        (element(at16=2), "unknown"),
        (element(at48=6), "unknown"),  # a partition of a virtual disk's file
        (element(at48=3), "unknown"),
        (element(at52=2), "unknown"),
    ],
)
def test_kinds_of_devices(raw: bytes, kind: str) -> None:
    assert decode_device(raw) == BcdDevice(kind)


def test_resolving_among_the_disks() -> None:
    disks: list[tuple[int, str, str, bcd.Partitions]] = [
        (0, "mbr", "0x1234abcd", [(1, 1048576, None), (2, 105906176, None)]),
        (1, "gpt", DISK.lower(), [(1, 1048576, str(uuid.uuid4())), (3, 2097152, PARTITION.lower())]),
        (2, "none", "", []),
    ]
    assert resolve(BcdDevice("partition", "gpt", DISK, PARTITION), disks) == (1, 3)
    assert resolve(BcdDevice("partition", "mbr", "0x1234ABCD", "105906176"), disks) == (0, 2)
    assert resolve(BcdDevice("partition", "mbr", "0x1234abcd", "2097152"), disks) is None
    assert resolve(BcdDevice("partition", "gpt", PARTITION, PARTITION), disks) is None
    assert resolve(BcdDevice("partition", "mbr", DISK, "1048576"), disks) is None


@pytest.mark.parametrize("firmware", ["uefi", "bios"])
def test_the_made_guests_stores(firmware: str) -> None:
    found = read_bcd(hive(bcd_text("some", firmware), "BCD"))
    loader = found.default_loader()
    assert loader is not None and loader.path is not None and loader.path.endswith("efi" if firmware == "uefi" else "exe")
    assert loader.os_device is not None and loader.os_device.style == ("gpt" if firmware == "uefi" else "mbr")


def test_a_real_store() -> None:
    found = read_bcd(corpus_hive("win10.BCD"))
    loader = found.default_loader()
    assert loader is not None
    assert (loader.path, loader.system_root) == ("\\Windows\\system32\\winload.efi", "\\Windows")
    assert loader.device == loader.os_device == BcdDevice("partition", "gpt", DISK, PARTITION)
    recovery = next(entry for entry in found.loaders if entry.id != loader.id)
    assert recovery.device == BcdDevice("unknown")


# Any bytes


@many
@given(st.binary(max_size=200))
def test_any_device_bytes(raw: bytes) -> None:
    assert decode_device(raw).kind in ("partition", "boot", "locate", "unknown")


@given(st.uuids(), st.uuids())
def test_gpt_devices_read_back(disk: uuid.UUID, partition: uuid.UUID) -> None:
    found = decode_device(encode_partition("gpt", str(disk), str(partition)))
    assert (found.disk, found.partition) == (str(disk).upper(), str(partition).upper())


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**63))
def test_mbr_devices_read_back(signature: int, offset: int) -> None:
    found = decode_device(encode_partition("mbr", f"{signature:#x}", str(offset)))
    assert (int(found.disk, 16), int(found.partition)) == (signature, offset)


@many
@given(damaged(build_hive(bcd_text("some", "uefi"))))
def test_damaged_stores(data: bytes) -> None:
    try:
        read_bcd(Hive.parse(data, "BCD")).default_loader()
    except BadData as bad:
        assert bad.message.startswith("BCD")
