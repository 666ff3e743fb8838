"""The configuration ISO's files: addresses by MAC, the data disk, the agent on COM2, and a shutdown at the end."""

from __future__ import annotations

import re

import pytest

from tests.unit.kit_world import answers
from tests.windows.configuration import AGENTS, CARDS, DATA_LETTER, SERVICE, Card, contents, diskpart_script, setup_script


@pytest.mark.parametrize("arch", ["amd64", "x86"])
def test_the_script_is_ascii_with_windows_line_ends_and_uses_no_powershell(arch: str) -> None:
    data = contents(answers(19045, False, arch, "bios"))["h2k-kit/setup.cmd"]
    text = data.decode("ascii")
    assert "\n" not in text.replace("\r\n", "") and "powershell" not in text.lower()
    assert AGENTS[arch] in text and max(map(len, text.split("\r\n"))) < 8191  # cmd.exe's longest line


def test_every_label_that_is_called_is_there_once() -> None:
    text = setup_script("amd64")
    labels = re.findall(r"^:(\w+)", text, re.MULTILINE)
    assert len(labels) == len(set(labels))
    assert set(re.findall(r"call :(\w+)", text)) <= set(labels) == {"told", "card", *(f"card_{n + 1}" for n in range(len(CARDS)))}


def test_each_card_is_found_by_its_mac_and_gets_its_settings() -> None:
    text = setup_script("amd64", [Card(
        "52:54:00:aa:bb:cc", (("192.0.2.9", "255.255.255.0"), ("192.0.2.8", "255.255.255.0")), "192.0.2.1", ("192.0.2.5",),
        ("192.0.2.6",), 1400, 7,
    )])  # fmt: skip
    assert '"52-54-00-AA-BB-CC"' in text
    for part in (
        'set address name="%nic%" static 192.0.2.9 255.255.255.0 192.0.2.1 1', 'add address name="%nic%" 192.0.2.8 255.255.255.0',
        "address=192.0.2.5 index=1", "winsserver name=\"%nic%\" address=192.0.2.6", "mtu=1400 store=persistent", "metric=7",
    ):  # fmt: skip
        assert part in text


def test_a_card_without_a_gateway_gets_none() -> None:
    text = setup_script("amd64", [Card("52:54:00:aa:bb:cc", (("198.51.100.2", "255.255.255.0"),))])
    assert 'static 198.51.100.2 255.255.255.0 >>' in text and "dnsserver" not in text


def test_the_agent_waits_on_com2_and_nothing_is_registered() -> None:
    text = setup_script("amd64")
    assert 'start /wait "" msiexec /a ' in text and "msiexec /i" not in text
    service = next(line for line in text.split("\r\n") if f"sc create {SERVICE}" in line)
    for part in ("start= auto", "--retry-path", "--method isa-serial", "--path COM2"):
        assert part in service


def test_the_machine_is_shut_down_last_and_without_fast_startup() -> None:
    text = setup_script("amd64")
    assert text.index("powercfg /h off") < text.index("call :told done ok") < text.index("shutdown /s")


def test_the_data_disk_is_the_second_and_gets_its_letter() -> None:
    lines = diskpart_script().split("\r\n")
    assert lines[0] == "select disk 1" and f"assign letter={DATA_LETTER}" in lines
    assert lines.index("clean") < lines.index("create partition primary")


def test_the_root_has_the_answer_file() -> None:
    assert set(contents(answers())) == {"autounattend.xml", "h2k-kit/setup.cmd", "h2k-kit/diskpart.txt"}
