"""What the db of a UEFI variable store trusts, and nothing but BadData for what is none."""

from __future__ import annotations

import hashlib
import struct
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2k.base.errors import BadData
from h2k.domain import uefi_variables
from h2k.domain.uefi_variables import TrustedKeys, read_trusted, trusted
from tests.guests.signing import certificate
from tests.unit.helpers import damaged, many

SECURITY = "D719B2CB-3D3A-4596-A3BC-DAD00E67656F"
X509, SHA256 = "A5C059A1-94E4-4AA7-87B5-AB155C2BF072", "C1C41626-504C-4092-ACA9-41F936934328"
STORE = "AAF32C78-947B-439A-A180-2E144EC37792"
NAMES = ("Microsoft Windows Production PCA 2011", "Windows UEFI CA 2023")


def guid(text: str) -> bytes:
    return uuid.UUID(text).bytes_le


def der(name: str) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return bytes(certificate(name, "Microsoft Root Certificate Authority 2010").public_bytes(Encoding.DER))


def signatures(kind: str, *contents: bytes) -> bytes:
    entry = 16 + len(contents[0])
    return guid(kind) + struct.pack("<III", 28 + entry * len(contents), 0, entry) + b"".join(bytes(16) + c for c in contents)


def variable(name: str, data: bytes, state: int = 0x3F, vendor: str = SECURITY) -> bytes:
    title = (name + "\0").encode("utf-16-le")
    head = struct.pack("<HBxIQ16sIII16s", 0x55AA, state, 0x27, 0, bytes(16), 0, len(title), len(data), guid(vendor))
    whole = head + title + data
    return whole + bytes(-len(whole) % 4)


def volume(*variables: bytes, size: int = 65536) -> bytes:
    head = bytes(16) + bytes(16) + struct.pack("<Q", size) + b"_FVH" + bytes(4) + struct.pack("<H", 72) + bytes(22)
    store = guid(STORE) + struct.pack("<IBBHI", size - 72, 0x5A, 0xFE, 0, 0)
    return (head + store + b"".join(variables)).ljust(size, b"\xff")


DB = b"".join(signatures(X509, der(n)) for n in NAMES) + signatures(SHA256, bytes(32), b"\1" * 32)
SOUND = volume(variable("PK", b"x"), variable("db", b"old", state=0x3C), variable("db", DB), variable("dbx", b"y"))


def test_certificates_and_programs() -> None:
    keys = trusted(SOUND, "vars")
    assert keys.names == NAMES and keys.programs == {"00" * 32, "01" * 32}
    assert keys.thumbprints == {hashlib.sha256(der(n)).hexdigest() for n in NAMES}


def test_trust_by_name_in_any_case_or_by_thumbprint() -> None:
    keys = TrustedKeys(("Windows UEFI CA 2023",), frozenset({"ab"}))
    assert keys.trusts(("windows uefi ca 2023",), ()) and keys.trusts((), ("cd", "ab"))
    assert not keys.trusts(("Windows UEFI CA",), ("abc",)) and not keys.trusts((), ())


def test_a_store_without_keys_trusts_nothing() -> None:
    for content in (volume(), volume(variable("db", DB, vendor=X509)), volume(variable("db", DB, state=0x3D)), volume(variable("db", b""))):
        assert trusted(content, "vars") == TrustedKeys((), frozenset())


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no firmware volume"),
        (bytes(4096), "no firmware volume"),
        (SOUND[:72] + bytes(16) + SOUND[88:], "no store of authenticated variables"),
        (volume(variable("db", b"x" * 40)), "no signature list"),
        (volume(variable("db", DB[:-1])), "no signature list"),
        (volume(variable("db", signatures(X509, b"no certificate"))), "a certificate that can't be read"),
        (volume(variable("db", DB)[:100] + bytes(0), size=73 + 28 + 99), "reaches beyond its store"),
    ],
)
def test_what_is_no_store(content: bytes, why: str) -> None:
    with pytest.raises(BadData, match=f"^vars: .*{why}"):
        trusted(content, "vars")


def test_bounds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(uefi_variables, "MAX_CERTIFICATES", 1)
    with pytest.raises(BadData, match="more than 1 certificates"):
        trusted(SOUND, "vars")
    (tmp_path / "vars.fd").write_bytes(SOUND)
    monkeypatch.setattr(uefi_variables, "MAX_CERTIFICATES", 9)
    assert read_trusted(tmp_path / "vars.fd").names == NAMES
    monkeypatch.setattr(uefi_variables, "MAX_STORE", len(SOUND) - 1)
    with pytest.raises(BadData, match="no variable store"):
        read_trusted(tmp_path / "vars.fd")
    with pytest.raises(BadData, match="can't be read"):
        read_trusted(tmp_path / "none.fd")


@many
@given(damaged(SOUND, reach=4096))
def test_damaged_stores(content: bytes) -> None:
    try:
        trusted(content, "vars")
    except BadData as bad:
        assert bad.message.startswith("vars: ")


@many
@given(st.binary(max_size=200))
def test_any_db(content: bytes) -> None:
    try:
        trusted(volume(variable("db", content)), "vars")
    except BadData as bad:
        assert bad.message.startswith("vars: ")
