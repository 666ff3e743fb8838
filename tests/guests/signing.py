"""Really signed PE files and catalogues: a made chain for each kind of signer, named as the real ones are, and PKCS#7 built byte by byte.

The one key below is public on purpose: it signs nothing but made files, and no machine trusts it.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import struct
from collections.abc import Sequence
from typing import Any

# (signer, its CA, …, root); the root is not in the file, as in real ones, unless it signs itself.
CHAINS: dict[str, tuple[str, ...]] = {
    "whql": (
        "Microsoft Windows Hardware Compatibility Publisher", "Microsoft Windows Third Party Component CA 2014",
        "Microsoft Root Certificate Authority 2010",
    ),
    "windows": ("Microsoft Windows", "Microsoft Windows Production PCA 2011", "Microsoft Root Certificate Authority 2010"),
    "windows-2023": ("Microsoft Windows", "Windows UEFI CA 2023", "Microsoft Root Certificate Authority 2010"),
    "uefi": (
        "Microsoft Windows UEFI Driver Publisher", "Microsoft Corporation UEFI CA 2011",
        "Microsoft Corporation Third Party Marketplace Root",
    ),
    "cross": (
        "Red Hat, Inc.", "VeriSign Class 3 Code Signing 2010 CA", "VeriSign Class 3 Public Primary Certification Authority - G5",
        "Microsoft Code Verification Root",
    ),
    "vendor": ("Example Storage Inc.", "DigiCert Trusted G4 Code Signing CA", "DigiCert Trusted Root G4"),
    "test": ("WDKTestCert builder,133000000000000000",),
}  # fmt: skip
_P = int(
    "e81a293e9433414e432752635a2a1ecc8c8581628e422f5f4ff885c1c359bac5f7c96874f1e7a2e29e9745ae035c093d26031689075858993d89b036236784"
    "133462d5e85dce54777ded6a730fa6ef080d7155a8f3754067aff6dff6f3043b55a05cd373017d3d5d36abb910044909feddc13cfe806555c35d6751f22d67"
    "83d1", 16,
)  # fmt: skip
_Q = int(
    "e58995abf45f129036b494352ff24588a6dbdf8f1db4e38c550ffd09c848284188906762b3f003d5722ebfc7efc4ab2cb3a132dac39b91d3cc783c6e42fae3"
    "8fd0072b4932fbd11f80c74c1f89383ae6a7da1de869b6db399ccea38afef31d964b9883162f1e583c7d15bff3a29e4ebf0f7bbb5c09336d98ef447de34842"
    "4bb7", 16,
)  # fmt: skip
_E = 65537
_SIZES = {"sha1": 20, "sha256": 32}  # bytes of a digest
_INDIRECT_DATA, _PE_IMAGE, _NESTED = "1.3.6.1.4.1.311.2.1.4", "1.3.6.1.4.1.311.2.1.15", "1.3.6.1.4.1.311.2.4.1"
_LIST, _MEMBERS, _MEMBER = "1.3.6.1.4.1.311.10.1", "1.3.6.1.4.1.311.12.1.1", "1.3.6.1.4.1.311.12.1.2"
_OIDS = {"sha1": "1.3.14.3.2.26", "sha256": "2.16.840.1.101.3.4.2.1"}


@functools.lru_cache(maxsize=1)
def key() -> Any:
    """The private key of every made certificate."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    d = pow(_E, -1, (_P - 1) * (_Q - 1))
    numbers = rsa.RSAPrivateNumbers(
        _P, _Q, d, d % (_P - 1), d % (_Q - 1), pow(_Q, -1, _P), rsa.RSAPublicNumbers(_E, _P * _Q)
    )
    return numbers.private_key()


@functools.lru_cache(maxsize=64)
def certificate(subject: str, issuer: str, year: int = 2011) -> Any:
    """A made certificate: a CA's where another name than its own is not the issuer."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    def name(common: str) -> Any:
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "made for tests"), x509.NameAttribute(NameOID.COMMON_NAME, common)]
        return x509.Name(attributes)

    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key().public_key())
        .serial_number(int.from_bytes(hashlib.sha256(f"{subject}/{issuer}".encode()).digest()[:8], "big"))
        .not_valid_before(datetime.datetime(year, 1, 1))
        .not_valid_after(datetime.datetime(2049, 1, 1))
        .add_extension(x509.BasicConstraints(ca=" CA" in subject or "PCA" in subject or subject == issuer or "Root" in subject
                                             or "Authority" in subject, path_length=None), critical=True)
    )  # fmt: skip
    return builder.sign(key(), hashes.SHA256())


@functools.lru_cache(maxsize=64)
def chain(by: str, year: int = 2011) -> tuple[Any, ...]:
    """The certificates of a chain, the signer's first, without its root."""
    names = CHAINS[by]
    if len(names) == 1:
        return (certificate(names[0], names[0], year),)
    return tuple(certificate(a, b, year) for a, b in zip(names, names[1:]))


def root(by: str) -> Any:
    """The root certificate of a chain."""
    return certificate(CHAINS[by][-1], CHAINS[by][-1])


def sign_pe(data: bytes, by: str = "whql", digests: Sequence[str] = ("sha256",), year: int = 2011) -> bytes:
    """The PE file with one signature; with several digests the later ones are nested in the first. `year`: from when on
    the certificates are valid."""
    data += bytes(-len(data) % 8)
    entry = _security_entry(data)
    if struct.unpack_from("<II", data, entry) != (0, 0):
        raise ValueError("signed already")
    message = b""
    for digest in reversed(digests):
        message = _message(_INDIRECT_DATA, _digest_of(data, digest), digest, chain(by, year), message)
    blob = message + bytes(-len(message) % 8)
    table = struct.pack("<IHH", 8 + len(blob), 0x200, 2) + blob
    return data[:entry] + struct.pack("<II", len(data), len(table)) + data[entry + 8 :] + table


def sign_catalogue(programs: Sequence[bytes], by: str = "whql", listed: str = "sha256", digest: str = "sha256") -> bytes:
    """A signed catalogue that lists these PE files, signed or not, by one digest; `digest` is the signature's own."""
    members = b""
    for program in programs:
        entry = _digest_of(program, listed)
        attribute = _seq(_oid(_INDIRECT_DATA), _tlv(0x31, _seq(entry)))
        members += _seq(_tlv(4, entry[-_SIZES[listed] :]), _tlv(0x31, attribute))
    content = _seq(_oid(_MEMBERS)) + _tlv(4, bytes(16)) + _tlv(0x17, b"250301000000Z")
    content += _seq(_oid(_MEMBER), _tlv(5, b"")) + _seq(members)
    return _message(_LIST, content, digest, chain(by), b"")


def _security_entry(data: bytes) -> int:
    """Where the directory entry of the certificate table lies."""
    optional = struct.unpack_from("<I", data, 60)[0] + 24
    return int(optional + (112 if struct.unpack_from("<H", data, optional)[0] == 0x20B else 96) + 32)


def _digest_of(data: bytes, algorithm: str) -> bytes:
    """What is signed of a PE file: its kind, and its digest at the end."""
    checksum = struct.unpack_from("<I", data, 60)[0] + 24 + 64
    entry = _security_entry(data)
    end = struct.unpack_from("<I", data, entry)[0] or len(data)
    covered = data[:checksum] + data[checksum + 4 : entry] + data[entry + 8 : end]
    image = _seq(_oid(_PE_IMAGE), _seq(_tlv(3, b"\0"), _tlv(0xA0, _tlv(0xA2, _tlv(0x80, "<<<Obsolete>>>".encode("utf-16-be"))))))
    return image + _seq(_seq(_oid(_OIDS[algorithm]), _tlv(5, b"")), _tlv(4, hashlib.new(algorithm, covered).digest()))


def _message(kind: str, content: bytes, algorithm: str, certificates: Sequence[Any], nested: bytes) -> bytes:
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding

    algorithm_id = _seq(_oid(_OIDS[algorithm]), _tlv(5, b""))
    signed = [
        _seq(_oid("1.2.840.113549.1.9.3"), _tlv(0x31, _oid(kind))),
        _seq(_oid("1.2.840.113549.1.9.4"), _tlv(0x31, _tlv(4, hashlib.new(algorithm, content).digest()))),
    ]
    attributes = b"".join(sorted(signed))
    leaf = certificates[0]
    digest = {"sha1": hashes.SHA1, "sha256": hashes.SHA256}[algorithm]()
    signature = key().sign(_tlv(0x31, attributes), padding.PKCS1v15(), digest)
    serial = leaf.serial_number.to_bytes(leaf.serial_number.bit_length() // 8 + 1, "big")
    signer = _seq(
        _tlv(2, b"\1"), _seq(leaf.issuer.public_bytes(), _tlv(2, serial)), algorithm_id, _tlv(0xA0, attributes),
        _seq(_oid("1.2.840.113549.1.1.1"), _tlv(5, b"")), _tlv(4, signature),
        _tlv(0xA1, _seq(_oid(_NESTED), _tlv(0x31, nested))) if nested else b"",
    )  # fmt: skip
    carried = b"".join(c.public_bytes(serialization.Encoding.DER) for c in certificates)
    body = _seq(
        _tlv(2, b"\1"), _tlv(0x31, algorithm_id), _seq(_oid(kind), _tlv(0xA0, _seq(content))), _tlv(0xA0, carried),
        _tlv(0x31, signer),
    )  # fmt: skip
    return _seq(_oid("1.2.840.113549.1.7.2"), _tlv(0xA0, body))


def _tlv(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 128:
        return bytes((tag, length)) + content
    size = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | size)) + length.to_bytes(size, "big") + content


def _seq(*parts: bytes) -> bytes:
    return _tlv(0x30, b"".join(parts))


@functools.lru_cache(maxsize=32)
def _oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    out = bytes((first * 40 + second,))
    for number in rest:
        part, left = bytes((number & 0x7F,)), number >> 7
        while left:
            part, left = bytes((0x80 | left & 0x7F,)) + part, left >> 7
        out += part
    return _tlv(6, out)
