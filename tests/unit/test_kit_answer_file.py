"""The answer file: good for every Windows that the kit installs, and each release's own needs are in it."""

from __future__ import annotations

import pytest
from lxml import etree

from tests.unit.kit_world import an_image, answers
from tests.windows.answer_check import errors
from tests.windows.answer_file import NAMESPACE, PASSWORD, USER, Answers, answer_file
from tests.windows.releases import _BY_BUILD

EVERY = [
    (last, server, arch, firmware)
    for _, last, server, release in _BY_BUILD
    for arch in ("amd64", "x86")
    for firmware in ("bios", "uefi")
    if firmware == "bios" or (release.uefi and arch == "amd64")
]


def texts(data: bytes, name: str) -> list[str]:
    return [found.text or "" for found in etree.fromstring(data).iter(f"{{{NAMESPACE}}}{name}")]


@pytest.mark.parametrize(("build", "server", "arch", "firmware"), EVERY)
def test_every_answer_file_is_good_and_has_no_key(build: int, server: bool, arch: str, firmware: str) -> None:
    data = answer_file(answers(build, server, arch, firmware))
    assert errors(data) == []
    assert texts(data, "ProductKey") == [] and b"ProductKey" not in data
    assert set(etree.fromstring(data).xpath("//@processorArchitecture")) == {arch}


@pytest.mark.parametrize(("firmware", "kinds", "target", "active"), [
    ("uefi", ["EFI", "MSR", "Primary"], ["3"], []), ("bios", ["Primary", "Primary"], ["2"], ["true"]),
])  # fmt: skip
def test_the_disk_is_what_the_firmware_starts_from(firmware: str, kinds: list[str], target: list[str], active: list[str]) -> None:
    data = answer_file(answers(firmware=firmware))
    assert texts(data, "Type") == kinds and texts(data, "Active") == active
    assert texts(data, "PartitionID")[-1:] == target


def test_the_image_is_chosen_by_its_index_and_language() -> None:
    data = answer_file(Answers(an_image(index=4), "uefi"))
    assert texts(data, "Key") == ["/IMAGE/INDEX"] and texts(data, "Value")[0] == "4"
    assert set(texts(data, "UILanguage")) == {"en-US"}


def test_only_windows_11_is_told_to_pass_over_its_checks() -> None:
    checks = texts(answer_file(answers(22631, server=False)), "Path")
    assert len(checks) == 5 and all("LabConfig" in path for path in checks)
    assert texts(answer_file(answers(26100)), "Path") == [] == texts(answer_file(answers(19045, server=False)), "Path")


def test_windows_7_knows_no_pages_about_accounts_and_asks_for_its_network() -> None:
    old, new = answer_file(answers(7601, False, "x86", "bios")), answer_file(answers(19045, False))
    assert texts(old, "NetworkLocation") == ["Work"] and texts(old, "HideOnlineAccountScreens") == []
    assert texts(new, "NetworkLocation") == [] and texts(new, "HideOnlineAccountScreens") == ["true"]


def test_the_first_logon_finds_the_kit_on_any_drive() -> None:
    (command,) = texts(answer_file(answers()), "CommandLine")
    assert command.startswith("cmd.exe /c") and "%d:\\h2k-kit\\setup.cmd" in command
    assert texts(answer_file(answers()), "LogonCount") == ["1"]


def test_the_password_is_one_that_a_server_takes() -> None:
    kinds = [any(map(test, PASSWORD)) for test in (str.isupper, str.islower, str.isdigit, lambda c: not c.isalnum())]
    assert sum(kinds) >= 3 and len(PASSWORD) >= 7
    assert USER.lower() not in PASSWORD.lower() and "administrator" not in PASSWORD.lower()
