"""Parses XML that came from elsewhere: bounded, without entities and without network."""

from __future__ import annotations

from lxml import etree

from h2k.base.errors import BadData

XML_LIMIT = 4 * 1024 * 1024  # bytes; virt-v2v's are about 4 KiB


def parse_xml(data: bytes, name: str) -> etree._Element:
    """The root element of an XML document without entities or network; BadData names the file and the place."""
    if len(data) > XML_LIMIT:
        raise BadData(f"{name}: larger than {XML_LIMIT} bytes; no domain description")
    if b"<!DOCTYPE" in data.replace(b"\0", b""):  # in UTF-16 too; before any entity can be defined
        raise BadData(f"{name}: has a document type, which a domain never has", hint="remove the DOCTYPE")
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
