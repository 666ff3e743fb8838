"""Which Windows: the version, build, product and name that the hives say."""

from __future__ import annotations

import pytest
from hypothesis import given

from h2k.base.errors import BadData
from h2k.windows.regf import Hive
from h2k.windows.version import WindowsVersion, read_version
from tests.guests.regfile import build_hive
from tests.unit.helpers import damaged, hive, many

KEY = "[Microsoft\\Windows NT\\CurrentVersion]\n"
TEN = '"CurrentMajorVersionNumber"=dword:0000000a\n"CurrentMinorVersionNumber"=dword:00000000\n"CurrentVersion"="6.3"\n'


def read(software: str, product_type: str = "WinNT", machine: str = "amd64") -> WindowsVersion:
    system = hive(f'[ControlSet001\\Control\\ProductOptions]\n"ProductType"="{product_type}"\n' if product_type else "[x]\n")
    return read_version(hive(KEY + software, "SOFTWARE"), system, 1, machine)


def software(nt: str, build: str, product: str, more: str = "") -> str:
    version = TEN if nt == "10.0" else f'"CurrentVersion"="{nt}"\n'
    return f'{version}"CurrentBuildNumber"="{build}"\n"ProductName"="{product}"\n{more}'


@pytest.mark.parametrize(
    ("nt", "build", "product", "kind", "version", "server", "name"),
    [
        ("6.1", "7601", "Windows 7 Professional", "WinNT", (6, 1), False, "Windows 7 Professional x64 build 7601"),
        ("6.1", "7601", "Windows Server 2008 R2 Standard", "ServerNT", (6, 1), True, "Windows Server 2008 R2 Standard x64 build 7601"),
        ("6.3", "9600", "Windows Server 2012 R2", "LanmanNT", (6, 3), True, "Windows Server 2012 R2 x64 build 9600"),
        ("10.0", "19045", "Windows 10 Pro", "WinNT", (10, 0), False, "Windows 10 Pro x64 build 19045"),
        ("10.0", "22631", "Windows 10 Pro", "WinNT", (10, 0), False, "Windows 11 Pro x64 build 22631"),
        ("10.0", "26100", "Windows Server 2025 Datacenter", "ServerNT", (10, 0), True, "Windows Server 2025 Datacenter x64 build 26100"),
        ("5.1", "2600", "Microsoft Windows XP", "WinNT", (5, 1), False, "Microsoft Windows XP x64 build 2600"),
    ],
)  # fmt: skip
def test_every_windows(
    nt: str, build: str, product: str, kind: str, version: tuple[int, int], server: bool, name: str
) -> None:
    found = read(software(nt, build, product), kind)
    assert (found.version, found.build, found.server, found.name, found.product) == (version, int(build), server, name, product)


def test_edition_installation_and_architecture() -> None:
    more = '"EditionID"="ServerStandard"\n"InstallationType"="Server Core"\n'
    found = read(software("10.0", "20348", "Windows Server 2022", more), "ServerNT", "arm64")
    assert (found.edition, found.installation_type, found.arch) == ("ServerStandard", "Server Core", "arm64")
    assert found.name == "Windows Server 2022 arm64 build 20348"


@pytest.mark.parametrize(("installation", "server"), [("Server Core", True), ("Server", True), ("Client", False), ("", False)])
def test_without_a_product_type_the_installation_says_it(installation: str, server: bool) -> None:
    assert read(software("10.0", "20348", "Windows", f'"InstallationType"="{installation}"\n'), "").server is server


def test_an_old_current_build_counts_when_there_is_no_number() -> None:
    assert read('"CurrentVersion"="6.1"\n"CurrentBuild"="7601"\n').build == 7601


def test_what_people_see_has_no_control_characters_and_an_end() -> None:
    found = read(software("10.0", "19045", "Windows\\u001b[31m 10\\nPro" + "x" * 500))
    assert found.product.startswith("Windows[31m 10Pro") and len(found.product) <= 200
    assert found.name.isprintable()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "SOFTWARE: .*CurrentBuildNumber is ''"),
        ('"CurrentBuildNumber"="7601"\n', "SOFTWARE: .*CurrentVersion is ''"),
        (software("6", "7601", "x"), "CurrentVersion is '6'"),
        (software("6.1.2", "7601", "x"), "CurrentVersion is '6.1.2'"),
        (software("six.one", "7601", "x"), "CurrentVersion is 'six.one'"),
        (software("6.1", "service pack", "x"), "CurrentBuildNumber is 'service pack'"),
        (software("6.1", "123456789", "x"), "CurrentBuildNumber is '123456789'"),
        (software("6.1", "-1", "x"), "CurrentBuildNumber is '-1'"),
    ],
)
def test_what_can_not_be_read(text: str, message: str) -> None:
    with pytest.raises(BadData, match=message):
        read(text)


def test_no_key() -> None:
    with pytest.raises(BadData, match=r"SOFTWARE: no key Microsoft\\Windows NT\\CurrentVersion"):
        read_version(hive("[x]\n", "SOFTWARE"), hive("[x]\n"), 1, "amd64")


@many
@given(damaged(build_hive(KEY + software("10.0", "20348", "Windows Server 2022"))))
def test_damaged_hives(data: bytes) -> None:
    try:
        read_version(Hive.parse(data, "SOFTWARE"), hive("[x]\n"), 1, "amd64")
    except BadData as bad:
        assert bad.message.startswith("SOFTWARE")
