"""A few bytes that would make hours of work: each kind of hostile input is told in seconds, with the place."""

from __future__ import annotations

import contextlib
import itertools
import struct

import pytest

from h2k.base.errors import BadData
from h2k.base.xml import parse_xml
from h2k.domain.libvirt_reader import read_domain_xml
from h2k.domain.ovf import read_ovf
from h2k.engine.hooks import propose
from h2k.windows import regf, values
from h2k.windows.regf import Hive
from tests.guests.rawhive import Node, RawHive
from tests.unit.helpers import in_time
from tests.unit.hooks import options, packaged
from tests.unit.memory_reader import windows_guest


def system(*services: Node, filters: bytes = b"") -> RawHive:
    """A SYSTEM hive with these services, and a class whose filters are given."""
    numbers = [(name, values.REG_DWORD, struct.pack("<I", 1)) for name in ("Current", "Default", "LastKnownGood")]
    product = Node("ProductOptions", values=[("ProductType", values.REG_SZ, "ServerNT\0".encode("utf-16-le"))])
    disks = Node("{4d36e967-e325-11ce-bfc1-08002be10318}", values=[("UpperFilters", values.REG_MULTI_SZ, filters)] if filters else [])
    control = Node("Control", keys=[Node("Class", keys=[disks]), product])
    return RawHive(
        Node("ROOT", keys=[Node("ControlSet001", keys=[control, Node("Services", keys=services)]), Node("Select", values=numbers)])
    )


def findings(data: bytes) -> None:
    """All hooks, asked about a guest with that SYSTEM hive."""
    guest = windows_guest(base=data)
    propose(packaged().values(), guest, options())


def sharing(number: int, length: int) -> bytes:
    """Services that share one list of values."""
    hive = system(*(Node(f"svc{n:05d}", values=[("Start", 4, bytes(4))] if n else ()) for n in range(number)))
    listed = [hive._value((f"v{n}", values.REG_DWORD, b"\1\0\0\0"), "x") for n in range(length)]
    place = hive.cell(struct.pack(f"<{length}I", *listed))
    for n in range(number):
        key = hive.at[f"ControlSet001\\Services\\svc{n:05d}"]
        hive.put(key, 36, length)
        hive.put(key, 40, place)
    return hive.data()


def test_services_that_share_a_list_of_values() -> None:
    data = sharing(500, 60_000)
    with in_time():
        hive = Hive.parse(data, "SYSTEM")
        with pytest.raises(BadData, match=r"SYSTEM: more work than a sound hive takes .* at hive bin offset"):
            for key in hive.key("ControlSet001\\Services").subkeys():  # type: ignore[union-attr]
                key.value("ImagePath")
    with in_time():
        findings(data)


def test_services_that_share_a_list_whose_first_value_is_asked_for() -> None:
    data = sharing(500, 60_000)
    with in_time():
        hive = Hive.parse(data, "SYSTEM")
        with pytest.raises(BadData, match=r"SYSTEM: more work than a sound hive takes"):
            for key in hive.key("ControlSet001\\Services").subkeys():  # type: ignore[union-attr]
                key.value("v0")


def test_names_with_equal_hashes() -> None:
    names = ["".join(blocks) for blocks in itertools.product(("A[", "B6"), repeat=13)]
    assert len({regf.name_hash(name) for name in names}) == 1
    data = system(*(Node(name) for name in sorted(names))).data()
    with in_time():
        hive = Hive.parse(data, "SYSTEM")
        services = hive.key("ControlSet001\\Services")
        assert services is not None
        with pytest.raises(BadData, match="equal hashes"):
            for name in reversed(names):
                services.subkey(name)
    with in_time():
        findings(data)


def test_very_many_filters() -> None:
    filters = "".join(f"filter{n}\0" for n in range(60_000)) + "\0"
    data = system(filters=filters.encode("utf-16-le")).data()
    with in_time():
        findings(data)


def test_the_deep_check_is_bounded_by_the_size_of_the_hive_alone() -> None:
    data = RawHive(Node("ROOT", keys=[Node(f"K{n:05d}") for n in range(20_000)], kind="ri")).data()
    assert len(data) // 80 > 20_000
    assert regf.check(data, "SYSTEM", deep=True) == []
    with in_time():
        assert "two records hold" in regf.check(sharing(500, 60_000), "SYSTEM", deep=True)[0]


# XML

ATTRIBUTES = "".join(f' a{n}="x"' for n in range(80_000))
NAMESPACES = "".join(f' xmlns:n{n}="urn:{n}"' for n in range(40_000))


@pytest.mark.parametrize(
    "text",
    [
        f"<domain{ATTRIBUTES}/>", f"<domain{NAMESPACES}/>", "<a>" * 100_000, "<domain>" + "<a/>" * 400_000 + "</domain>",
        "<domain>" + "<a b='c'/>" * 200_000, f"<domain><name x='{'y' * 3_000_000}'/></domain>",
    ],
    ids=["attributes", "namespaces", "depth", "elements", "unclosed", "value"],
)  # fmt: skip
def test_xml(text: str) -> None:
    with in_time():
        for read in (parse_xml, read_domain_xml, read_ovf):
            with contextlib.suppress(BadData):
                read(text.encode(), "x.xml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_an_element_of_too_many_attributes_is_refused_before_it_is_parsed(encoding: str) -> None:
    for text in (ATTRIBUTES, NAMESPACES):
        with pytest.raises(BadData, match=r"x\.xml:1: more than 500 attributes"):
            parse_xml(f"<domain{text}/>".encode(encoding), "x.xml")
    some = "".join(f' a{n}="x"' for n in range(450))
    parse_xml(f"<a{some}>{'a = b' * 5000}</a>".encode(encoding), "x.xml")
