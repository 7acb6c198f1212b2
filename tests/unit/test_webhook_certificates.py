"""Certificates over years: what is served is always valid, and always by one that is trusted."""

import datetime
import itertools
import ssl
import subprocess
import tempfile
from pathlib import Path

import pytest
from cryptography import x509

from csi_fluid.webhook import certificates
from csi_fluid.webhook.certificates import Material, Terms

NAMES = ("csi-fluid-webhook.fluid-system.svc", "csi-fluid-webhook.fluid-system.svc.cluster.local")
DAY_S = 86400.0
NINETY = Terms(NAMES, 90 * DAY_S)
START = datetime.datetime(2027, 3, 4, tzinfo=datetime.UTC).timestamp()


def served(material: Material) -> x509.Certificate:
    return x509.load_pem_x509_certificates(material.certificate.encode())[0]


def authorities(material: Material) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(material.authorities.encode())


def is_valid(material: Material, at: float) -> bool:
    """Ask OpenSSL's own program, strictly, as an API server would."""
    end = "-----END CERTIFICATE-----\n"
    leaf, _, rest = material.certificate.partition(end)
    with tempfile.TemporaryDirectory() as made:
        ca, served_, others = (Path(made, name) for name in ("ca", "leaf", "rest"))
        ca.write_text(material.authorities)
        served_.write_text(leaf + end)
        others.write_text(rest)
        command = [
            *("openssl", "verify", "-x509_strict", "-purpose", "sslserver"),
            *("-attime", str(int(at)), "-verify_hostname", NAMES[0]),
            *("-CAfile", str(ca), "-untrusted", str(others), str(served_)),
        ]
        return subprocess.run(command, capture_output=True, check=False, timeout=10).returncode == 0


def test_the_first_certificate_is_valid_by_its_own_authority():
    material = certificates.renew(Material(), NINETY, START)

    assert is_valid(material, START + 1)
    assert certificates.expiry(material.certificate) == START + 90 * DAY_S


def test_nothing_changes_while_nothing_is_due():
    material = certificates.renew(Material(), NINETY, START)

    assert certificates.renew(material, NINETY, START + 59 * DAY_S) == material


def test_a_third_before_its_end_the_certificate_is_renewed_by_the_same_authority():
    old = certificates.renew(Material(), NINETY, START)

    new = certificates.renew(old, NINETY, START + 61 * DAY_S)

    assert new.certificate != old.certificate
    assert new.authorities == old.authorities


def test_other_names_make_another_certificate():
    old = certificates.renew(Material(), Terms(("a.b.svc",), 90 * DAY_S), START)

    new = certificates.renew(old, NINETY, START + 1)

    assert new.authorities == old.authorities
    assert is_valid(new, START + 2)


@pytest.mark.parametrize(
    "broken",
    [
        {"certificate": "nonsense"},
        {"key": ""},
        {"authorities": "nonsense"},
        {"authority_key": "nonsense"},
        {"key": "of another"},
        {"authority_key": "of another"},
    ],
)
def test_what_cannot_be_used_is_replaced(broken: dict[str, str]):
    material = certificates.renew(Material(), NINETY, START)
    other = certificates.renew(Material(), NINETY, START)
    fields = {name: getattr(material, name) for name in Material.__slots__}
    for name, value in broken.items():
        fields[name] = getattr(other, name) if value == "of another" else value

    new = certificates.renew(Material(**fields), NINETY, START + 10)

    assert is_valid(new, START + 11)


def test_over_years_what_is_served_is_trusted_by_who_is_late_by_less_than_the_grace():
    """A replica may serve what was, an API server may trust what was: both ways must be valid."""
    seen = [(START, certificates.renew(Material(), NINETY, START))]
    for day in range(4 * 365):
        now, steps = START + day * DAY_S, 0
        while steps < 4:  # what was begun is ended within some graces
            _, old = seen[-1]
            new = certificates.renew(old, NINETY, now)
            steps = steps + 1 if new == old else 0
            if new != old:
                seen.append((now, new))
            now += NINETY.grace_s / 4

    assert len({m.certificate for _, m in seen}) > 20
    assert len({m.authorities for _, m in seen}) >= 5  # one, two, one, two, one
    for (begun, before), (at, after) in itertools.pairwise(seen):
        assert is_known(after, before), "served, but not trusted yet"
        assert is_known(before, after), "still served somewhere, but not trusted any more"
        assert at > begun
    for (_, first), (_, second), (at, third) in zip(seen, seen[1:], seen[2:], strict=False):
        replaced_at = next(t for t, m in seen if m == second)
        if at - replaced_at < NINETY.grace_s * 0.9:
            assert is_known(first, third)
            assert is_known(third, first)


def is_known(material: Material, by: Material) -> bool:
    issuer = served(material).issuer
    return any(each.subject == issuer for each in authorities(by))


def test_a_new_authority_signs_only_after_every_api_server_knows_it():
    old = certificates.renew(Material(), NINETY, START)
    at = START + 721 * DAY_S  # two lifetimes before the end of the first authority
    old = certificates.renew(old, NINETY, at - 10 * DAY_S)

    added = certificates.renew(old, NINETY, at)
    waiting = certificates.renew(added, NINETY, at + NINETY.grace_s - 1)
    signed = certificates.renew(waiting, NINETY, at + NINETY.grace_s + 1)
    dropped = certificates.renew(signed, NINETY, at + 2 * NINETY.grace_s + 2)

    assert [len(authorities(m)) for m in (old, added, signed, dropped)] == [1, 2, 2, 1]
    assert added.certificate == old.certificate == waiting.certificate
    assert served(signed).issuer == authorities(added)[-1].subject
    assert dropped.certificate == signed.certificate


def test_a_certificate_that_ends_before_a_new_authority_is_known_is_replaced_at_once():
    old = certificates.renew(Material(), NINETY, START)
    old = certificates.renew(old, NINETY, START + 650 * DAY_S)
    at = certificates.expiry(old.certificate) - NINETY.grace_s / 2

    new = certificates.renew(old, NINETY, at)

    assert new.authorities.startswith(old.authorities)
    assert len(authorities(new)) == 2
    assert is_valid(new, at + NINETY.grace_s)


def test_a_webhook_that_was_down_for_years_begins_anew():
    old = certificates.renew(Material(), NINETY, START)
    at = START + 5000 * DAY_S

    new = certificates.renew(old, NINETY, at)

    assert is_valid(new, at + 1)
    assert len(authorities(new)) == 1


def test_the_keys_are_those_that_a_server_can_serve(tmp_path: Path):
    material = certificates.renew(Material(), NINETY, START)
    path = tmp_path / "pem"
    path.write_text(material.key + material.certificate)

    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path)
