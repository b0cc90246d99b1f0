"""Keys, signed notes, checkpoints and witnesses against published vectors and by what must not verify."""

from __future__ import annotations

import base64
import builtins
import os
import stat
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from fedrec.errors import DamagedError, InputError
from fedrec.record.keys import COSIGNATURE, PublicKey, SigningKey
from fedrec.record.merkle import consistency_proof, leaf_hash, root_of
from fedrec.record.notes import Checkpoint, Note, cosign, sign, witness

KEY = SigningKey("coordinator", bytes(range(32)))
NODE = SigningKey("node-0", bytes(32))
LEAVES = [leaf_hash(str(number).encode()) for number in range(9)]


def checkpoint(size: int, leaves: list[bytes] = LEAVES) -> Checkpoint:
    return Checkpoint("example.org/log", size, root_of(leaves[:size]))


def test_ed25519_as_rfc_8032_has_it():
    secret = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    key = SigningKey("rfc", secret)
    assert key.public().key.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert key.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b"
    )


def test_the_published_note_is_signed_again_to_the_same_bytes():
    """The example of the Go package `sumdb/note`, where the format comes from."""
    secret = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
    key = SigningKey("PeterNeumann", base64.b64decode(secret)[1:])
    assert str(key.public()) == "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    signed = sign(Note(text), key)
    assert signed.encode().decode() == (
        text + "\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6Ry"
        "yBwJnAM=\n"
    )
    assert Note.parse(signed.encode()) == signed


def test_a_cosignature_signs_the_time_and_the_text_as_c2sp_says():
    note = cosign(sign(Note(checkpoint(3).text), KEY), NODE, 1_700_000_000)
    one = note.signatures[1]
    message = b"cosignature/v1\ntime 1700000000\n" + checkpoint(3).text.encode()
    NODE.public().check(message, one.data[8:])
    assert (one.time, len(one.data), one.key_hash) == (1_700_000_000, 72, NODE.public(COSIGNATURE).hash)
    assert [found.name for found in note.signed_by([KEY.public(), NODE.public(COSIGNATURE)])] == [KEY.name, NODE.name]
    assert note.signed_by([NODE.public()]) == [], "a key of another kind is another key"


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_no_changed_byte_of_a_note_verifies(data):
    whole = cosign(sign(Note(checkpoint(3).text), KEY), NODE, 1_700_000_000).encode()
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :]
    keys = [KEY.public(), NODE.public(COSIGNATURE)]
    try:
        found = Note.parse(changed).signed_by(keys)
    except DamagedError:
        return
    assert len(found) < 2


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_what_is_no_note_is_refused(data):
    with pytest.raises(DamagedError):
        Checkpoint.parse(Note.parse(data).text)


@pytest.mark.parametrize(
    "text",
    ["", "a\n", "a\n1\n", "a\n01\nAAAA\n", "a\n-1\nAAAA\n", "a\n1\nAAAA\n", "\n1\n" + "A" * 43 + "=\n",
     "a\n1\n" + "A" * 42 + "B=\n", "a\n1\n" + "A" * 43 + "=\nmore\n", "a\n" + "9" * 5000 + "\n" + "A" * 43 + "=\n"],
)  # fmt: skip
def test_what_is_no_checkpoint_is_refused(text):
    with pytest.raises(DamagedError, match="checkpoint"):
        Checkpoint.parse(text)


def test_a_wrong_key_with_the_right_name_is_nobody():
    note = sign(Note("text\n"), KEY)
    assert note.signed_by([SigningKey(KEY.name, bytes(32)).public()]) == []
    forged = Note("text\n", (sign(Note("another\n"), KEY).signatures[0],))
    with pytest.raises(DamagedError, match="the signature of coordinator is wrong"):
        forged.signed_by([KEY.public()])


def test_a_witness_signs_what_goes_on_from_what_it_knows():
    log, known = KEY.public(), None
    for size in range(1, 10):
        note = sign(Note(checkpoint(size).text), KEY)
        proof = [] if known is None else consistency_proof(LEAVES[:size], known.size)
        signed = witness(known, note, proof, log, NODE, 100 + size)
        assert len(signed.signed_by([log, NODE.public(COSIGNATURE)])) == 2
        known = checkpoint(size)


def test_a_witness_refuses_a_rewritten_shrunk_or_unsigned_log():
    rewritten = [leaf_hash(b"other"), *LEAVES[1:]]
    known, log = checkpoint(4), KEY.public()
    cases = [
        (sign(Note(checkpoint(7, rewritten).text), KEY), consistency_proof(rewritten[:7], 4), "begins with its 4"),
        (sign(Note(checkpoint(3).text), KEY), [], "begins with its 4"),
        (sign(Note(checkpoint(4, rewritten).text), KEY), [], "begins with its 4"),
        (sign(Note(checkpoint(7).text), NODE), consistency_proof(LEAVES[:7], 4), "not signed by coordinator"),
        (sign(Note(Checkpoint("other.org", 4, known.root).text), KEY), [], "is of log other.org"),
    ]
    for note, proof, message in cases:
        with pytest.raises(DamagedError, match=message):
            witness(known, note, proof, log, NODE, 100)


def test_a_key_file_is_for_its_owner_alone(tmp_path):
    path = tmp_path / "key"
    made = SigningKey.make("me", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SigningKey.load("me", path) == made
    assert made.secret.hex() not in repr(made)
    assert SigningKey.make("me", tmp_path / "other").secret != made.secret
    with pytest.raises(InputError, match="exists already"):
        SigningKey.make("me", path)
    path.chmod(0o640)
    with pytest.raises(InputError, match=r"other users may read key .* \(mode 640\); run 'chmod 600"):
        SigningKey.load("me", path)


@pytest.mark.parametrize("content", [b"", b"zz" * 32, b"00" * 31, b"00" * 33, b"\xff" * 64])
def test_what_is_no_key_is_refused(tmp_path, content):
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(InputError, match="is not a key"):
        SigningKey.load("me", path)
    with pytest.raises(InputError, match="cannot be read"):
        SigningKey.load("me", tmp_path / "absent")


@pytest.mark.parametrize("text", ["", "a+b", "me+00000000+AAAA", "x" * 300, "PeterNeumann+c74f20a3+ARpc2QcU"])
def test_what_is_no_public_key_is_refused(text):
    with pytest.raises(InputError, match="public key"):
        PublicKey.parse(text)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\n", "\0"])
def test_a_name_that_notes_cannot_hold_is_refused(name):
    with pytest.raises(InputError, match="name of a key"):
        SigningKey(name, bytes(32))


def test_without_cryptography_signing_says_what_to_install(monkeypatch):
    whole = builtins.__import__

    def missing(name, *rest):
        if name.startswith("cryptography"):
            raise ImportError(name)
        return whole(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InputError, match=r"pip install 'fedrec\[privacy\]'"):
        SigningKey(KEY.name, KEY.secret).sign(b"text")


def test_a_pipe_or_a_long_file_is_no_key_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "long").write_text("0" * 5000)
    (tmp_path / "long").chmod(0o600)
    for name in ("pipe", "long"):
        with pytest.raises(InputError, match=f"key .*{name} cannot be read: it is"):
            SigningKey.load("node", tmp_path / name)
