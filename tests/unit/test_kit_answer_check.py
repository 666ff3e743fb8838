"""The check of answer files: what Microsoft does not publish, what does not fit together, and what is hostile, is told."""

from __future__ import annotations

import pytest

from tests.unit.kit_world import answers
from tests.windows.answer_check import errors
from tests.windows.answer_file import answer_file

GOOD = answer_file(answers()).decode()
BIOS = answer_file(answers(firmware="bios")).decode()


def test_a_good_file_has_no_errors() -> None:
    assert errors(GOOD.encode()) == [] == errors(BIOS.encode())


@pytest.mark.parametrize(("old", "new", "place"), [
    ("<AcceptEula>true", "<ProductKey><Key>AAAAA-BBBBB-CCCCC-DDDDD-EEEEE</Key></ProductKey><AcceptEula>true", "UserData/ProductKey"),
    ("<AcceptEula>true", "<AcceptEula>yes", "UserData/AcceptEula"),
    ("<AcceptEula>true", "<AcceptEula>false", "licence"),
    ("<ComputerName>H2K-SOURCE", "<ComputerName>A-NAME-OF-16-LONG", "ComputerName"),
    ("<ComputerName>H2K-SOURCE", "<ComputerName>A B", "ComputerName"),
    ("<Type>MSR", "<Type>Msr", "CreatePartition/Type"),
    ("<PartitionID>3</PartitionID>\n          </InstallTo>", "<PartitionID>2</PartitionID>\n          </InstallTo>", "goes to partition 2"),
    ("<Type>EFI", "<Type>Primary", "EFI partition or an active one"),
    ("<Order>2</Order>", "<Order>3</Order>", "Order is"),
    ('<Disk wcm:action="add">', "<Disk>", 'lacks wcm:action="add"'),
    ("<WillWipeDisk>true</WillWipeDisk>", "<WillWipeDisk>true</WillWipeDisk><WillWipeDisk>true</WillWipeDisk>", "WillWipeDisk: 2 times"),
    ("<Letter>C", "<Letter>B", "Letter"),
    ('pass="specialize"', 'pass="generalize"', "generalize/Microsoft-Windows-Shell-Setup"),
    ('publicKeyToken="31bf3856ad364e35"', 'publicKeyToken="0000000000000000"', "publicKeyToken"),
    ('name="Microsoft-Windows-LUA-Settings" processorArchitecture="amd64"',
     'name="Microsoft-Windows-LUA-Settings" processorArchitecture="x86"', "architectures"),
    ("urn:schemas-microsoft-com:unattend", "urn:other", "not unattend"),
    ("<FullName>h2k</FullName>", f"<FullName>{'x' * 256}</FullName>", "FullName"),
    ("<FullName>h2k</FullName>", "<FullName><b>h2k</b></FullName>", "FullName"),
    ("</unattend>", "<other/></unattend>", "only settings"),
    ("</unattend>", "", "no XML"),
    ("<unattend ", '<!DOCTYPE x [<!ENTITY a "b">]><unattend ', "document type"),
], ids=range(21))  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(old: str, new: str, place: str) -> None:
    assert old in GOOD
    found = errors(GOOD.replace(old, new, 1).encode() if "token" not in new else GOOD.replace(old, new).encode())
    assert any(place in error for error in found), found


def test_an_active_partition_beside_an_efi_one_is_wrong() -> None:
    found = errors(BIOS.replace("<Active>true</Active>", "").encode())
    assert found == ["the disk has an EFI partition or an active one, and not both"]


def test_a_component_twice_is_wrong() -> None:
    start = GOOD.index('    <component name="Microsoft-Windows-LUA-Settings"')
    end = GOOD.index("</component>", start) + len("</component>")
    assert any(error.endswith(": twice") for error in errors((GOOD[:end] + GOOD[start:end] + GOOD[end:]).encode()))


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"<", b"\xff\xfe<", b"<unattend/>" * 2, b"<a>" * 100_000], ids=range(6))
def test_rubbish_is_one_error_and_no_exception(data: bytes) -> None:
    assert len(errors(data)) == 1
