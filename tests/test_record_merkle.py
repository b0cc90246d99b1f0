"""Merkle trees against published vectors and by their algebra; the rooted ledger that stands on them."""

from __future__ import annotations

import hashlib

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from fedrec.errors import DamagedError
from fedrec.record.ledger import Ledger, read_lines
from fedrec.record.merkle import (
    Tree,
    check_consistency,
    check_inclusion,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
)

# The eight entries, roots and proofs that implementations of certificate transparency are tested with.
ENTRIES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
_A, _B = (
    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
    "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
)
_C = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
_D = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
_E = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
INCLUSION = {
    (0, 1): [],
    (0, 8): [_D, _A, _E],
    (5, 8): [_B, _C, ROOTS[4]],
    (2, 3): [ROOTS[2]],
    (1, 5): [ROOTS[1], _A, _B],
}
CONSISTENCY = {
    (1, 1): [],
    (1, 8): [_D, _A, _E],
    (6, 8): ["0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a", _C, ROOTS[4]],
    (2, 5): [_A, _B],
}

logs = st.lists(st.binary(max_size=8), min_size=1, max_size=40).map(lambda entries: [leaf_hash(e) for e in entries])


def by_definition(leaves: list[bytes]) -> bytes:
    """The root as RFC 6962 defines it."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while 2 * split < len(leaves):
        split *= 2
    return node_hash(by_definition(leaves[:split]), by_definition(leaves[split:]))


@pytest.mark.parametrize("size", range(9))
def test_published_roots(size):
    assert root_of(LEAVES[:size]).hex() == ROOTS[size]


def test_published_proofs():
    for (index, size), proof in INCLUSION.items():
        assert [part.hex() for part in inclusion_proof(LEAVES[:size], index)] == proof
        check_inclusion(LEAVES[index], index, size, [bytes.fromhex(part) for part in proof], bytes.fromhex(ROOTS[size]))
    for (old, new), proof in CONSISTENCY.items():
        assert [part.hex() for part in consistency_proof(LEAVES[:new], old)] == proof
        roots = bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[new])
        check_consistency(old, new, [bytes.fromhex(part) for part in proof], *roots)


@given(logs)
def test_a_tree_that_grows_has_the_roots_of_the_definition(leaves):
    tree = Tree()
    for size in range(len(leaves) + 1):
        assert (tree.size, tree.root()) == (size, by_definition(leaves[:size]))
        if size < len(leaves):
            tree.append(leaves[size])


@settings(deadline=None)
@given(logs, st.data())
def test_every_inclusion_is_proved_and_nothing_else(leaves, data):
    index, size = data.draw(st.integers(0, len(leaves) - 1)), len(leaves)
    proof, root = inclusion_proof(leaves, index), root_of(leaves)
    check_inclusion(leaves[index], index, size, proof, root)
    assert len(proof) <= (size - 1).bit_length()
    changed = [
        (leaf_hash(b"another entry, longer"), index, size, proof, root),
        (leaves[index], index, size, proof, flipped(root, data)),
        (leaves[index], index, size, [*proof, root], root),
        (leaves[index], size, size, proof, root),
        (leaves[index], -1, size, proof, root),
    ]
    other = data.draw(st.integers(0, size - 1))
    if other != index and leaves[other] != leaves[index]:
        changed.append((leaves[other], index, size, proof, root))
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        bent = [*proof[:place], flipped(proof[place], data), *proof[place + 1 :]]
        changed += [
            (leaves[index], index, size, bent, root),
            (leaves[index], index, size, proof[:-1], root),
            (leaves[index], index, size, [*proof[:-1], proof[-1][:-1]], root),
        ]
    for arguments in changed:
        with pytest.raises(DamagedError, match="does not show"):
            check_inclusion(*arguments)


@settings(deadline=None)
@given(logs, st.data())
def test_every_growth_is_proved_and_nothing_else(leaves, data):
    new = len(leaves)
    old = data.draw(st.integers(0, new))
    proof, before, after = consistency_proof(leaves, old), root_of(leaves[:old]), root_of(leaves)
    check_consistency(old, new, proof, before, after)
    changed = [(old, new, [*proof, after], before, after), (new + 1, new, proof, before, after)]
    changed.append((old, new, proof, flipped(before, data), after))
    if old:
        changed.append((old, new, proof, before, flipped(after, data)))
        rewritten = [leaf_hash(b"another entry, longer"), *leaves[1:]]
        changed.append((old, new, consistency_proof(rewritten, old), before, root_of(rewritten)))
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        bent = [*proof[:place], flipped(proof[place], data), *proof[place + 1 :]]
        changed += [(old, new, bent, before, after), (old, new, proof[:-1], before, after)]
    for arguments in changed:
        with pytest.raises(DamagedError, match="does not show"):
            check_consistency(*arguments)


def test_proofs_of_what_is_not_there_are_not_made():
    with pytest.raises(IndexError):
        inclusion_proof(LEAVES, 8)
    with pytest.raises(IndexError):
        consistency_proof(LEAVES, 9)


def test_a_rooted_ledger_ends_every_line_with_the_root_over_it(tmp_path):
    ledger = filled(tmp_path / "ledger.jsonl")
    lines, leaves = read_lines((tmp_path / "ledger.jsonl").read_bytes(), "it", rooted=True)
    assert lines == ledger.lines == Ledger(tmp_path / "ledger.jsonl", rooted=True).lines
    assert all("root" not in line for line in lines)
    for number, text in enumerate((tmp_path / "ledger.jsonl").read_text().splitlines(), 1):
        assert f'"root":"{root_of(leaves[:number]).hex()}"}}' in text
    assert ledger.tree.root() == Ledger(tmp_path / "ledger.jsonl", rooted=True).tree.root() == root_of(leaves)


def test_any_byte_of_a_rooted_ledger_changed_names_its_line(tmp_path):
    path = tmp_path / "ledger.jsonl"
    filled(path)
    data = path.read_bytes()
    for place in range(len(data)):
        number = data[:place].count(b"\n") + 1
        for bit in (1, 32):
            changed = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
            with pytest.raises(DamagedError, match=f"it, line {number}: "):
                read_lines(changed, "it", rooted=True)


def test_lines_taken_out_put_in_or_moved_are_named(tmp_path):
    path = tmp_path / "ledger.jsonl"
    filled(path)
    lines = path.read_bytes().splitlines(keepends=True)
    for changed in (lines[:2] + lines[3:], [*lines[:2], lines[1], *lines[2:]], [*lines[:2], lines[3], lines[2]]):
        with pytest.raises(DamagedError, match="it, line 3: the 'round' entry does not match its root"):
            read_lines(b"".join(changed), "it", rooted=True)
    with pytest.raises(DamagedError, match="line 1"):
        read_lines(b"".join(lines[1:]), "it", rooted=True)


def flipped(hash_: bytes, data: st.DataObject) -> bytes:
    bit = data.draw(st.integers(0, 255))
    return bytes(byte ^ ((1 << bit % 8) * (place == bit // 8)) for place, byte in enumerate(hash_))


def filled(path):
    ledger = Ledger(path, rooted=True)
    ledger.append("start", plan="ab")
    for round_ in range(3):
        ledger.append("round", round=round_, note="ümlaut\n日本")
    return ledger
