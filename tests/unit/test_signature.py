"""Authenticode signatures: whose they are, what they cover, and nothing but BadData for what is none."""

from __future__ import annotations

import contextlib
import datetime
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2k.base.errors import BadData
from h2k.windows import signature
from h2k.windows.signature import MAX_MESSAGE, Signature, read_catalogue, read_signatures
from tests.guests.pe import make_pe
from tests.guests.signing import CHAINS, chain, sign_catalogue, sign_pe
from tests.unit.helpers import damaged, many

PLAIN = make_pe("amd64", b"driver")
SIGNED = sign_pe(PLAIN)
SECURITY = 64 + 4 + 20 + 112 + 8 * 4


def only(data: bytes) -> Signature:
    (found,) = read_signatures(data, "x.sys")
    return found


def with_table(blob: bytes, kind: int = 2) -> bytes:
    """PLAIN with this in its certificate table."""
    blob += bytes(-len(blob) % 8)
    table = struct.pack("<IHH", 8 + len(blob), 0x200, kind) + blob
    return PLAIN[:SECURITY] + struct.pack("<II", len(PLAIN), len(table)) + PLAIN[SECURITY + 8 :] + table


def message(data: bytes = SIGNED) -> bytes:
    """The PKCS#7 message of a signed file."""
    return data[len(PLAIN) + 8 :]


@pytest.mark.parametrize("machine", ["x86", "amd64", "arm64"])
@pytest.mark.parametrize("by", CHAINS)
def test_who_signed(machine: str, by: str) -> None:
    found = only(make_pe(machine, b"driver", signed=True, by=by))
    names = CHAINS[by]
    assert found.holds and found.digest == "sha256" and found.since == datetime.date(2011, 1, 1)
    assert (found.signer, found.issuers) == (names[0], names[1:] or names)
    assert len(found.thumbprints) == len(chain(by))


def test_a_file_without_a_signature() -> None:
    assert read_signatures(PLAIN, "x.sys") == ()


def test_nested_signatures_and_their_digests() -> None:
    found = read_signatures(sign_pe(PLAIN, digests=("sha1", "sha256")), "x.sys")
    assert [(s.digest, s.holds, s.signer) for s in found] == [(d, True, CHAINS["whql"][0]) for d in ("sha1", "sha256")]


def test_several_signatures_in_one_table() -> None:
    second = message(sign_pe(PLAIN, "uefi"))
    table = b"".join(struct.pack("<IHH", 8 + len(m), 0x200, 2) + m for m in (message(), second))
    both = PLAIN[:SECURITY] + struct.pack("<II", len(PLAIN), len(table)) + PLAIN[SECURITY + 8 :] + table
    assert [s.signer for s in read_signatures(both, "x.sys")] == [CHAINS["whql"][0], CHAINS["uefi"][0]]


@pytest.mark.parametrize("place", [0x48, 0x100, 600, 1023])
def test_a_file_that_was_changed_since(place: int) -> None:
    changed = bytearray(SIGNED)
    changed[place] ^= 1
    assert not only(bytes(changed)).holds


def test_checksum_and_the_table_itself_are_not_covered() -> None:
    changed = bytearray(SIGNED)
    changed[64 + 4 + 20 + 64] ^= 1
    assert only(bytes(changed)).holds


def test_a_digest_that_the_signer_did_not_sign() -> None:
    """The file's digest is put into the message, and the signer's attribute stays that of another file."""
    other = make_pe("amd64", b"another driver", signed=True)
    mine, theirs = (only(d) for d in (SIGNED, other))
    assert mine.holds and theirs.holds
    forged = message(other).replace(_digest(other), _digest(SIGNED))
    assert not only(with_table(forged)).holds


def _digest(data: bytes) -> bytes:
    from h2k.windows.pe import certificate_table

    table = certificate_table(data, "x.sys")
    assert table is not None
    return table.digest(data, "sha256")


def test_a_way_up_over_a_cross_certified_ca() -> None:
    assert only(sign_pe(PLAIN, "cross")).issuers[-1] == "Microsoft Code Verification Root"


@pytest.mark.parametrize(
    ("blob", "why"),
    [
        (b"", "no signature"),
        (bytes(64), "no signature"),
        (b"\x30\x03\x02\x01\x01", "no signature that can be read"),
        (b"\x30\x80" * 300, "no signature that can be read: no DER"),
        (message()[: len(message()) // 2], "no signature that can be read"),
        (message().replace(b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02", b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03", 1), "can be read"),
    ],
)
def test_what_is_no_signature(blob: bytes, why: str) -> None:
    with pytest.raises(BadData, match=rf"^x\.sys: its certificate table holds .*{why}"):
        read_signatures(with_table(blob or b"\1"), "x.sys")


def test_an_object_identifier_that_would_be_decoded_for_minutes() -> None:
    """asn1crypto needs time by the square of its length."""
    blob = b"\x30\x82\xff\xfc\x06\x82\xff\xf8\x81" + b"\xff" * 0xFFF6 + b"\x01"
    with pytest.raises(BadData, match="an object identifier of 65528 bytes"):
        read_signatures(with_table(blob), "x.sys")


def test_other_kinds_of_certificates_are_passed_over() -> None:
    with pytest.raises(BadData, match=r"holds no signature$"):
        read_signatures(with_table(message(), kind=1), "x.sys")


def test_signatures_and_certificates_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = sign_pe(PLAIN, digests=("sha1", "sha256") * 4)
    assert len(read_signatures(deep, "x.sys")) == 8
    monkeypatch.setattr(signature, "MAX_SIGNATURES", 3)
    assert len(read_signatures(deep, "x.sys")) == 3
    monkeypatch.setattr(signature, "MAX_CERTIFICATES", 1)
    with pytest.raises(BadData, match="2 certificates"):
        read_signatures(SIGNED, "x.sys")


def test_a_message_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature, "MAX_MESSAGE", 8 + len(message()) - 1)
    with pytest.raises(BadData, match="holds no signature"):
        read_signatures(SIGNED, "x.sys")
    monkeypatch.setattr(signature, "MAX_MESSAGE", 8 + len(message()))
    assert only(SIGNED).holds


@many
@given(damaged(SIGNED))
def test_damaged_files(data: bytes) -> None:
    try:
        read_signatures(data, "x.sys")
    except BadData as bad:
        assert bad.message.startswith("x.sys: ")


@many
@given(damaged(message()), st.integers(0, 3))
def test_damaged_messages(blob: bytes, nested: int) -> None:
    try:
        for found in read_signatures(with_table(blob), "x.sys"):
            assert found.signer.isprintable() and len(found.signer) <= 100
    except BadData as bad:
        assert bad.message.startswith("x.sys: ") and "\n" not in bad.message


@many
@given(st.binary(min_size=1, max_size=300))
def test_any_bytes_for_a_message(blob: bytes) -> None:
    with pytest.raises(BadData, match=r"x\.sys: "):
        read_signatures(with_table(blob), "x.sys")


# Catalogues


@pytest.mark.parametrize("listed", ["sha1", "sha256"])
@pytest.mark.parametrize("program", [PLAIN, SIGNED], ids=["unsigned", "signed"])
def test_a_catalogue_holds_for_what_it_lists(program: bytes, listed: str) -> None:
    other = make_pe("amd64", b"another driver")
    found = read_catalogue(sign_catalogue([other, program], "cross", listed), "x.cat", program)
    assert (found.holds, found.signer, found.issuers) == (True, CHAINS["cross"][0], CHAINS["cross"][1:])
    assert not read_catalogue(sign_catalogue([other], "cross", listed), "x.cat", program).holds
    assert not read_catalogue(sign_catalogue([], "cross", listed), "x.cat", program).holds


@pytest.mark.parametrize("digest", ["sha1", "sha256"])
def test_a_catalogue_s_digest_is_that_of_its_signature(digest: str) -> None:
    assert read_catalogue(sign_catalogue([PLAIN], digest=digest), "x.cat", PLAIN).digest == digest


def test_a_catalogue_to_which_a_file_was_added_since_holds_no_more() -> None:
    other = make_pe("amd64", b"another driver")
    forged, ours = sign_catalogue([other]), sign_catalogue([PLAIN])
    added = ours.replace(_entries(ours), _entries(forged))
    assert added != ours and not read_catalogue(added, "x.cat", other).holds


def _entries(catalogue: bytes) -> bytes:
    """The digest of the one file that it lists, as it stands in the list."""
    at = catalogue.index(b"\x04\x20")
    return catalogue[at : at + 34]


@pytest.mark.parametrize("data", [b"", b"made catalogue", message(), b"0\x80", bytes(100), b"0" * (MAX_MESSAGE + 1)])
def test_what_is_no_catalogue_is_told(data: bytes) -> None:
    with pytest.raises(BadData, match=r"x\.cat"):
        read_catalogue(data, "x.cat", PLAIN)


@many
@given(damaged(sign_catalogue([PLAIN])))
def test_a_damaged_catalogue_is_bad_data_at_most(data: bytes) -> None:
    with contextlib.suppress(BadData):
        read_catalogue(data, "x.cat", PLAIN)
