"""Authenticode signatures, read offline: what each one covers, with which digest, and by whose certificates.

Format: Microsoft's "Windows Authenticode Portable Executable Signature Format" and RFC 2315, parsed by asn1crypto. The
digests are computed and compared; that a certificate really signed what it says is left to Windows, which has the keys.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any, ClassVar, Optional

from h2k.base.errors import BadData
from h2k.windows.pe import CertificateTable, certificate_table, unsigned_digest

MAX_SIGNATURES = 16  # of one file, nested ones among them; real files have one or two
MAX_MESSAGE = 256 * 1024  # bytes of one signature, nested ones and all, or of a catalogue; real ones have 2 to 30 KiB
MAX_CERTIFICATES = 64  # of one signature; real ones have two to six
MAX_NAME = 100  # characters of a name that people are shown
MAX_IDENTIFIER = 64  # bytes of an object identifier; real ones have 3 to 20
_IDENTIFIER, _CONSTRUCTED = 0x06, 0x20  # tags of ASN.1
_HEADER = 8  # bytes of WIN_CERTIFICATE before the signature itself
_PKCS_SIGNED_DATA = 2  # WIN_CERT_TYPE_PKCS_SIGNED_DATA
_INDIRECT_DATA = "1.3.6.1.4.1.311.2.1.4"  # SPC_INDIRECT_DATA_OBJID
_NESTED = "1.3.6.1.4.1.311.2.4.1"  # szOID_NESTED_SIGNATURE
_LIST = "1.3.6.1.4.1.311.10.1"  # szOID_CTL, the list that a catalogue is
_DIGESTS = ("sha1", "sha256", "sha384", "sha512")  # those that Windows signs programs with
_LISTED = ("sha1", "sha256")  # those by which catalogues of version 1 and 2 list them
# What asn1crypto raises for ASN.1 of a stranger; it has no error of its own.
_WRONG = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)


@dataclasses.dataclass(frozen=True)
class Signature:
    """One signature of a file.

    `digest`: the algorithm of the file's digest ("sha256"). `holds`: the file has that digest, and it is what was signed.
    `signer`: the common name of the signer's certificate, valid `since` a day. `issuers`: the common names of those who
    certify it, nearest first; the last ones are not in the file themselves. `thumbprints`: SHA-256 of the certificates
    on that way, in hexadecimal digits.
    """

    digest: str
    holds: bool
    signer: str
    since: Optional[date]
    issuers: tuple[str, ...]
    thumbprints: tuple[str, ...] = ()


def read_signatures(data: bytes, name: str) -> tuple[Signature, ...]:
    """The signatures of a PE file, nested ones after the one that holds them; none for a file without.

    BadData when it is no PE file, or when what stands in its certificate table can't be read as signatures.
    """
    table = certificate_table(data, name)
    if table is None:
        return ()
    found: list[Signature] = []
    wrong = ""
    waiting = list(_blobs(data, table))
    while waiting and len(found) < MAX_SIGNATURES:
        try:
            signature, nested = _read(waiting.pop(0), data, table)
        except _WRONG as e:
            wrong = wrong or f" that can be read: {_reason(e)}"
            continue
        found.append(signature)
        waiting = [*nested[:MAX_SIGNATURES], *waiting]
    if not found:
        raise BadData(f"{name}: its certificate table holds no signature{wrong}")
    return tuple(found)


def read_catalogue(catalogue: bytes, name: str, program: bytes) -> Signature:
    """The signature of a catalogue (.cat), which `holds` when it lists the PE file `program`. `digest` is the algorithm of
    the signature itself, which Windows has to know to read the list.

    A list has the file's digest as bytes of its own, so these are looked for, and the rest of its entries is not parsed.
    BadData for what is no signed catalogue, or a program that is no PE file.
    """
    if len(catalogue) > MAX_MESSAGE:
        raise BadData(f"{name}: {len(catalogue)} bytes are too many for a catalogue")
    try:
        signed = _signed_data(catalogue)
        content = signed["encap_content_info"]
        if content["content_type"].native != _LIST:
            raise ValueError("it signs something other than a list of files")
        covered = _contents(content["content"])
        algorithm = str(_only_signer(signed)["digest_algorithm"]["algorithm"].native)
        found = _signature(signed, algorithm, covered, True)
    except _WRONG as e:
        raise BadData(f"{name}: no catalogue that can be read: {_reason(e)}") from e
    listed = any(bytes.fromhex(program_digest(program, name, listed)) in covered for listed in _LISTED)
    return dataclasses.replace(found, holds=found.holds and listed)


def program_digest(data: bytes, name: str, algorithm: str = "sha256") -> str:
    """The digest of a PE file as signatures and lists of single programs have it, in hexadecimal digits."""
    table = certificate_table(data, name)
    if table is not None:
        return table.digest(data, algorithm).hex()
    return unsigned_digest(data, name, algorithm).hex()


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0][:80] if str(error) else type(error).__name__


def _blobs(data: bytes, table: CertificateTable) -> Iterator[bytes]:
    """The signatures in the certificate table, each as it is stored; one after another, 8-byte aligned."""
    at, end = table.offset, table.offset + table.size
    for _ in range(MAX_SIGNATURES):
        if at + _HEADER >= end:
            return
        length = int.from_bytes(data[at : at + 4], "little")
        kind = int.from_bytes(data[at + 6 : at + 8], "little")
        if length <= _HEADER or at + length > end:
            return
        if kind == _PKCS_SIGNED_DATA and length <= MAX_MESSAGE:
            yield data[at + _HEADER : at + length]
        at += (length + 7) & ~7


def _read(blob: bytes, data: bytes, table: CertificateTable) -> tuple[Signature, list[bytes]]:
    signed = _signed_data(blob)
    content = signed["encap_content_info"]
    if content["content_type"].native != _INDIRECT_DATA:
        raise ValueError("it signs something other than a program")
    algorithm, digest, covered = _indirect_data(content["content"])
    found = _signature(signed, algorithm, covered, table.digest(data, algorithm) == digest)
    return found, [value.dump() for attribute in _nested(_only_signer(signed)) for value in attribute["values"]]


def _signed_data(blob: bytes) -> Any:
    """The SignedData of a PKCS#7 message."""
    from asn1crypto import cms

    _bounded(blob)
    message = cms.ContentInfo.load(blob)
    if message["content_type"].native != "signed_data":
        raise ValueError("no PKCS#7 signed data")
    return message["content"]


def _only_signer(signed: Any) -> Any:
    signers = signed["signer_infos"]
    if len(signers) != 1:
        raise ValueError(f"{len(signers)} signers")
    return signers[0]


def _signature(signed: Any, algorithm: str, covered: bytes, same: bool) -> Signature:
    """The signature over `covered`; `same`: what that says of the file is true."""
    signer = _only_signer(signed)
    certificates = [c.chosen for c in _some(signed["certificates"]) if c.name == "certificate"]
    leaf = _signer(signer["sid"], certificates)
    issuers, way = _ancestors(leaf, certificates)
    validity = leaf["tbs_certificate"]["validity"]["not_before"].native
    return Signature(
        algorithm,
        same and _attests(signer, covered),
        _common_name(leaf.subject),
        validity.date(),
        tuple(issuers),
        tuple(hashlib.sha256(c.dump()).hexdigest() for c in way),
    )


def _contents(content: Any) -> bytes:
    """The bytes of a content that are signed: without its tag and length."""
    from asn1crypto import core

    return bytes(content.parse(core.Sequence).contents)


def _bounded(blob: bytes) -> None:
    """ValueError for an object identifier that is longer than any, which asn1crypto would decode for minutes, and for
    lengths that are left open (DER has none)."""
    spans = [(0, len(blob))]
    while spans:
        at, end = spans.pop()
        while at + 2 <= end and blob[at]:  # a message is padded with zeros
            tag, length = blob[at], blob[at + 1]
            at += 2
            if length & 0x80:
                size = length & 0x7F
                length = int.from_bytes(blob[at : at + size], "big") if size else end
                at += size
            if tag & 0x1F == 0x1F or at + length > end:
                raise ValueError("no DER")
            if tag == _IDENTIFIER and length > MAX_IDENTIFIER:
                raise ValueError(f"an object identifier of {length} bytes")
            if tag & _CONSTRUCTED:
                spans.append((at, at + length))
            at += length


def _some(certificates: Any) -> list[Any]:
    found = list(certificates or ())
    if len(found) > MAX_CERTIFICATES:
        raise ValueError(f"{len(found)} certificates")
    return found


def _indirect_data(content: Any) -> tuple[str, bytes, bytes]:
    """(algorithm, digest of the file, the bytes that are signed) of an SpcIndirectDataContent."""
    from asn1crypto import algos, core

    class DigestInfo(core.Sequence):  # type: ignore[misc]
        _fields: ClassVar[list[Any]] = [("digest_algorithm", algos.DigestAlgorithm), ("digest", core.OctetString)]

    class IndirectData(core.Sequence):  # type: ignore[misc]
        _fields: ClassVar[list[Any]] = [("data", core.Any), ("message_digest", DigestInfo)]

    parsed = content.parse(IndirectData)
    info = parsed["message_digest"]
    algorithm = str(info["digest_algorithm"]["algorithm"].native)
    if algorithm not in _DIGESTS:
        raise ValueError(f"a digest that is none of {', '.join(_DIGESTS)}")
    return algorithm, bytes(info["digest"].native), bytes(parsed.contents)


def _attests(signer: Any, covered: bytes) -> bool:
    """Whether the signer's own attributes name the digest of what is signed."""
    algorithm = str(signer["digest_algorithm"]["algorithm"].native)
    if algorithm not in _DIGESTS:
        return False
    wanted = hashlib.new(algorithm, covered).digest()
    attributes = signer["signed_attrs"]
    return any(a["type"].native == "message_digest" and a["values"][0].native == wanted for a in attributes or ())


def _nested(signer: Any) -> list[Any]:
    return [a for a in signer["unsigned_attrs"] or () if a["type"].dotted == _NESTED]


def _signer(sid: Any, certificates: Sequence[Any]) -> Any:
    """The certificate of the signer."""
    if sid.name != "issuer_and_serial_number":
        raise ValueError("a signer who is not named by issuer and number")
    wanted = (sid.chosen["issuer"].hashable, sid.chosen["serial_number"].native)
    found = [c for c in certificates if (c.issuer.hashable, c.serial_number) == wanted]
    if not found:
        raise ValueError("the signer's certificate is missing")
    return found[0]


def _ancestors(leaf: Any, certificates: Sequence[Any]) -> tuple[list[str], list[Any]]:
    """(the common names of all who certify the leaf, nearest first; the certificates on the way, the leaf first).

    A CA may have several certificates, of which one is cross-signed, so every way up is followed.
    """
    names: dict[str, None] = {}
    way, seen = [leaf], {leaf.subject.hashable}
    for certificate in way:  # grows while it is walked, by each certificate once
        issuer = certificate.issuer
        names.setdefault(_common_name(issuer))
        if issuer.hashable not in seen:
            seen.add(issuer.hashable)
            way += [c for c in certificates if c.subject.hashable == issuer.hashable]
    return list(names), way


def _common_name(name: Any) -> str:
    """The last common name, else the organisation; printable, and not too long."""
    native = name.native
    text = native.get("common_name") or native.get("organizational_unit_name") or native.get("organization_name") or "?"
    text = text[-1] if isinstance(text, list) else text
    return "".join(c if c.isprintable() else "?" for c in str(text)[:MAX_NAME])
