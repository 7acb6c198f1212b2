"""Certificates: an authority of our own, what it signs, and when each is made anew.

`renew` is the whole life of both.  An authority is made long before the last one ends, and only
added to what is trusted; what it signs is served when every API server has had the time to learn of
it; the old authority is trusted until that is served everywhere.  So there is no moment at which
what is served is not trusted.  Everything is kept as text, because a Secret shares it.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_BACKDATED_S = 3600.0  # clocks differ
_AUTHORITY_LIVES = 10  # lifetimes of what it signs
_SPARE_LIVES = 2  # what an authority must have left to sign
_DUE = 1 / 3  # of a lifetime left: time for a new certificate
_GRACE_S = 300.0


@dataclass(frozen=True, slots=True)
class Material:
    """Certificates and keys in PEM.

    authorities is what is to be trusted, the newest last, and authority_key the newest one's;
    certificate is the served one, followed by its issuer's.
    """

    authorities: str = ""
    authority_key: str = ""
    certificate: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Terms:
    """For which host names, and how long (in s), a served certificate is valid."""

    names: tuple[str, ...]
    lifetime_s: float

    @property
    def grace_s(self) -> float:
        """Return within which time every API server and replica has learnt of a change."""
        return min(_GRACE_S, self.lifetime_s / 10)


def expiry(pem: str) -> float:
    """Return the Unix time at which the first certificate of a text ends; raises ValueError."""
    return x509.load_pem_x509_certificates(pem.encode())[0].not_valid_after_utc.timestamp()


def renew(old: Material, terms: Terms, now: float) -> Material:
    """Return what is to be used from now (Unix time) on: the same while nothing is due.

    What cannot be used, such as the emptiness of the first time, is replaced.
    """
    authorities, signer = _authorities(old, now)
    is_new = signer is None or _left(authorities[-1], now) < _SPARE_LIVES * terms.lifetime_s
    if signer is None or is_new:
        signer = ec.generate_private_key(ec.SECP256R1())
        authorities.append(_authority(signer, terms, now))
    served = _served(old, authorities, terms, now)
    newest = authorities[-1]
    is_learnt = _age(newest, now) >= terms.grace_s
    if served is None or (is_learnt and _is_due(served, newest, terms, now)):
        return _issue(authorities, signer, terms, now)
    if _is_by(served, newest) and _age(served, now) >= terms.grace_s:
        authorities = [newest]
    if _pem(*authorities) == old.authorities and not is_new:
        return old
    return Material(_pem(*authorities), _private(signer), old.certificate, old.key)


def _authorities(
    old: Material, now: float
) -> tuple[list[x509.Certificate], ec.EllipticCurvePrivateKey | None]:
    """Return the authorities that still hold, and the newest one's key if it is usable."""
    try:
        found = x509.load_pem_x509_certificates(old.authorities.encode())
        key = serialization.load_pem_private_key(old.authority_key.encode(), None)
    except (ValueError, TypeError):
        return [], None
    valid = [each for each in found if _left(each, now) > 0]
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not valid:
        return valid, None
    return valid, key if key.public_key() == valid[-1].public_key() else None


def _served(
    old: Material, authorities: Sequence[x509.Certificate], terms: Terms, now: float
) -> x509.Certificate | None:
    """Return the served certificate if it can go on being served for now."""
    try:
        found = x509.load_pem_x509_certificates(old.certificate.encode())[0]
        key = serialization.load_pem_private_key(old.key.encode(), None)
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, x509.ExtensionNotFound):
        return None
    is_usable = (
        key.public_key() == found.public_key()
        and tuple(names.get_values_for_type(x509.DNSName)) == terms.names
        and any(_is_by(found, each) for each in authorities)
        and _left(found, now) > terms.grace_s
    )
    return found if is_usable else None


def _is_due(served: x509.Certificate, newest: x509.Certificate, terms: Terms, now: float) -> bool:
    return _left(served, now) < terms.lifetime_s * _DUE or not _is_by(served, newest)


def _is_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:  # noqa: BLE001  whatever is wrong with it, it is not by this one
        return False
    return True


def _issue(
    authorities: Sequence[x509.Certificate],
    signer: ec.EllipticCurvePrivateKey,
    terms: Terms,
    now: float,
) -> Material:
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.DNSName(name) for name in terms.names])
    made = (
        _builder("csi-fluid webhook", authorities[-1].subject, key, terms.lifetime_s, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(names, critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(_issuer(signer), critical=False)
        .sign(signer, hashes.SHA256())
    )
    chain = _pem(made, authorities[-1])
    return Material(_pem(*authorities), _private(signer), chain, _private(key))


def _authority(key: ec.EllipticCurvePrivateKey, terms: Terms, now: float) -> x509.Certificate:
    # A name of its own: what is trusted may hold two, and each must be found by its name.
    name = f"csi-fluid webhook authority {x509.random_serial_number():x}"[:60]
    subject = _name(name)
    return (
        _builder(name, subject, key, terms.lifetime_s * _AUTHORITY_LIVES, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(_issuer(key), critical=False)
        .sign(key, hashes.SHA256())
    )


def _builder(
    name: str,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    lifetime_s: float,
    now: float,
) -> x509.CertificateBuilder:
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(now - _BACKDATED_S))
        .not_valid_after(_time(now + lifetime_s))
        .add_extension(own, critical=False)
    )


def _issuer(signer: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _time(unix: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(unix, datetime.UTC)


def _age(certificate: x509.Certificate, now: float) -> float:
    return now - (certificate.not_valid_before_utc.timestamp() + _BACKDATED_S)


def _left(certificate: x509.Certificate, now: float) -> float:
    return certificate.not_valid_after_utc.timestamp() - now


def _pem(*certificates: x509.Certificate) -> str:
    encoding = serialization.Encoding.PEM
    return "".join(each.public_bytes(encoding).decode() for each in certificates)


def _private(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
