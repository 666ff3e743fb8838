"""The text of an INF: lines, quotes, strings, encodings, and bounds."""

from __future__ import annotations

import pytest

from h2k.windows import inf_text
from h2k.windows.inf import parse_inf
from tests.unit.helpers import windows
from tests.unit.made_infs import minimal, parse


def test_strings_everywhere() -> None:
    text = minimal(models="%Disk%=%Install%,%Id%").replace("[inst.Services]", "[%Install%.Services]")
    text += 'install=inst\nId=ID\\X\n[Strings.0407]\nDisk="Platte"\n[Strings.0409]\nDisk="Disk"\nV=Other\n'
    inf = parse(text.replace("ClassGuid={4D36E97B-E325-11CE-BFC1-08002BE10318}", "ClassGuid=%guid%\nProvider=%v%") + "[strings]\nGUID={X}\n")
    assert inf.driver(windows()).ids == ("ID\\X",)
    assert (inf.class_guid, inf.provider) == ("{X}", "Vendor")
    assert [key for key, _ in inf.sections["m.ntamd64"]] == ["Disk"], "English before German"


@pytest.mark.parametrize(
    ("line", "key", "fields"),
    [
        ('a = b , "c , d" , e', "a", ("b", "c , d", "e")),
        ('a = "say ""hi""", x', "a", ('say "hi"', "x")),
        ("a = b ; comment, c", "a", ("b",)),
        ('a = "b ; c" ; d', "a", ("b ; c",)),
        ('"k e y" = v', "k e y", ("v",)),
        ("no key, only fields", "", ("no key", "only fields")),
        ('x, "a=b"', "", ("x", "a=b")),
        ("a =", "a", ()),
        ("a = ,,c,", "a", ("", "", "c", "")),
        ("a = b, \\\n   c", "a", ("b", "c")),
        ("a = b, \\ ; more\n  c, \\\n d", "a", ("b", "c", "d")),
        ('a = "unended', "a", ("unended",)),
        ('a = x"y"z', "a", ("xyz",)),
        ("a = %unknown% %12%\\x %%", "a", ("%unknown% %12%\\x %",)),
        ("a\t=\tb\t,\tc\t", "a", ("b", "c")),
    ],
)
def test_lines(line: str, key: str, fields: tuple[str, ...]) -> None:
    assert inf_text.read_sections(f"[s]\n{line}\n".encode(), "x.inf")["s"] == [(key, fields)]


def test_equal_sections_are_one_and_the_first_of_equal_keys_counts() -> None:
    inf = parse(minimal(service="StartType=4", more="[SVC_INST]\nLoadOrderGroup=late"))
    service = inf.driver(windows()).service
    assert (service.start, service.group) == (0, "late")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_encodings(encoding: str, newline: str) -> None:
    text = minimal() + ('X="Müller®"\n' if encoding != "ascii" else "")
    inf = parse(text.replace("\n", newline), encoding)
    assert inf.driver(windows()).service.name == "svc"
    if encoding != "ascii":
        assert ("X", ("Müller®",)) in inf.sections["strings"]


def test_utf_16_big_endian_with_its_mark() -> None:
    assert parse_inf(b"\xfe\xff" + minimal().encode("utf-16-be"), "x.inf").class_name == "SCSIAdapter"
