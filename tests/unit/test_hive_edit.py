"""Hive edits through hivex, read back by our own reader: what is set is there, once, and the hive is clean and sound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from h2k.base.errors import BadData
from h2k.windows import regf
from h2k.windows.hive_edit import DeleteKey, DeleteValue, HiveEdit, SetValue, edit_hive
from h2k.windows.regf import Hive
from h2k.windows.values import REG_BINARY, REG_DWORD, REG_SZ
from tests.corpus import corpus
from tests.guests.rawhive import Node, RawHive
from tests.guests.regfile import fix_dirty, make_dirty

ONE, TWO = b"\1\0\0\0", b"\2\0\0\0"
SERVICE = Node("disk", values=[("Start", REG_DWORD, TWO), ("ImagePath", 2, b"x\0\0\0"), ("Group", REG_SZ, b"g\0\0\0")])
TREE = Node("ROOT", keys=[Node("Select"), Node("Services", keys=[SERVICE, Node("Ünïcode", values=[("ÄÖ", REG_DWORD, ONE)])])])


def edited(path: Path, data: bytes, *edits: HiveEdit) -> Hive:
    """The hive after the edits, which hivex leaves clean and every cell of which is sound."""
    path.write_bytes(data)
    edit_hive(path, edits)
    after = path.read_bytes()
    assert regf.check(after, "edited", deep=True) == []
    hive = Hive.parse(after, "edited")
    assert hive.state == "clean"
    return hive


def values(hive: Hive, key: str) -> list[tuple[str, int, bytes]]:
    found = hive.key(key)
    assert found is not None
    return [(v.name, v.type, v.raw) for v in found.values()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "SYSTEM"


@pytest.fixture
def data() -> bytes:
    return RawHive(TREE).data()


def test_a_value_is_replaced_whatever_the_case_of_its_name(path: Path, data: bytes) -> None:
    hive = edited(path, data, SetValue("SERVICES\\DISK", "START", REG_DWORD, ONE))
    assert values(hive, "Services\\disk") == [
        ("Start", REG_DWORD, ONE), ("ImagePath", 2, b"x\0\0\0"), ("Group", REG_SZ, b"g\0\0\0"),
    ]  # fmt: skip


def test_case_beyond_ascii_is_no_difference_either(path: Path, data: bytes) -> None:
    hive = edited(path, data, SetValue("Services\\üNÏCODE", "äö", REG_DWORD, TWO), SetValue("Services\\ÜNÏCODE", "É", 4, TWO))
    assert [key.name for key in hive.key("Services").subkeys()] == ["disk", "Ünïcode"]  # type: ignore[union-attr]
    assert values(hive, "Services\\Ünïcode") == [("ÄÖ", REG_DWORD, TWO), ("É", REG_DWORD, TWO)]


def test_names_that_differ_in_case_alone_become_one(path: Path) -> None:
    twins = Node("R", keys=[Node("K", values=[("V", 4, ONE), ("other", 4, ONE), ("v", 4, ONE)])])
    hive = edited(path, RawHive(twins).data(), SetValue("K", "v", 4, TWO))
    assert values(hive, "K") == [("V", 4, TWO), ("other", 4, ONE)]


def test_keys_are_made_on_the_way(path: Path, data: bytes) -> None:
    hive = edited(path, data, SetValue("Services\\viostor\\Parameters\\PnpInterface", "5", REG_DWORD, ONE))
    assert hive.value("services\\VIOSTOR\\parameters\\pnpinterface", "5").dword() == 1  # type: ignore[union-attr]
    assert [key.name for key in hive.key("Services").subkeys()] == ["disk", "viostor", "Ünïcode"]  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["lh", "lf", "li", "ri"])
def test_keys_are_made_in_every_kind_of_list_where_windows_looks_for_them(path: Path, kind: str) -> None:
    names = [f"Key{n:03d}" for n in range(150)]
    data = RawHive(Node("R", keys=[Node("Top", kind=kind, keys=[Node(n) for n in names])])).data()
    new = ["A_first", "Key050_", "KEY0500", "key_", "Zlast"]
    hive = edited(path, data, *(SetValue(f"Top\\{name}", "V", 4, ONE) for name in new))
    found = [key.name for key in hive.key("Top").subkeys()]  # type: ignore[union-attr]
    assert found == sorted([*names, *new], key=str.upper)


@pytest.mark.parametrize(
    ("kind", "content"),
    [(0, b""), (REG_SZ, b""), (REG_BINARY, b"abc"), (REG_DWORD, ONE), (11, bytes(8)), (7, bytes(600)), (0xFFFF0012, b"prop")],
)
def test_every_type_and_size_comes_back(path: Path, data: bytes, kind: int, content: bytes) -> None:
    hive = edited(path, data, SetValue("New", "V", kind, content), SetValue("New", "", 1, b"d\0\0\0"))
    assert values(hive, "New") == [("V", kind, content), ("", 1, b"d\0\0\0")]


def test_the_key_keeps_its_other_values(path: Path) -> None:
    before = [("p", 0xFFFF0012, b"12345678"), ("z", 0, b""), ("é", 1, b"\1\0"), ("日", 1, b"\1\0"), ("🌎", 3, bytes(16344))]
    hive = edited(path, RawHive(Node("R", keys=[Node("K", values=before)])).data(), SetValue("K", "new", 4, ONE))
    assert values(hive, "K") == [*before, ("new", 4, ONE)]


def test_a_value_is_deleted_whatever_the_case_of_its_name(path: Path, data: bytes) -> None:
    hive = edited(path, data, DeleteValue("services\\disk", "imagepath"), DeleteValue("Services\\disk", "none"))
    assert [name for name, _, _ in values(hive, "Services\\disk")] == ["Start", "Group"]


def test_the_last_value_can_be_deleted(path: Path, data: bytes) -> None:
    hive = edited(path, data, DeleteValue("Services\\Ünïcode", "äÖ"))
    assert values(hive, "Services\\Ünïcode") == []


@pytest.mark.parametrize("kind", ["lh", "lf", "li", "ri"])
def test_a_key_is_deleted_with_all_below_it(path: Path, kind: str) -> None:
    below = [Node(f"K{n:03d}", values=[("V", 1, bytes(50))], keys=[Node("Deeper")]) for n in range(150)]
    data = RawHive(Node("R", keys=[Node("Gone", kind=kind, keys=below), Node("Stays")])).data()
    assert [key.name for key in edited(path, data, DeleteKey("GONE")).root.subkeys()] == ["Stays"]


def test_what_is_not_there_is_not_deleted_and_no_key_is_made_for_it(path: Path, data: bytes) -> None:
    hive = edited(path, data, DeleteKey("Nothing"), DeleteKey("Services\\none\\below"), DeleteValue("Nothing\\at\\all", "V"))
    assert [key.name for key in hive.root.subkeys()] == ["Select", "Services"]


def test_edits_are_carried_out_in_their_order(path: Path, data: bytes) -> None:
    hive = edited(path, data, SetValue("K", "V", 4, ONE), DeleteKey("K"), SetValue("K", "W", 4, TWO))
    assert values(hive, "K") == [("W", 4, TWO)]


def test_an_edit_that_changes_nothing_writes_no_value(path: Path, data: bytes) -> None:
    before = values(Hive.parse(data), "Services\\disk")
    assert values(edited(path, data, SetValue("Services\\disk", "start", REG_DWORD, TWO)), "Services\\disk") == before


# What hivex would do wrong is refused before it is done


def refused(path: Path, data: bytes, *edits: HiveEdit) -> BadData:
    path.write_bytes(data)
    with pytest.raises(BadData) as bad:
        edit_hive(path, edits)
    assert path.read_bytes() == data
    assert bad.value.message.startswith("SYSTEM: ") and bad.value.hint and "\n" not in str(bad.value)
    return bad.value


def test_a_dirty_hive_is_refused(path: Path, data: bytes) -> None:
    assert "logs" in refused(path, make_dirty(data), SetValue("K", "V", 4, ONE)).hint
    assert "dirty" in refused(path, data[:100] + b"!" + data[101:], SetValue("K", "V", 4, ONE)).message


@pytest.mark.parametrize("edit", [SetValue("K", "V", 4, ONE), DeleteValue("K", "small")])
def test_a_key_with_big_data_is_refused(path: Path, edit: HiveEdit) -> None:
    tree = Node("R", keys=[Node("K", values=[("small", 4, ONE), ("big", 3, bytes(16345))])])
    assert "16345 bytes in 'big'" in refused(path, RawHive(tree).data(), edit).message


def test_big_data_are_written_to_a_hive_of_a_version_without_segments(path: Path) -> None:
    tree = Node("R", keys=[Node("K", values=[("big", 3, bytes(20000))])])
    hive = edited(path, RawHive(tree, minor=3).data(), SetValue("K", "V", 3, b"x" * 17000))
    assert values(hive, "K") == [("big", 3, bytes(20000)), ("V", 3, b"x" * 17000)]


def test_new_big_data_are_refused(path: Path, data: bytes) -> None:
    assert "segments" in refused(path, data, SetValue("K", "V", 3, bytes(16345))).message


def test_a_key_with_a_value_name_that_contains_nul_is_refused(path: Path) -> None:
    tree = Node("R", keys=[Node("K", values=[("a\0b", 4, ONE)])])
    assert "NUL" in refused(path, RawHive(tree).data(), SetValue("K", "V", 4, ONE)).message


@pytest.mark.parametrize("edit", [SetValue("K\0", "V", 4, ONE), SetValue("K", "V\0", 4, ONE), DeleteKey("a\0b"), DeleteValue("\0", "")])
def test_names_with_nul_are_refused(path: Path, data: bytes, edit: HiveEdit) -> None:
    assert "NUL" in refused(path, data, edit).message


def test_the_root_can_not_be_deleted(path: Path, data: bytes) -> None:
    assert "hivex" in refused(path, data, DeleteKey("")).message


BAD: dict[str, Callable[[bytes], bytes]] = {
    "bins cut off": lambda data: data[: 4096 + 100],
    "bins unsound": lambda data: data[:4096] + b"hbim" + data[4100:],
    "root key unsound": lambda data: data.replace(b"nk", b"kn", 1),
}


@pytest.mark.parametrize("fault", BAD)
@pytest.mark.filterwarnings("error")
def test_a_hive_that_hivex_can_not_open_is_bad_data_and_nothing_more_is_said(
    path: Path, data: bytes, fault: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "hivex could not edit it" in refused(path, BAD[fault](data), SetValue("K", "V", 4, ONE)).message
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["win10.BCD", "win8.1-virtualbox.SYSTEM", "made.BCD", "made-win10.SYSTEM"])
def test_real_hives_are_sound_after_edits(path: Path, name: str) -> None:
    data = fix_dirty(corpus(name))
    service = "ControlSet001\\Services\\viostor"
    hive = edited(
        path, data, SetValue(f"{service}\\Parameters\\PnpInterface", "5", 4, ONE), SetValue(service, "Start", 4, bytes(4)),
        DeleteKey("ControlSet001\\Services\\Tcpip"), DeleteKey("Objects"), DeleteValue("ControlSet001\\Services\\disk", "start"),
    )  # fmt: skip
    assert hive.value(service, "Start").dword() == 0  # type: ignore[union-attr]
    assert hive.key("ControlSet001\\Services\\Tcpip") is None and hive.key("Objects") is None
    assert hive.value("ControlSet001\\Services\\disk", "Start") is None
