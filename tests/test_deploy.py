"""Kits, folders, sockets and commands of a federation, without its processes."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from chosen_in_test import chosen
from conftest import Said
from fedrec.deploy.demo import play
from fedrec.deploy.folder import FederationFolder
from fedrec.deploy.node_process import NodeProcess
from fedrec.deploy.processes import until_stopped
from fedrec.deploy.server_process import ServerProcess
from fedrec.errors import DamagedError, InputError, PlanError, RunError
from fedrec.federation.data_plan import DataPlan
from fedrec.federation.plan import Plan
from fedrec.network.nvflare.kits import check_kit, identity_of, lay_out, provision, server_name
from fedrec.network.nvflare.post import job_files
from fedrec.network.nvflare.sockets import Connection, Listener, connect, socket_path
from fedrec.network.nvflare.supervised import PARENT
from fedrec.owner.config import NodeConfig
from fedrec.owner.new_node import make_node
from fedrec.record.durable import hold
from fedrec.record.keys import SigningKey

Fedrec = Callable[..., Said]
KEYS = {name: str(SigningKey(name, bytes(31) + name[-1].encode()).public()) for name in ("shop-a", "shop-b", "shop-c")}
ITEMS = "item_id,title\n1,One\n2,Two\n3,Three\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation with three nodes, made by the commands' own functions; copy it before changing it."""
    import fedrec as fr

    catalog = fr.load_data("synthetic:users=40,items=100,interactions_per_user=10,seed=1").catalog
    folder = tmp_path_factory.mktemp("made") / "shops"
    FederationFolder.create(folder, "shops", "localhost", 8002, 1000, catalog).invite(KEYS)
    return folder


@pytest.fixture
def federation(made: Path, tmp_path: Path) -> FederationFolder:
    shutil.copytree(made, tmp_path / "shops")
    return FederationFolder.open(tmp_path / "shops")


def test_messages_pass_both_ways_and_a_closed_end_is_none(tmp_path: Path) -> None:
    got: list[Any] = []

    def handle(connection: Connection) -> None:
        while (message := connection.receive()) is not None:
            got.append(message)
            connection.send({"back": message[0]["n"]}, message[1][::-1])
        got.append(None)

    listener = Listener(socket_path(tmp_path, "x.sock"), handle)
    assert listener.path.stat().st_mode & 0o077 == 0
    connection = connect(listener.path)
    big = bytes(range(256)) * 5000
    for number, body in enumerate((b"", b"one", big)):
        connection.send({"n": number}, body)
        assert connection.receive() == ({"back": number}, body[::-1])
    connection.close()
    listener.close()
    assert connection.receive() is None
    for _ in range(100):
        if got and got[-1] is None:
            break
        threading.Event().wait(0.05)
    assert got[-1] is None
    with pytest.raises(OSError, match=r".+"):
        connect(listener.path)


def test_a_listener_survives_what_is_no_message(tmp_path: Path) -> None:
    listener = Listener(socket_path(tmp_path, "x.sock"), lambda one: one.send({"ok": one.receive() is not None}))
    for data in (b"", b"\xff" * 12, b"\xff" * 40, b"\x02\0\0\0" + bytes(8) + b"{["):
        one = connect(listener.path)
        with contextlib.suppress(OSError):  # it hung up at the first wrong byte
            one._link.sendall(data)
            one._link.shutdown(1)
        assert one.receive() in (({"ok": False}, b""), None)  # `None` where the rest of the nonsense was not read
        one.close()
    whole = connect(listener.path)
    whole.send({"n": 1})
    assert whole.receive() == ({"ok": True}, b"")
    whole.close()
    listener.close()


def test_a_socket_in_a_deep_folder_has_a_short_path(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 90) / ("e" * 90)
    assert len(str(socket_path(deep, "node.sock"))) < 100
    assert socket_path(deep, "node.sock") != socket_path(deep / "f", "node.sock")


def test_a_folder_for_sockets_that_somebody_else_may_have_made_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary, elsewhere, deep = tmp_path / "tmp", tmp_path / "elsewhere", tmp_path / ("d" * 100)
    temporary.mkdir()
    elsewhere.mkdir(mode=0o700)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    place = temporary / f"fedrec-{os.getuid()}"
    assert socket_path(deep, "x").parent == socket_path(deep, "x").parent == place
    place.chmod(0o755)
    with pytest.raises(RunError, match=r"its mode is 755, not 700\. Delete it, or set TMPDIR to a folder of your own"):
        socket_path(deep, "x")
    place.rmdir()
    for make in (lambda: place.symlink_to(elsewhere), lambda: place.symlink_to("nowhere"), place.touch):
        make()
        with pytest.raises(
            RunError, match=rf"^{re.escape(str(place))} .*: it is not a folder. Delete it, or set TMPDIR"
        ):
            socket_path(deep, "x")
        place.unlink()
    somebody = os.getuid() + 1
    (temporary / f"fedrec-{somebody}").mkdir(mode=0o700)
    monkeypatch.setattr("os.getuid", lambda: somebody)
    with pytest.raises(RunError, match=rf"fedrec-{somebody} .*: it belongs to another user. Delete it, or set TMPDIR"):
        socket_path(deep, "x")
    assert list(elsewhere.iterdir()) == []


def test_every_kit_has_its_own_certificate(federation: FederationFolder) -> None:
    for name in KEYS:
        kit = federation.path / "kits" / name
        assert identity_of(kit) == {"name": name, "organisation": name.replace("-", "_"), "federation": "shops"}
        assert check_kit(kit, "client.crt") > datetime.now(UTC) + timedelta(days=300)
    assert check_kit(federation.server_kit, "server.crt") > datetime.now(UTC)
    assert check_kit(federation.admin_kit, "client.crt") > datetime.now(UTC)


def test_a_node_that_is_added_leaves_the_others_certificates_alone(federation: FederationFolder) -> None:
    before = {name: (federation.path / "kits" / name / "startup" / "client.crt").read_bytes() for name in KEYS}
    key = str(SigningKey("shop-d", bytes(31) + b"d").public())
    grown = federation.invite({"shop-d": key})
    assert sorted(grown.members.nodes) == [*sorted(KEYS), "shop-d"]
    assert check_kit(grown.path / "kits" / "shop-d", "client.crt") > datetime.now(UTC)
    after = {name: (federation.path / "kits" / name / "startup" / "client.crt").read_bytes() for name in KEYS}
    assert before == after
    left = grown.remove("shop-a")
    assert sorted(FederationFolder.open(left.path).members.nodes) == ["shop-b", "shop-c", "shop-d"]
    assert not (left.path / "kits" / "shop-a").exists()


def test_another_key_for_a_known_node_is_refused(federation: FederationFolder) -> None:
    other = str(SigningKey("shop-a", bytes(31) + b"z").public())
    with pytest.raises(RunError, match="another key already"):
        federation.invite({"shop-a": other})
    with pytest.raises(PlanError, match="belongs to node 'shop-b'"):
        federation.invite({"shop-d": KEYS["shop-b"]})


def test_nodes_invited_and_removed_from_what_was_read_earlier_are_not_lost(federation: FederationFolder) -> None:
    one, two, three = (FederationFolder.open(federation.path) for _ in range(3))
    one.invite({"shop-d": ""})
    two.remove("shop-b")
    three.invite({"shop-e": ""})
    left = FederationFolder.open(federation.path).nodes
    assert sorted(left) == ["shop-a", "shop-c", "shop-d", "shop-e"]
    held = hold(federation.path / ".changing", "")
    for change in (lambda: one.invite({"shop-f": ""}), lambda: one.remove("shop-a")):
        with pytest.raises(RunError, match="another command is changing"):
            change()
    os.close(held)
    assert FederationFolder.open(federation.path).nodes == left


@functools.cache
def foreign_key() -> rsa.RSAPrivateKey:
    """The key of an authority of which no federation knows."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def certificate(kit: Path, start: datetime, end: datetime) -> None:
    """A certificate of the kit's own name from another authority, whose root comes with it."""
    key = foreign_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "shop-a")])
    built = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(start).not_valid_after(end)
    ).sign(key, hashes.SHA256())  # fmt: skip
    data = built.public_bytes(serialization.Encoding.PEM)
    (kit / "startup" / "client.crt").write_bytes(data)
    (kit / "startup" / "rootCA.pem").write_bytes(data)


def test_expired_early_foreign_and_damaged_certificates_are_refused(federation: FederationFolder) -> None:
    kit, now = federation.path / "kits" / "shop-a", datetime.now(UTC)
    genuine = (kit / "startup" / "client.crt").read_bytes()
    certificate(kit, now - timedelta(days=9), now - timedelta(days=2))
    with pytest.raises(InputError, match="expired on"):
        check_kit(kit, "client.crt")
    certificate(kit, now + timedelta(days=2), now + timedelta(days=9))
    with pytest.raises(InputError, match="check the clock"):
        check_kit(kit, "client.crt")
    (kit / "startup" / "client.crt").write_bytes(genuine)
    with pytest.raises(InputError, match="was not issued by the authority"):
        check_kit(kit, "client.crt")
    (kit / "startup" / "client.crt").write_bytes(genuine[:200])
    with pytest.raises(DamagedError, match="cannot be read"):
        check_kit(kit, "client.crt")
    (kit / "startup" / "client.crt").unlink()
    with pytest.raises(DamagedError, match="cannot be read"):
        check_kit(kit, "client.crt")


def ending(federation: FederationFolder, days: float) -> None:
    """Certificates of all kits that end in so many days."""
    now = datetime.now(UTC)
    kits = [federation.server_kit, federation.admin_kit, *(federation.path / "kits").iterdir()]
    for kit in kits:
        certificate(kit, now - timedelta(days=300), now + timedelta(days=days, hours=1))
    shutil.copy(federation.server_kit / "startup" / "client.crt", federation.server_kit / "startup" / "server.crt")


@pytest.mark.parametrize(("days", "warned"), [(3, True), (29, True), (31, False), (300, False)])
def test_certificates_that_end_soon_are_warned_about_with_the_renewal(
    federation: FederationFolder, days: int, warned: bool, fedrec: Fedrec, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending(federation, days)
    monkeypatch.setattr("fedrec.network.nvflare.admin.who_is_up", lambda admin: ["shop-a"])
    said = fedrec("federation", "status", federation.path)
    assert said.code == 0, said.err
    assert said.out.count(f"{datetime.now(UTC) + timedelta(days=days, hours=1):%Y-%m-%d}") == 1 + len(KEYS)
    assert (f"expires in {days} days" in said.err) == warned
    assert (f"fedrec federation invite {federation.path} shop-a shop-b shop-c" in said.err) == warned


def test_invite_says_until_when_kits_are_valid(federation: FederationFolder, fedrec: Fedrec) -> None:
    said = fedrec("federation", "invite", federation.path, "shop-a", "--json")
    ends = json.loads(said.out)["valid_until"]
    assert set(ends) == set(KEYS)
    assert all(datetime.fromisoformat(end) > datetime.now(UTC) + timedelta(days=300) for end in ends.values())


def test_a_kit_that_ends_before_the_others_is_named(
    federation: FederationFolder, fedrec: Fedrec, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    certificate(federation.path / "kits" / "shop-b", now - timedelta(days=9), now + timedelta(days=3, hours=1))
    monkeypatch.setattr("fedrec.network.nvflare.admin.who_is_up", lambda admin: ["shop-a"])
    for words in (("status", federation.path), ("invite", federation.path, "shop-b")):
        monkeypatch.setattr("fedrec.deploy.folder.FederationFolder._copy", staticmethod(lambda source, target: None))
        said = fedrec("federation", *words)
        assert said.code == 0, said.err
        assert said.err.count("expires in 3 days") == 1
        assert "the certificate of shop-b expires in 3 days" in said.err


@pytest.mark.parametrize("kit", ["server", "admin"])
def test_the_coordinator_is_told_how_to_renew_what_has_ended(
    federation: FederationFolder, kit: str, fedrec: Fedrec, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    place = federation.path / "own-kits" / kit
    certificate(place, now - timedelta(days=9), now - timedelta(days=2))
    if kit == "server":
        (place / "startup" / "client.crt").rename(place / "startup" / "server.crt")
    for words in (("federation", "start", federation.path), ("federation", "status", federation.path),
                  ("train", "--federation", federation.path, "--model", "ease", "--out", tmp_path / "r")):  # fmt: skip
        said = fedrec(*words)
        assert said.code == 2
        assert "expired on" in said.err
        assert f"fedrec federation invite {federation.path}" in said.err


def test_a_node_says_until_when_its_kit_is_valid(federation: FederationFolder, tmp_path: Path, fedrec: Fedrec) -> None:
    (tmp_path / "clicks.csv").write_text("user_id,item_id\n1,1\n")
    make_node("shop-a", tmp_path / "node.toml", tmp_path / "home", DataPlan(source=str(tmp_path / "clicks.csv")),
              str(federation.key.public()), ())  # fmt: skip
    ending(federation, 5)
    said = fedrec("node", "check", "--config", tmp_path / "node.toml", "--no-data", "--kit",
                  federation.path / "kits" / "shop-a")  # fmt: skip
    assert said.code == 0, said.err
    assert "is valid until" in " ".join(said.out.split())
    assert "expires in 5 days" in " ".join(said.out.split())


def test_a_node_starts_with_its_own_valid_kit_only(federation: FederationFolder, tmp_path: Path) -> None:
    coordinator = str(federation.key.public())
    (tmp_path / "clicks.csv").write_text("user_id,item_id\n1,1\n")
    make_node("shop-a", tmp_path / "node.toml", tmp_path / "home", DataPlan(source=str(tmp_path / "clicks.csv")),
              coordinator, ())  # fmt: skip
    config = NodeConfig.read(tmp_path / "node.toml")
    with pytest.raises(PlanError, match="is for node 'shop-b'"):
        NodeProcess(config, federation.path / "kits" / "shop-b")
    with pytest.raises(InputError, match="not the startup kit of a node"):
        NodeProcess(config, tmp_path)
    kit = federation.path / "kits" / "shop-a"
    certificate(kit, datetime.now(UTC) - timedelta(days=9), datetime.now(UTC) - timedelta(days=2))
    with pytest.raises(InputError, match="expired on"):
        NodeProcess(config, kit)


def test_a_server_may_be_started_from_the_folder_beside(
    federation: FederationFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr("fedrec.deploy.server_process.Child", lambda workspace, *rest: started.append(workspace))
    monkeypatch.chdir(federation.path.parent)
    ServerProcess(FederationFolder.open(Path("shops")))
    assert started[0].is_absolute(), "NVFlare looks for its files from a folder of its own"
    assert (started[0] / "startup" / "fed_server.json").is_file()


@pytest.mark.parametrize("host", ["localhost", "10.1.2.3"])
@pytest.mark.parametrize("name", ["Shop_B", "-shop", "shop.b", "", "s" * 64, "server", server_name("10.1.2.3")])
def test_a_name_that_no_kit_can_have_is_refused_by_the_owner_too(name: str, host: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"node {name!r}: ") as invited:
        provision(tmp_path / "provisioning", "shops", host, 8002, [name])
    with pytest.raises(PlanError) as named:
        make_node(name, tmp_path / "node.toml", tmp_path / "home", DataPlan(source="clicks.csv"))
    assert str(named.value) == f"{tmp_path / 'node.toml'}: name: {invited.value}"
    assert list(tmp_path.iterdir()) == []


def test_a_node_is_not_called_as_the_server_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="node 'shop-a': the host of the server has this name"):
        provision(tmp_path / "provisioning", "shops", "shop-a", 8002, ["shop-b", "shop-a"])
    assert list(tmp_path.iterdir()) == []


def test_a_server_whose_port_is_taken_does_not_start(fedrec: Fedrec, federation: FederationFolder) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port, file = taken.getsockname()[1], federation.path / "federation.toml"
        file.write_text(file.read_text().replace("port = 8002", f"port = {port}"))
        said = fedrec("federation", "start", federation.path)
    assert said.code == 2
    assert f"port {port} of this machine cannot be used" in said.err
    again = FederationFolder.open(federation.path).invite({"shop-a": ""})
    kit = (again.path / "kits" / "shop-a" / "startup" / "fed_client.json").read_text()
    assert str(port) in kit, "as the words say"
    assert "8002" not in kit


@pytest.mark.parametrize("server", [False, True])
def test_a_workspace_allows_the_mail_slot_and_nothing_else(
    server: bool, federation: FederationFolder, tmp_path: Path
) -> None:
    kit = federation.server_kit if server else federation.path / "kits" / "shop-a"
    lay_out(kit, tmp_path / "workspace", server)
    local = tmp_path / "workspace" / "local"
    rights = json.loads((local / "authorization.json").read_text())["permissions"]
    assert list(rights) == ["project_admin"]
    for right in ("byoc", "shell_commands", "download_job", "clone_job"):
        assert rights["project_admin"][right] == "none"
    resources = json.loads((local / "resources.json").read_text())
    assert resources["class_list_enforcement_mode"] == "enforce"
    assert resources["class_allow_list"] == ["fedrec.network.nvflare.mailslots.", "nvflare.collab.runtime."]
    assert resources["allow_log_streaming"] is False
    assert not {"site_log_streamer", "log_receiver"} & {part["id"] for part in resources["components"]}
    assert "/tmp/nvflare" not in (local / "resources.json").read_text()
    assert (tmp_path / "workspace").stat().st_mode & 0o077 == 0
    lay_out(kit, tmp_path / "workspace", server)


def test_a_job_carries_no_code() -> None:
    files = job_files(["shop-a", "shop-b"], "1")
    assert all(name.endswith(".json") for name in files)
    assert json.loads(files["meta.json"])["deploy_map"] == {"app": ["server", "shop-a", "shop-b"]}
    paths = [part["path"] for part in json.loads(files["app/config/config_fed_client.json"])["components"]]
    assert paths == ["fedrec.network.nvflare.mailslots.Mailbox"]


@pytest.mark.parametrize(("host", "name"), [("fed.example.org", "fed.example.org"), ("10.1.2.3", "fedrec-coordinator")])
def test_an_address_is_no_name(host: str, name: str) -> None:
    assert server_name(host) == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = 3", "name must be a text, not 3"),
        ('name = "x"', "host, port, max_clients must be set"),
        ("nme = 3", "nme is not a setting. Did you mean 'name'"),
        ("= 3", "is not TOML"),
        (
            'name="x"\nhost="h"\nport=1\nmax_clients=5\n[waiting]\nlast=3',
            "last is not a setting. Choose from: deadline",
        ),
        ('name="x"\nhost="h"\nport=1\nmax_clients=5\n[waiting]\nmin_fraction=3.0', "0 < min_fraction"),
        (
            'name="x"\nhost="h"\nport=1\nmax_clients=5\n[waiting]\nmax_retries=2.5',
            "max_retries: must be a whole number",
        ),
        (
            'name="x"\nhost="h"\nport=1\nmax_clients=5\n[waiting]\nreconnect_timeout="1 h"',
            "timeout: must be a number",
        ),
        ('name="x"\nhost="h"\nport=1\nmax_clients=5\n[waiting]\ndeadline=nan', "waiting.deadline: must be a number"),
        ('name="x"\nhost="h"\nport=1\nmax_clients=5\n[nodes]\n"a"="b"', "key of a"),
        ('name="x"\nhost="h"\nport=1\nmax_clients=5\n[nodes]\n"../../x"=""', "63 lower-case letters"),
        ('name="../x"\nhost="h"\nport=1\nmax_clients=5', "use at most 63 letters"),
        ('name="x"\nhost="../../h"\nport=1\nmax_clients=5', "not a host name or address"),
        ('name="x"\nhost="h"\nport=0\nmax_clients=5', "port 0: must be from 1 to 65535"),
    ],
)
def test_what_is_wrong_in_a_federation_is_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "federation.toml").write_text(text)
    with pytest.raises(PlanError, match=words):
        assert FederationFolder.open(tmp_path).waiting


OLD_WAITING = "least = 0.25\nenough = 0.75\ntries = 4\npatience = 60.0\n"
OLD = f'name = "x"\nhost = "h"\nport = 1\nmost_clients = 5\n[waiting]\n{OLD_WAITING}'


def test_a_federation_with_old_names_of_keys_is_read_and_written_with_the_present_names(tmp_path: Path) -> None:
    (tmp_path / "federation.toml").write_text(OLD)
    federation = FederationFolder.open(tmp_path)
    assert federation.max_clients == 5
    waiting = federation.waiting
    assert (waiting.min_fraction, waiting.target_fraction, waiting.reconnect_timeout) == (0.25, 0.75, 60.0)
    assert (waiting.max_retries, waiting.attempts) == (3, 4), "an old number of tries counts the first one too"
    federation._write()
    text = (tmp_path / "federation.toml").read_text()
    for old in ("most_clients", "least", "enough", "tries", "patience"):
        assert f"\n{old} =" not in text
    again = FederationFolder.open(tmp_path)
    assert (again.max_clients, again.waiting) == (5, waiting)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("most_clients", "max_clients"),
        ("least", "min_fraction"),
        ("enough", "target_fraction"),
        ("tries", "max_retries"),
        ("patience", "reconnect_timeout"),
    ],
)
def test_a_key_under_its_old_and_its_present_name_is_an_error(old: str, new: str, tmp_path: Path) -> None:
    (tmp_path / "federation.toml").write_text(OLD.replace(f"{old} =", f"{new} = 1\n{old} ="))
    with pytest.raises(PlanError, match=f"{new}: the old name of this key, {old}, is set too; delete {old}"):
        assert FederationFolder.open(tmp_path).waiting


def test_the_commands_from_nothing_to_kits(fedrec: Fedrec, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text(ITEMS)
    folder = str(tmp_path / "shops")
    said = fedrec("federation", "init", folder, "--catalog", str(tmp_path / "items.csv"), "--max-clients", "500",
                  "--host", "localhost", "--json")  # fmt: skip
    assert said.code == 0, said.err
    coordinator = json.loads(said.out)["public_key"]
    assert coordinator.startswith("coordinator+")
    said = fedrec("federation", "init", folder, "--catalog", str(tmp_path / "items.csv"), "--max-clients", "500",
                  "--host", "localhost")  # fmt: skip
    assert said.code == 2
    assert "is not empty" in said.err
    for words in (["train", "--model", "ease", "--out", tmp_path / "run", "--federation"], ["federation", "start"],
                  ["federation", "status"]):  # fmt: skip
        said = fedrec(*words, folder)
        assert said.code == 2
        assert "no node is invited yet" in said.err
    said = fedrec("federation", "invite", folder, "shop-a", "shop-b", "--key", KEYS["shop-a"], "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["nodes"] == {"shop-a": True, "shop-b": False}
    assert json.loads(said.out)["public_key"] == coordinator, "init says it once only"
    said = fedrec("train", "--federation", folder, "--model", "ease", "--out", str(tmp_path / "run"))
    assert said.code == 2
    assert "the public key of shop-b is missing" in said.err
    said = fedrec("federation", "invite", folder, "Shop B")
    assert said.code == 2
    assert "lower-case letters" in said.err
    said = fedrec("federation", "invite", folder, "shop-b", "--key", KEYS["shop-c"])
    assert said.code == 2
    assert "shop-c is not among the NAMEs" in said.err
    said = fedrec("federation", "invite", folder, "shop-b", "--key", KEYS["shop-b"])
    assert said.code == 0
    said = fedrec("federation", "remove", folder, "shop-z")
    assert said.code == 2
    said = fedrec("federation", "remove", folder, "shop-a", "--json")
    assert json.loads(said.out)["nodes"] == ["shop-b"]
    for words in (["--data", "x.csv"], ["--nodes", "3"], ["--partition", "by:age"], ["--columns", "user_id=u"],
                  ["--format", "csv"], ["--encoding", "latin-1"], ["--on-error", "skip"], ["--clock", "latency:1"],
                  ["--budget", "b"]):  # fmt: skip
        said = fedrec("train", "--federation", folder, "--model", "ease", *words)
        assert said.code == 2
        assert "--federation" in said.err
        assert f"remove {words[0]}" in said.err
    nowhere = str(tmp_path / "nowhere")
    said = fedrec("train", "--federation", folder, "--model", "ease", "--resume", "--out", nowhere)
    assert said.code == 2
    assert f"{nowhere} is not a run" in said.err


def test_cleaning_asked_of_a_federation_is_in_its_plan(
    fedrec: Fedrec, federation: FederationFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Plan] = []

    def train(plan: Plan, *_: Any, **__: Any) -> None:
        asked.append(plan)
        raise RunError("enough is known")

    monkeypatch.setattr("fedrec.network.nvflare.post.NvflarePost", lambda *_, **__: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr("fedrec.runs.federated.train_federated", train)
    (tmp_path / "plan.yaml").write_text("data: {source: federation}\nmodel: {name: ease}\n")
    for words in (["--model", "ease"], ["--plan", str(tmp_path / "plan.yaml")]):
        fedrec("train", "--federation", federation.path, *words, "--clean", "rating_at_least=4")
    assert [plan.data.cleaning.rating_at_least for plan in asked] == [4, 4]
    assert {plan.data.source for plan in asked} == {"federation"}


def test_a_federation_whose_server_is_not_up_is_told_apart(fedrec: Fedrec, federation: FederationFolder) -> None:
    said = fedrec("federation", "status", str(federation.path))
    assert said.code == 2
    assert "fedrec federation start" in said.err


def test_a_demo_that_is_told_to_end_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []

    def load(data: DataPlan, folder: Path, named: str) -> None:
        seen.append(folder)
        assert folder.is_dir()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10.0)

    monkeypatch.setattr("fedrec.deploy.demo.load_plan_data", load)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        play(Plan.make({"data": {"source": "synthetic"}, "model": {"name": "ease"}}), 2, False, None)
    assert ended.value.code == 143
    assert seen[0].parent == tmp_path
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_process_ends_with_the_one_that_its_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    stopped: list[bool] = []
    try:
        monkeypatch.setenv(PARENT, str(os.getpid()))  # not the parent of this process: that one is gone
        until_stopped(lambda: stopped.append(True))
        monkeypatch.delenv(PARENT)
        threading.Timer(2.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        began = time.monotonic()
        until_stopped(lambda: stopped.append(True))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert stopped == [True, True]
    assert time.monotonic() - began > 2.0, "it went on until it was told"


PLAYED = """
import sys, time
from pathlib import Path
import numpy as np
import fedrec as fr
from fedrec.deploy.demo import Stage, staged
Stage.start_node = lambda self, name: None
Stage.wait = lambda self, names: None
data = fr.load_data("synthetic:users=20,items=20,interactions_per_user=5,seed=1")
with staged(Path(sys.argv[1]), data, np.zeros(data.n_users, dtype=np.int64), 1024):
    time.sleep(60.0)
"""


def marked(mark: str) -> list[int]:
    """Processes with a mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (path / "environ").read_bytes():
                found.append(int(path.name))
    return found


def until(true: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.1)
    return true()


@pytest.mark.slow
@pytest.mark.parametrize("number", chosen([signal.SIGKILL], [signal.SIGTERM, signal.SIGKILL]))
def test_what_a_stage_started_ends_with_it_however_it_ends(number: int, tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    said = tmp_path / "server.txt"
    played = subprocess.Popen([sys.executable, "-c", PLAYED, str(tmp_path)], env={**os.environ, "FEDREC_TEST": mark})
    try:
        assert until(lambda: said.exists() and b"listens" in said.read_bytes(), 60.0)
        assert len(marked(mark)) >= 3, "the stage, 'fedrec federation start' and NVFlare's program"
        played.send_signal(number)
        assert played.wait(30.0) == (143 if number == signal.SIGTERM else -number)
        assert until(lambda: not marked(mark), 15.0 if number == signal.SIGKILL else 1.0)
    finally:
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
