"""Who signed a catalogue: the certificate that Windows would ask about, and none for Microsoft's own or for nonsense."""

from __future__ import annotations

import datetime
import functools
import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from h2k.windows.publisher import MAX_CATALOGUE, catalogue_publisher
from tests.unit.helpers import few


@functools.lru_cache(maxsize=4)
def catalogue(signer: str, issuer: str = "Some CA") -> tuple[bytes, bytes]:
    """(a signed message as a .cat file is one, the signer's certificate)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (signer, issuer)]
    start = datetime.datetime(2026, 1, 1)
    builder = x509.CertificateBuilder().subject_name(name[0]).issuer_name(name[1]).public_key(key.public_key())
    builder = builder.serial_number(4711).not_valid_before(start).not_valid_after(start + datetime.timedelta(days=365))
    certificate = builder.sign(key, hashes.SHA256())
    message = pkcs7.PKCS7SignatureBuilder().set_data(b"files").add_signer(certificate, key, hashes.SHA256())
    signed = message.sign(serialization.Encoding.DER, [])
    return signed, certificate.public_bytes(serialization.Encoding.DER)


def test_the_signer_and_his_thumbprint() -> None:
    data, certificate = catalogue("Red Hat, Inc.")
    assert catalogue_publisher(data) == (hashlib.sha1(certificate).hexdigest().upper(), certificate)


@pytest.mark.parametrize("names", [("Microsoft Windows Hardware Compatibility Publisher", "x"), ("x", "Microsoft Root")])
def test_windows_trusts_microsofts_own(names: tuple[str, str]) -> None:
    assert catalogue_publisher(catalogue(*names)[0]) is None


@pytest.mark.parametrize("data", [b"", b"made viostor.cat", b"0\x80", bytes(100), b"0" * (MAX_CATALOGUE + 1)])
def test_what_is_no_catalogue_has_no_signer(data: bytes) -> None:
    assert catalogue_publisher(data) is None


@few
@given(st.integers(0, 600), st.integers(0, 255))
def test_a_damaged_one_is_no_reason_to_stop(place: int, value: int) -> None:
    data = bytearray(catalogue("Red Hat, Inc.")[0])
    data[place % len(data)] = value
    catalogue_publisher(bytes(data))
