"""What the readers of domain descriptions share: values that libvirt would refuse are none, or bad data."""

from __future__ import annotations

from typing import Optional

import pytest

from h2k.base.errors import BadData
from h2k.domain.facts import Topology
from h2k.domain.values import NOT_XML, NUMBER, mac_of, topology_of


def test_a_topology_makes_the_number_of_cpus() -> None:
    assert topology_of(2, 3, 1, 6) == Topology(2, 3, 1)
    assert topology_of(2, 3, 1, 5) is None and topology_of(0, 3, 1, 0) == Topology(0, 3, 1)


@pytest.mark.parametrize(
    ("text", "mac"),
    [("00:50:56:AA:bb:01", "00:50:56:aa:bb:01"), (" 00-50-56-aa-bb-01\n", "00:50:56:aa:bb:01"), (None, None), ("", None), ("00:00:00:00:00:00", None)],
)
def test_a_mac_in_libvirts_form(text: Optional[str], mac: Optional[str]) -> None:
    assert mac_of(text, "g.vmx") == mac


@pytest.mark.parametrize("text", ["01:00:5e:00:00:01", "00:50:56", "x" * 100, "00:50:56:aa:bb:0g"])
def test_what_is_no_mac_of_one_card(text: str) -> None:
    with pytest.raises(BadData, match=r"^g\.vmx: '.{1,40}' is no MAC address of one card"):
        mac_of(text, "g.vmx")


def test_what_xml_can_not_hold() -> None:
    assert all(NOT_XML.search(c) for c in "\x00\x08\x0a\x1f\ud800\udfff\ufffe") and not NOT_XML.search("a\tb ä 漢 😀")
    assert NUMBER.fullmatch("9" * 15) and not NUMBER.fullmatch("9" * 16) and not NUMBER.fullmatch("-1")
