"""TLS and mTLS with certificates made by openssl: who is let in and who is not."""

import subprocess

import grpc
import pytest

from client import Client, refusal
from nibble_process import NibbleServer, run

ANSWERED = {"max_tokens": 1, "ignore_eos": True}


def openssl(*args, cwd):
    subprocess.run(["openssl", *args], cwd=cwd, check=True, capture_output=True)


def authority(folder, name):
    openssl(
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        f"/CN={name}",
        "-keyout",
        f"{name}.key",
        "-out",
        f"{name}.pem",
        cwd=folder,
    )


def certificate(folder, name, ca, names="DNS:localhost,IP:127.0.0.1"):
    (folder / "san.cnf").write_text(f"subjectAltName={names}\n")
    openssl(
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-subj",
        f"/CN={name}",
        "-keyout",
        f"{name}.key",
        "-out",
        f"{name}.csr",
        cwd=folder,
    )
    openssl(
        "x509",
        "-req",
        "-in",
        f"{name}.csr",
        "-CA",
        f"{ca}.pem",
        "-CAkey",
        f"{ca}.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "san.cnf",
        "-out",
        f"{name}.pem",
        cwd=folder,
    )


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pki")
    for ca in ("ours", "strangers"):
        authority(folder, ca)
    certificate(folder, "server", "ours")
    certificate(folder, "named", "ours", names="DNS:nibble.example")  # as authorities sign them
    certificate(folder, "friend", "ours")
    certificate(folder, "stranger", "strangers")
    return folder


def credentials(pki, root="ours", own=None):
    def read(name):
        return (pki / name).read_bytes()

    return grpc.ssl_channel_credentials(
        read(f"{root}.pem"), own and read(f"{own}.key"), own and read(f"{own}.pem")
    )


@pytest.fixture(scope="module")
def tls(binary, model, pki, tmp_path_factory):
    server = NibbleServer(
        binary,
        model,
        tmp_path_factory.mktemp("tls"),
        tls_cert=pki / "server.pem",
        tls_key=pki / "server.key",
    )
    yield server
    server.stop()


@pytest.fixture(scope="module")
def mtls(binary, model, pki, tmp_path_factory):
    server = NibbleServer(
        binary,
        model,
        tmp_path_factory.mktemp("mtls"),
        tls_cert=pki / "server.pem",
        tls_key=pki / "server.key",
        tls_client_ca=pki / "ours.pem",
    )
    yield server
    server.stop()


def is_let_in(server, creds):
    with Client(server.target, creds) as client:
        client.call_timeout = 30
        return client.generate("Hi", stopping=ANSWERED).usage.completion_tokens == 1


def is_kept_out(server, creds):
    with Client(server.target, creds) as client:
        client.call_timeout = 30
        return (
            refusal(lambda: client.generate("Hi", stopping=ANSWERED)).code
            == grpc.StatusCode.UNAVAILABLE
        )


def test_tls_serves_who_trusts_its_certificate(tls, pki):
    assert is_let_in(tls, credentials(pki))


def test_tls_keeps_out_plaintext_and_who_trusts_another_authority(tls, pki):
    assert is_kept_out(tls, None)
    assert is_kept_out(tls, credentials(pki, root="strangers"))


def test_mtls_serves_a_certificate_of_its_authority(mtls, pki):
    assert is_let_in(mtls, credentials(pki, own="friend"))


def test_mtls_keeps_out_no_certificate_and_a_stranger_s(mtls, pki):
    assert is_kept_out(mtls, credentials(pki))
    assert is_kept_out(mtls, credentials(pki, own="stranger"))
    assert is_kept_out(mtls, None)


def test_health_asks_by_a_name_of_the_certificate(binary, model, pki, tmp_path):
    """A probe connects to 127.0.0.1, which no ordinary certificate names."""
    key = {"tls_cert": pki / "named.pem", "tls_key": pki / "named.key"}
    server = NibbleServer(binary, model, tmp_path, **key, tls_client_ca=pki / "ours.pem")
    health = ["health", "--server", server.target, "--service", "liveness"]
    own = ["--tls-cert", pki / "friend.pem", "--tls-key", pki / "friend.key"]
    flags = ["--tls-ca", pki / "ours.pem", *own]
    try:
        assert run(binary, *health, *flags).returncode == 1
        assert run(binary, *health, *flags, "--tls-server-name", "localhost").returncode == 1
        assert run(binary, *health, *flags, "--tls-server-name", "nibble.example").returncode == 0
        # The image's HEALTHCHECK: everything else is in the environment that `serve` has, too.
        container = {
            "NIBBLE_TLS_CERT": str(pki / "named.pem"),
            "NIBBLE_TLS_KEY": str(pki / "named.key"),
            "NIBBLE_TLS_CA": str(pki / "ours.pem"),
            "NIBBLE_TLS_SERVER_NAME": "nibble.example",
            "NIBBLE_CLIENT_TLS_CERT": str(pki / "friend.pem"),
            "NIBBLE_CLIENT_TLS_KEY": str(pki / "friend.key"),
        }
        done = run(binary, *health, env=container)
        assert done.returncode == 0, done.stderr
    finally:
        server.stop()


def test_a_key_without_its_certificate_is_a_usage_error(binary, model, pki):
    done = run(binary, "serve", "--model", model, "--tls-key", pki / "server.key")
    assert done.returncode == 2 and "--tls-cert" in done.stderr


def test_a_missing_certificate_file_is_named(binary, model, pki):
    done = run(
        binary,
        "serve",
        "--model",
        model,
        "--listen",
        "127.0.0.1:0",
        "--metrics-listen",
        "off",
        "--tls-cert",
        pki / "absent.pem",
        "--tls-key",
        pki / "server.key",
    )
    assert done.returncode in (1, 2) and "absent.pem" in done.stderr


def test_a_public_address_without_tls_is_warned_about_once(serve):
    log = serve(listen="0.0.0.0:0").log()
    assert (
        len([line for line in log.splitlines() if "warn" in line.lower() and "tls" in line.lower()])
        == 1
    )
