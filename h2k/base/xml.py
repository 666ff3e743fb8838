"""Parses XML that came from elsewhere: bounded, without entities and without network."""

from __future__ import annotations

import re

from lxml import etree

from h2k.base.errors import BadData

XML_LIMIT = 4 * 1024 * 1024  # bytes; virt-v2v's are about 4 KiB

MAX_MARKUP = 200_000  # beginnings of tags; an OVF of 64 disks has below 2,000

MAX_ATTRIBUTES = 500  # of one element; libxml2 compares each with each

_ATTRIBUTE = re.compile(rb"=[ \t\r\n]*[\"']")


def parse_xml(data: bytes, name: str) -> etree._Element:
    """The root element of an XML document without entities or network; BadData names the file and the place."""
    if len(data) > XML_LIMIT:
        raise BadData(f"{name}: larger than {XML_LIMIT} bytes; no domain description")
    plain = data.replace(b"\0", b"")  # UTF-16 as if it were ASCII
    if b"<!DOCTYPE" in plain:  # before any entity can be defined
        raise BadData(f"{name}: has a document type, which a domain never has", hint="remove the DOCTYPE")
    _check_size(plain, name)
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError, LookupError) as e:
        raise BadData(f"{name}: no XML: {' '.join(str(e).split())}") from e
    if root is None or root.getroottree().docinfo.internalDTD is not None:
        raise BadData(f"{name}: has a document type, which a domain never has", hint="remove the DOCTYPE")
    return root


def _check_size(plain: bytes, name: str) -> None:
    """BadData for more tags, or more attributes in one of them, than a description has; counted without a parser."""
    if plain.count(b"<") > MAX_MARKUP:
        raise BadData(f"{name}: more than {MAX_MARKUP} tags; no domain description")
    if len(_ATTRIBUTE.findall(plain)) <= MAX_ATTRIBUTES:
        return
    line = 1
    for piece in plain.split(b"<"):
        if len(_ATTRIBUTE.findall(piece)) > MAX_ATTRIBUTES:
            raise BadData(f"{name}:{line}: more than {MAX_ATTRIBUTES} attributes in one element; no domain description")
        line += piece.count(b"\n")
