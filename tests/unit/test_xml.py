"""XML from elsewhere: what is parsed, and what is refused before libxml2 sees it."""

from __future__ import annotations

import pytest

from h2k.base.errors import BadData
from h2k.base.xml import MAX_ATTRIBUTES, MAX_MARKUP, XML_LIMIT, parse_xml


def attributes(count: int, quote: str = '"', space: str = " ") -> str:
    return "".join(f" a{n}{space}={space}{quote}v{quote}" for n in range(count))


def test_plain() -> None:
    root = parse_xml(b"<a x='1'><!-- gone --><?gone?><b>text</b></a>", "a.xml")
    assert root.get("x") == "1" and [child.tag for child in root] == ["b"]
    assert parse_xml("<a>ä</a>".encode("utf-16"), "a.xml").text == "ä"


def test_as_many_attributes_as_there_may_be() -> None:
    xml = f"<a{attributes(MAX_ATTRIBUTES)}><b{attributes(MAX_ATTRIBUTES)}/></a>"
    assert len(parse_xml(xml.encode(), "a.xml")[0].attrib) == MAX_ATTRIBUTES


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(("quote", "space"), [('"', ""), ("'", ""), ('"', " "), ("'", "\t")])
def test_too_many_attributes(quote: str, space: str, encoding: str) -> None:
    xml = f"<a>\n<b{attributes(MAX_ATTRIBUTES + 1, quote, space)}/></a>"
    with pytest.raises(BadData, match=r"a\.xml:2: more than 500 attributes"):
        parse_xml(xml.encode(encoding), "a.xml")


def test_too_many_namespaces() -> None:
    xml = "<a" + "".join(f" xmlns:n{n}='u'" for n in range(80_000)) + "/>"
    with pytest.raises(BadData, match="attributes"):
        parse_xml(xml.encode(), "a.xml")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<a>" + b"<b/>" * MAX_MARKUP + b"</a>", "tags"),
        (b" " * (XML_LIMIT + 1), "larger than"),
        (b"", "no XML"),
        (b"<a", "no XML"),
        (b"<a>" * 5000, "no XML"),
        (b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "document type"),
        (b"<a>&b;</a>", "no XML"),
        (b"<a b='1' b='2'/>", "no XML"),
        (b"<?xml version='1.0' encoding='klingon'?><a/>", "no XML"),
    ],
)
def test_what_is_none(data: bytes, words: str) -> None:
    with pytest.raises(BadData, match=words) as caught:
        parse_xml(data, "a.xml")
    assert str(caught.value).startswith("a.xml") and "\n" not in str(caught.value)
