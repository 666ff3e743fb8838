"""The hive reader: every kind of list, name and data; every bound; real hives; and no end but BadData for bad input."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hivex
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h2k.base.errors import BadData
from h2k.windows import regf
from h2k.windows.regf import Hive, Key
from tests.corpus import corpus
from tests.guests.rawhive import NIL, Node, RawHive, resum
from tests.guests.regfile import build_hive, fix_dirty, make_dirty

CLEAN_CORPUS = ("win10.BCD", "win8.1-virtualbox.SYSTEM", "win10-1903-vmware.SYSTEM", "dirty-1.hive", "dirty-2.hive")
MADE = ("made.BCD", "made-win10.SYSTEM", "made-win8.1.SYSTEM")
LISTS = [("lh", "lh"), ("lf", "lf"), ("li", "li"), ("ri", "lh"), ("ri", "lf"), ("ri", "li")]
SMALL = Node(
    "ROOT",
    keys=[
        Node("A", values=[("Start", 4, b"\3\0\0\0"), ("", 1, b"d\0e\0f\0\0\0")], keys=[Node("B", class_name="of B"), Node("C")]),
        Node("Big", values=[("Data", 3, bytes(range(256)) * 200)]),
        Node("Many", kind="ri", keys=[Node(f"K{n:03d}", values=[("N", 4, struct.pack("<I", n))]) for n in range(250)]),
    ],
)


def walk(key: Key) -> Iterator[Key]:
    yield key
    for below in key.subkeys():
        yield from walk(below)


def parsed(root: Node, minor: int = 5) -> Hive:
    data = RawHive(root, minor).data()
    assert regf.check(data, "made", deep=True) == []
    return Hive.parse(data, "made")


# Lists and look-ups


@pytest.mark.parametrize(("kind", "leaf"), LISTS)
def test_finds_keys_in_every_kind_of_list(kind: str, leaf: str) -> None:
    names = [f"Key{n:03d}" for n in range(230)]
    hive = parsed(Node("R", keys=[Node("Top", kind=kind, leaf=leaf, keys=[Node(n, keys=[Node("Below")]) for n in names])]))
    assert [key.name for key in hive.root.subkeys()[0].subkeys()] == names
    assert [hive.key(f"top\\KEY{n:03d}\\below").path for n in (0, 99, 100, 229)] == [  # type: ignore[union-attr]
        f"Top\\Key{n:03d}\\Below" for n in (0, 99, 100, 229)
    ]
    assert hive.key("Top\\Key230") is None
    assert hive.key("Top\\Key000\\Below\\Nothing\\Here") is None


def test_a_wrong_hash_hides_no_key_and_only_the_deep_check_minds() -> None:
    raw = RawHive(Node("R", keys=[Node("One"), Node("Two")]))
    raw.put(raw.at[":list"], 8, 12345)
    hive = Hive.parse(raw.data())
    assert hive.key("one") is not None
    assert regf.check(raw.data(), "made") == []
    assert "hash" in regf.check(raw.data(), "made", deep=True)[0]


def test_a_key_with_anothers_hash_is_not_taken_for_it() -> None:
    raw = RawHive(Node("R", keys=[Node("One"), Node("Two")]))
    raw.put(raw.at[":list"], 8, regf.name_hash("two"))
    found = Hive.parse(raw.data()).key("Two")
    assert found is not None and found.name == "Two"


def test_of_two_keys_with_one_name_both_are_listed_and_the_first_is_found() -> None:
    twins = Node("R", keys=[Node("Same", values=[("N", 4, b"\1\0\0\0")]), Node("same", values=[("N", 4, b"\2\0\0\0")])])
    data = RawHive(twins).data()
    hive = Hive.parse(data)
    assert [key.name for key in hive.root.subkeys()] == ["Same", "same"]
    assert hive.value("SAME", "n").dword() == 1  # type: ignore[union-attr]
    assert "out of order" in regf.check(data, "made", deep=True)[0]


def test_one_look_up_does_not_read_the_keys_beside_it() -> None:
    raw = RawHive(Node("R", keys=[Node(f"K{n:03d}") for n in range(200)]))
    for n in range(200):
        if n != 150:
            raw.put(raw.at[f"K{n:03d}"], 0, 0, "H")  # no key node any more
    assert Hive.parse(raw.data()).key("k150") is not None


# Names


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("name", ["plain", "Grün", "日本語", "🌎"])
def test_names_of_keys_and_values(name: str, wide: bool) -> None:
    hive = parsed(Node("R", keys=[Node(name, wide=wide, values=[(name, 1, b"x\0\0\0")])]))
    assert hive.root.subkeys()[0].name == name
    assert hive.value(name.upper(), name.upper()).text() == "x"  # type: ignore[union-attr]


def test_latin_1_names_are_stored_in_one_byte_a_character() -> None:
    raw = RawHive(Node("R", keys=[Node("Grün")]))
    assert b"Gr\xfcn" in raw.data()


# Data


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 4096, 16344, 16345, 2 * 16344, 50000])
@pytest.mark.parametrize("minor", [3, 5])
def test_data_of_every_size(size: int, minor: int) -> None:
    content = bytes(n * 7 % 256 for n in range(size))
    value = parsed(Node("R", values=[("V", 3, content), ("W", 1, b"a\0\0\0")]), minor).value("", "v")
    assert value is not None and (value.type, value.raw) == (3, content)


def test_big_data_lie_in_segments_from_minor_version_4_on() -> None:
    assert b"db\x04\0" in RawHive(Node("R", values=[("V", 3, bytes(50000))]), 5).data()
    assert b"db\x04\0" not in RawHive(Node("R", values=[("V", 3, bytes(50000))]), 3).data()


def test_values_by_type() -> None:
    text = "one\0two\0\0".encode("utf-16-le")
    hive = parsed(
        Node("R", values=[("s", 1, text), ("e", 2, text), ("m", 7, text), ("d", 4, b"\1\2\0\0"), ("q", 11, b"\1\2" + bytes(6)),
                          ("odd", 1, b"a\0b"), ("short", 4, b"\1\2"), ("", 1, b"x\0\0\0")])
    )  # fmt: skip
    seen = {v.name: (v.text(), v.multi(), v.dword(), v.qword()) for v in hive.root.values()}
    assert seen == {
        "s": ("one", None, None, None),
        "e": ("one", None, None, None),
        "m": (None, ("one", "two"), None, None),
        "d": (None, None, 0x201, None),
        "q": (None, None, None, 0x201),
        "odd": ("a", None, None, None),
        "short": (None, None, None, None),
        "": ("x", None, None, None),
    }
    assert hive.value("", "") is not None and hive.value("", "none") is None and hive.value("None", "s") is None


def test_a_predefined_handle_has_no_values() -> None:
    raw = RawHive(Node("R", keys=[Node("009", flags=0x40)]))
    raw.put(raw.at["009"], 36, 0x80000050)  # Perflib\009 of real SOFTWARE hives: a handle in the place of the count
    assert Hive.parse(raw.data()).key("009").values() == ()  # type: ignore[union-attr]
    assert regf.check(raw.data(), "made", deep=True) == []


# Clean, dirty, corrupt


def test_clean_and_dirty() -> None:
    clean = RawHive(SMALL).data()
    torn = clean[:60] + b"!" + clean[61:]
    assert [regf.state(d) for d in (clean, make_dirty(clean), torn, fix_dirty(torn))] == ["clean", "dirty", "dirty", "clean"]
    assert Hive.parse(torn).state == "dirty" and Hive.parse(make_dirty(clean)).state == "dirty"
    assert regf.state(b"") == regf.state(bytes(4096)) == "dirty"


@pytest.mark.parametrize(
    ("head", "expected"), [(b"\0" * 508, 1), (b"\xff\xff\xff\xff" + bytes(504), 0xFFFFFFFE), (b"\1\2" + bytes(506), 0x201)]
)
def test_checksum(head: bytes, expected: int) -> None:
    assert regf.checksum(head) == expected


BASE_FAULTS = {
    "empty": (b"", "too few"),
    "short": (RawHive(SMALL).data()[:4100], "too few"),
    "no signature": (b"flog" + RawHive(SMALL).data()[4:], "offset 0"),
    "truncated": (RawHive(SMALL).data()[:-4096], "offset 40"),
    "a log": (resum(RawHive(SMALL).data()[:28] + b"\6" + RawHive(SMALL).data()[29:]), "offset 20"),
    "version 2": (resum(RawHive(SMALL).data()[:20] + b"\2" + RawHive(SMALL).data()[21:]), "offset 20"),
}


@pytest.mark.parametrize("fault", BASE_FAULTS)
def test_base_block_faults(fault: str) -> None:
    data, what = BASE_FAULTS[fault]
    with pytest.raises(BadData, match=what) as bad:
        Hive.parse(data, "SYSTEM")
    assert bad.value.message.startswith("SYSTEM: ") and bad.value.hint and "\n" not in str(bad.value)
    assert regf.check(data, "SYSTEM") == regf.check(data, "SYSTEM", deep=True) == [bad.value.message]


def body(change: Callable[[RawHive], Any], root: Node = SMALL) -> bytes:
    """A hive after `change` has broken it."""
    raw = RawHive(root)
    change(raw)
    return raw.data()


def _puts(raw: RawHive, *fields: tuple[int, int, int]) -> None:
    for cell, place, number in fields:
        raw.put(cell, place, number)


def _bytes(raw: RawHive, at: int, content: bytes) -> None:
    raw.body[at : at + len(content)] = content


CELL_FAULTS: dict[str, tuple[Callable[[RawHive], Any], str]] = {
    "key signature": (lambda r: r.put(r.at["A"], 0, 0, "H"), "no key node"),
    "key name length": (lambda r: r.put(r.at["A\\B"], 72, 5000, "H"), "name beyond"),
    "key is its own subkey": (lambda r: r.put(r.at["A:list"], 4, r.at["A"]), "parent"),
    "root as a subkey": (lambda r: _puts(r, (r.at["A:list"], 4, r.root), (r.root, 16, r.at["A"])), "parent"),
    "keys in a loop": (lambda r: _puts(r, (r.at["A:list"], 4, r.at["Big"]), (r.at["Big"], 28, r.at["A:list"])), "parent"),
    "a key under two parents": (lambda r: r.put(r.at["A:list"], 4, r.at["Many\\K001"]), "parent"),
    "free cell in use": (lambda r: _bytes(r, r.at["A"], struct.pack("<i", 88)), "free cell"),
    "cell beyond the bins": (lambda r: r.put(r.at["A"], 28, 0x7FFFFF8), "outside the hive bins"),
    "cell not aligned": (lambda r: r.put(r.at["A"], 28, r.at["A:list"] + 4), "outside the hive bins"),
    "cell too large": (lambda r: _bytes(r, r.at["A"], struct.pack("<i", -(1 << 24))), "a cell of"),
    "list signature": (lambda r: r.put(r.at["A:list"], 0, 0, "H"), "no subkey list"),
    "list entries": (lambda r: r.put(r.at["A:list"], 2, 60000, "H"), "no subkey list"),
    "fewer keys than announced": (lambda r: r.put(r.at["A"], 20, 3), "2 keys where 3"),
    "more keys than announced": (lambda r: r.put(r.at["A"], 20, 1), "2 keys where 1"),
    "a key listed twice": (lambda r: r.put(r.at["A:list"], 4, r.at["A\\C"]), "2 keys where 2"),
    "absurd key count": (lambda r: r.put(r.at["A"], 20, 0x7FFFFFFF), "2147483647 subkeys"),
    "index in an index": (lambda r: r.put(r.at["Many:list"], 4, r.at["Many:list"]), "nested twice"),
    "value list": (lambda r: r.put(r.at["A"], 36, 100000), "value list shorter"),
    "a value listed twice": (lambda r: r.put(r.at["A:values"], 4, r.at["A:value:Start"]), "listed twice"),
    "value signature": (lambda r: r.put(r.at["A:value:Start"], 0, 0, "H"), "no value"),
    "value name length": (lambda r: r.put(r.at["A:value:Start"], 2, 999, "H"), "value name beyond"),
    "resident data": (lambda r: r.put(r.at["A:value:Start"], 4, 0x80000005), "resident"),
    "data size": (lambda r: r.put(r.at["A:value:"], 4, 9000), "9000 bytes of data in a cell"),
    "absurd data size": (lambda r: r.put(r.at["A:value:"], 4, 0x7FFFFFFF), "2147483647 bytes of data"),
    "big data not in segments": (lambda r: r.put(_big(r), 0, 0, "H"), "not in segments"),
    "big data segment count": (lambda r: r.put(_big(r), 2, 2, "H"), "2 segments where 4"),
    "big data segment size": (lambda r: r.put(_segments(r), 0, r.at["A:list"]), "of big data in a cell of"),
}

DEEP_FAULTS: dict[str, tuple[Callable[[RawHive], Any], str]] = {
    "data that two values hold": (lambda r: r.put(_segments(r), 4, int.from_bytes(r.body[_segments(r) + 4 :][:4], "little")), "two"),
    "a cell inside another": (lambda r: _puts(r, (r.at["A"], 40, r.at["A"] + 64), (r.at["A"] + 64, -4, 2**32 - 24)), "inside"),
    "a cell across the end of its bin": (lambda r: _bytes(r, r.at["A"], struct.pack("<i", -8192)), "a cell of 8192"),
    "a cell of odd size": (lambda r: _bytes(r, r.at["A\\C"], struct.pack("<i", -84)), "a cell of 84"),
    "keys out of order": (lambda r: _puts(r, *((r.at["A:list"], place, number) for place, number in
                                                ((4, r.at["A\\C"]), (8, 67), (12, r.at["A\\B"]), (16, 66)))), "out of order"),
    "class name": (lambda r: r.put(r.at["A\\B"], 74, 900, "H"), "class name beyond"),
    "a class nowhere": (lambda r: (r.put(r.at["A\\B"], 48, 7), r.put(r.at["A\\B"], 74, 0, "H")), "a class name nowhere, at 0x7"),
    "no security": (lambda r: r.put(r.at["A"], 44, NIL), "without security"),
    "security signature": (lambda r: r.put(_security(r), 0, 0, "H"), "security descriptor"),
    "security ring": (lambda r: r.put(_security(r), 4, r.at["A:list"]), "security descriptor"),
}  # fmt: skip


def _field(raw: RawHive, cell: int, place: int) -> int:
    return int.from_bytes(raw.body[cell + 4 + place : cell + 8 + place], "little")


def _big(raw: RawHive) -> int:
    return _field(raw, raw.at["Big:value:Data"], 8)


def _segments(raw: RawHive) -> int:
    return _field(raw, _big(raw), 4)


def _security(raw: RawHive) -> int:
    return _field(raw, raw.root, 44)


@pytest.mark.parametrize("fault", CELL_FAULTS)
def test_cell_faults_are_found_on_the_way_and_by_the_deep_check(fault: str) -> None:
    change, what = CELL_FAULTS[fault]
    data = body(change)
    assert regf.check(data, "SYSTEM", deep=True)
    with pytest.raises(BadData, match=what) as bad:
        for key in walk(Hive.parse(data, "SYSTEM").root):
            key.values()
    assert bad.value.message.startswith("SYSTEM: ") and "hive bin offset 0x" in bad.value.message


@pytest.mark.parametrize("fault", DEEP_FAULTS)
def test_faults_that_only_the_deep_check_finds(fault: str) -> None:
    change, what = DEEP_FAULTS[fault]
    data = body(change)
    assert regf.check(data, "SYSTEM") == []
    (problem,) = regf.check(data, "SYSTEM", deep=True)
    assert what in problem and problem.startswith("SYSTEM: ")


@pytest.mark.parametrize(("place", "content"), [(0, b"hbim"), (4, b"\1"), (8, b"\1"), (8, bytes(4)), (8, b"\0\0\0\1")])
def test_every_bin_is_checked_always(place: int, content: bytes) -> None:
    raw = RawHive(SMALL)
    at = next(at for at in range(4096, len(raw.body), 4096) if raw.body[at : at + 4] == b"hbin")
    _bytes(raw, at + place, content)
    assert f"{at:#x}" in regf.check(raw.data(), "SYSTEM")[0]


def test_depth_is_bounded() -> None:
    def nested(levels: int) -> Node:
        node = Node("K")
        for _ in range(levels - 1):
            node = Node("K", keys=[node])
        return Node("R", keys=[node])

    assert len(list(walk(parsed(nested(512)).root))) == 513
    data = RawHive(nested(513)).data()
    assert "deeper than 512" in regf.check(data, "made", deep=True)[0]
    with pytest.raises(BadData, match="deeper than 512"):
        list(walk(Hive.parse(data).root))


def test_a_hostile_name_stays_on_one_line_of_the_message() -> None:
    data = RawHive(Node("R", keys=[Node("B\n\x1b[2J" + "x" * 250), Node("A" * 250)])).data()
    with_path = regf.check(data, "SYSTEM", deep=True)[0]
    assert "out of order" in with_path and with_path.isprintable() and len(with_path) < 300


def test_an_index_that_repeats_a_leaf_is_not_expanded() -> None:
    raw = RawHive(Node("R", keys=[Node("Many", kind="ri", keys=[Node(f"K{n:03d}") for n in range(100)])]))
    leaf = _field(raw, raw.at["Many:list"], 4)
    bomb = raw.cell(struct.pack("<2sH", b"ri", 60000) + struct.pack("<I", leaf) * 60000)
    raw.put(raw.at["Many"], 28, bomb)
    with pytest.raises(BadData, match="200 keys where 100"):
        Hive.parse(raw.data()).key("Many").subkeys()  # type: ignore[union-attr]


def test_values_that_share_their_data_are_not_multiplied() -> None:
    raw = RawHive(Node("R", values=[(f"V{n:04d}", 3, bytes(5000) if n == 0 else bytes(5)) for n in range(1000)]))
    shared = _field(raw, raw.at[":value:V0000"], 8)
    for n in range(1, 1000):
        raw.put(raw.at[f":value:V{n:04d}"], 4, 5000)
        raw.put(raw.at[f":value:V{n:04d}"], 8, shared)
    with pytest.raises(BadData, match="more data than the hive"):
        Hive.parse(raw.data()).root.values()


# Real hives, against readers that share no code with ours


def _as_hivex_reads(data: bytes, directory: Path) -> dict[str, list[tuple[str, int, bytes]]]:
    path = directory / "hive"
    path.write_bytes(data)
    hive = hivex.Hivex(str(path))
    found: dict[str, list[tuple[str, int, bytes]]] = {}
    waiting = [(hive.root(), "")]
    while waiting:
        node, name = waiting.pop()
        typed = [(hive.value_key(v), hive.value_value(v)) for v in hive.node_values(node)]
        found[name] = [(key, kind, content) for key, (kind, content) in typed]
        waiting.extend((c, f"{name}\\{hive.node_name(c)}".lstrip("\\")) for c in hive.node_children(node))
    return found


def _as_we_read(data: bytes) -> dict[str, list[tuple[str, int, bytes]]]:
    return {key.path: [(v.name, v.type, v.raw) for v in key.values()] for key in walk(Hive.parse(data).root)}


@pytest.mark.parametrize("name", [*CLEAN_CORPUS, *MADE])
def test_real_hives_are_sound_and_read_as_hivex_reads_them(name: str, tmp_path: Path) -> None:
    data = fix_dirty(corpus(name))
    assert regf.check(data, name) == regf.check(data, name, deep=True) == []
    assert _as_we_read(data) == _as_hivex_reads(data, tmp_path)


@pytest.mark.parametrize(("name", "keys", "values"), [("win10.BCD", 132, 103), ("dirty-1.hive", 2590, 4119)])
def test_real_hives_count_as_python_registry_counts(name: str, keys: int, values: int, tmp_path: Path) -> None:
    registry = pytest.importorskip("Registry.Registry")
    path = tmp_path / name
    path.write_bytes(corpus(name))
    waiting, counted = [registry.Registry(str(path)).root()], [0, 0]
    while waiting:
        key = waiting.pop()
        counted[0], counted[1] = counted[0] + 1, counted[1] + len(key.values())
        waiting.extend(key.subkeys())
    ours = [(1, len(key.values())) for key in walk(Hive.parse(path.read_bytes()).root)]
    assert [sum(column) for column in zip(*ours)] == counted == [keys, values]


@pytest.mark.parametrize("name", ["win10.BCD", "made.BCD", "made-win8.1.SYSTEM"])
def test_every_key_of_a_real_hive_is_found_by_its_path(name: str) -> None:
    hive = Hive.parse(fix_dirty(corpus(name)))
    for key in walk(hive.root):
        found = hive.key(key.path.swapcase())
        assert found is not None and found.offset == key.offset


def test_states_of_real_hives() -> None:
    states = {name: regf.state(corpus(name)) for name in CLEAN_CORPUS}
    assert [name for name, state in states.items() if state == "clean"] == ["win10.BCD"]


def test_states_of_made_hives() -> None:
    assert [regf.state(corpus(name)) for name in MADE] == ["clean", "dirty", "dirty"]


@pytest.mark.parametrize("name", ["corrupt.SYSTEM", "made-corrupt.SYSTEM"])
def test_a_corrupt_real_hive_is_found_without_the_deep_check(name: str) -> None:
    assert "no hive bin header" in regf.check(corpus(name), "SYSTEM")[0]


def test_what_hivex_builds_is_sound() -> None:
    text = "".join(f'[Key{n}]\n"One"="text"\n"Two"=hex:{"5a," * n}5a\n' for n in range(300))
    assert regf.check(build_hive(text), "built", deep=True) == []


# Hostile bytes


@settings(deadline=None)
@given(st.binary(max_size=600))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    assert regf.check(data, "x") and regf.check(data, "x", deep=True)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**32), st.binary(min_size=1, max_size=8)), min_size=1, max_size=12), st.booleans())
def test_a_mutated_hive_is_read_or_refused(changes: list[tuple[int, bytes]], deep: bool) -> None:
    data = bytearray(MUTABLE)
    for place, content in changes:
        at = 4096 + place % (len(data) - 4096 - len(content))
        data[at : at + len(content)] = content
    problems = regf.check(bytes(data), "x", deep)
    seen = 0
    try:
        for key in walk(Hive.parse(bytes(data), "x").root):
            seen += 1 + len(key.values())
    except BadData:
        assert problems or not deep
    assert seen <= len(data) // 24  # no more keys and values than there are cells for them


MUTABLE = RawHive(
    Node("R", keys=[Node("A", values=[("V", 3, bytes(40)), ("W", 4, b"\1\0\0\0")], keys=[Node("B"), Node("日")]),
                    Node("Li", kind="li", keys=[Node("X"), Node("Y")]), Node("Ri", kind="ri", keys=[Node("Z")])])
).data()  # fmt: skip
