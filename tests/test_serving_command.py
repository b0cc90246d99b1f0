"""`fedrec serve` and `fedrec token`: what they refuse, and a server behind TLS."""

from __future__ import annotations

import json
import socket
import ssl
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import fedrec as fr
from conftest import Said
from fedrec.benchmarks.serving import started
from fedrec.cli import serve
from fedrec.data.databases.logs import open_events
from fedrec.serving.tokens import Tokens
from serving_in_test import run_of

Fedrec = Callable[..., Said]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(fr.Popularity(), tmp_path_factory.mktemp("served") / "run")


def test_a_token_is_printed_once_and_its_file_has_the_hash(fedrec: Fedrec, tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    said = fedrec("token", 'the "shop"', "--scopes", "read,events", "--rate", 5, "--to", path, "--json")
    made = json.loads(said.out)
    tokens = Tokens.read(path)
    token = tokens.of(f"Bearer {made['token']}".encode())
    assert token is not None
    assert (token.name, token.scopes, token.rate) == ('the "shop"', ("read", "events"), 5.0)
    assert made["token"] not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    assert tokens.of(b"Basic " + made["token"].encode()) is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--host", "0.0.0.0"], "other machines could read everybody's recommendations. Give --tokens FILE"),
        (["--tls-cert", "x.pem"], "--tls-cert and --tls-key belong together"),
        (["--tls-cert", "x.pem", "--tls-key", "x.pem"], "x.pem: there is no such file"),
        (["--tokens", "no.toml"], "'fedrec token NAME --to no.toml' makes it"),
        (["--tokens", "odd.toml"], "odd.toml: token.0.sha256"),
        (["--events", "text.db"], "user ids are text, those of the model are whole numbers"),
        (["--events", "sqlite:///x.db?table=clicks"], "leave table and query out of the URL"),
        (["--host", "no.such.host.invalid", "--tokens", "good.toml"], "name an address of this machine"),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_listens(
    run: Path, options: list[str], reason: str, fedrec: Fedrec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("odd.toml").write_text('[[token]]\nname = "a"\nsha256 = "short"\nscopes = ["read"]\n')
    fedrec("token", "good", "--to", "good.toml")
    open_events("text.db", True, False).close()
    said = fedrec("serve", run, "--port", "0", *options)
    assert said.code == 2
    assert reason in said.err


def test_a_port_that_is_taken_is_told(run: Path, fedrec: Fedrec) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = fedrec("serve", run, "--port", taken.getsockname()[1])
    assert said.code == 2
    assert "take another with --port" in said.err


def test_without_the_extra_the_command_says_what_to_install(
    run: Path, fedrec: Fedrec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    said = fedrec("serve", run)
    assert said.code == 2
    assert "pip install 'fedrec[serve]'" in said.err


@pytest.mark.exhaustive
def test_a_server_with_a_certificate_speaks_tls(run: Path, tmp_path: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = built.serial_number(1).not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
    named = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    certificate = built.add_extension(named, critical=True).sign(key, hashes.SHA256())
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    (tmp_path / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    trust = ssl.create_default_context(cafile=tmp_path / "cert.pem")
    options = ("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem"))
    with started(run, *options, tls=trust) as server:
        url = f"https://localhost:{server.port}/v1/recommend?user=1"
        with urllib.request.urlopen(url, context=trust, timeout=10) as answer:
            assert json.loads(answer.read())["items"]
