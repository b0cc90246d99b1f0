"""What a trusted key must have signed: all of a finished ledger, and the list of files; and what no list can hold."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fedrec as fr
from fedrec.errors import DamagedError, InputError
from fedrec.federation.checkpoints import ended_state, packed
from fedrec.federation.plan import Plan
from fedrec.federation.run import PUBLIC
from fedrec.node.witness import told
from fedrec.record.durable import save_arrays
from fedrec.record.files import list_files, names_in
from fedrec.record.keys import COSIGNATURE, LOG, PublicKey, SigningKey
from fedrec.record.ledger import Ledger, read_lines, rooted_line
from fedrec.record.merkle import Tree
from fedrec.record.notes import Note, Signature, cosign, sign
from fedrec.record.signing import FILES_NOTE, KEYS, LEDGER_NOTE, checkpoint_of, signed_in
from fedrec.runs.training import train_run
from fedrec.runs.verifying import sign_run, verify_run
from runs_in_test import DATA, MODELS

pytestmark = pytest.mark.filterwarnings("ignore:ratings .or weights. from")  # values do not matter here

COORDINATOR = SigningKey("coordinator", bytes(range(32)))
WITNESS = SigningKey("hospital", bytes(range(1, 33)))
TRUSTED = COORDINATOR.public()
SEEN_BY = WITNESS.public(COSIGNATURE)
ONE_ID = [SigningKey("coordinator", number.to_bytes(32, "big")) for number in (46822, 89812)]
"""Two keys whose hashes of 4 bytes are the same, found by trying a hundred thousand."""
ENTRIES = 5


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, signed by its coordinator and seen by a witness."""
    run = tmp_path_factory.mktemp("signed") / "run"
    train_run(Plan.make({"data": {"source": DATA}, "model": {**MODELS["mf"], "rounds": 3}}), run)
    sign_run(run, COORDINATOR)
    sign_run(run, WITNESS, witness=True)
    return run


@pytest.fixture
def run(signed: Path, tmp_path: Path) -> Path:
    """A copy of the signed run."""
    return Path(shutil.copytree(signed, tmp_path / "run"))


def published(run: Path, copy: Path) -> Path:
    """What may be shown of a run."""
    for name in (*PUBLIC, "ledger.jsonl", LEDGER_NOTE, KEYS):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(run / name, copy / name)
    return copy


def leaves_of(run: Path) -> list[bytes]:
    return read_lines((run / "ledger.jsonl").read_bytes(), "ledger", rooted=True)[1]


def relist(run: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Write another list of files, whole by its own roots, without a signature."""
    lines, _ = read_lines((run / "record/files.jsonl").read_bytes(), "files", rooted=True)
    tree = Tree()
    texts = [rooted_line(json.dumps(line, separators=(",", ":")), tree) for line in change(lines)]
    (run / "record/files.jsonl").write_text("".join(f"{text}\n" for text in texts))
    (run / FILES_NOTE).unlink()


# --- the whole ledger, which has ended ------------------------------------------------------------------------------


def test_whoever_signed_all_is_named_as_trusted(run: Path, tmp_path: Path) -> None:
    keys = [TRUSTED, SEEN_BY]
    found = verify_run(run, keys)
    assert (found.wrong, found.trusted) == (None, [key.id for key in keys])
    assert verify_run(run).trusted == []
    copy = published(run, tmp_path / "copy")
    assert verify_run(copy, keys, published=True).trusted == [key.id for key in keys]
    assert verify_run(copy, [SEEN_BY], published=True).trusted == [SEEN_BY.id]


@pytest.mark.parametrize("size", range(1, ENTRIES))
@pytest.mark.parametrize("as_published", [False, True])
def test_a_signature_of_the_first_entries_vouches_for_nothing(size: int, as_published: bool, run: Path) -> None:
    """Every node is handed such a signature with every call of a round, and can write all that follows by itself."""
    note = told(leaves_of(run)[:size], 0, COORDINATOR)["note"].encode()
    if as_published:
        run = published(run, run.parent / "copy")
    (run / LEDGER_NOTE).write_bytes(note)
    assert verify_run(run, published=as_published).wrong is None, "without a trusted key it is a note like any other"
    found = verify_run(run, [TRUSTED], published=as_published)
    assert found.wrong is not None
    assert found.wrong.startswith(f"{LEDGER_NOTE}: {TRUSTED.id} signed the first {size} of {ENTRIES} entries")
    assert found.trusted == []


def test_a_witness_of_the_first_entries_vouches_for_nothing_either(run: Path) -> None:
    first = checkpoint_of(leaves_of(run)[:2], leaves_of(run)[0], "ledger")
    (run / LEDGER_NOTE).write_bytes(cosign(sign(Note(first.text), COORDINATOR), WITNESS, 9).encode())
    for keys in ([SEEN_BY], [SEEN_BY, TRUSTED]):
        found = verify_run(published(run, run.parent / f"copy-{len(keys)}"), keys, published=True)
        assert f"signed the first 2 of {ENTRIES} entries" in str(found.wrong)


@pytest.mark.parametrize("size", range(2, ENTRIES))
def test_a_ledger_cut_to_what_was_signed_of_it_has_not_ended(size: int, run: Path) -> None:
    lines = (run / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (run / "ledger.jsonl").write_bytes(b"".join(lines[:size]))
    note = told(leaves_of(run), 0, COORDINATOR)["note"]
    (run / LEDGER_NOTE).write_text(note)
    shutil.rmtree(run / "checkpoint")
    shutil.rmtree(run / "model")
    list_files(run)
    (run / FILES_NOTE).unlink()
    for as_published in (False, True):
        found = verify_run(run, [TRUSTED], published=as_published)
        assert str(found.wrong).startswith("ledger.jsonl: the run has not ended, or the last entry was removed")


def test_a_run_that_goes_on_is_signed_so_far_and_not_trusted(tmp_path: Path, run: Path) -> None:
    lines = read_lines((run / "ledger.jsonl").read_bytes(), "ledger", rooted=True)[0][:-1]
    last = max(line["round"] for line in lines if line["kind"] == "round")
    save_arrays(run / f"checkpoint/round-{last:06d}.safetensors", packed(ended_state(run, last)))
    (run / "ledger.jsonl").unlink()
    shutil.rmtree(run / "record")
    ledger = Ledger(run / "ledger.jsonl", rooted=True)
    for line in lines:
        ledger.append(line["kind"], **{key: value for key, value in line.items() if key != "kind"})
    sign_run(run, COORDINATOR)
    assert verify_run(run).wrong is None
    assert "the run has not ended" in str(verify_run(run, [TRUSTED]).wrong)


def test_the_signature_of_another_run_is_of_another_run(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    train_run(Plan.make({"data": {"source": DATA}, "model": MODELS["popularity"]}), other)
    sign_run(other, COORDINATOR)
    for name in (LEDGER_NOTE, FILES_NOTE):
        kept = (run / name).read_bytes()
        shutil.copy(other / name, run / name)
        found = verify_run(run, [TRUSTED]).wrong
        assert found is not None
        assert found.startswith(name), found
        (run / name).write_bytes(kept)
    assert verify_run(run, [TRUSTED]).wrong is None


# --- the list of files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["report.json", "progress.jsonl", "private/placement.json"])
def test_what_only_the_list_of_files_covers_needs_its_signature(name: str, run: Path) -> None:
    (run / name).write_bytes((run / name).read_bytes() + b"\n")
    list_files(run)
    (run / FILES_NOTE).unlink()
    assert verify_run(run).wrong is None
    assert verify_run(run, [TRUSTED]).wrong == f"{FILES_NOTE}: missing, and coordinator must have signed it"
    stranger = SigningKey("stranger", bytes(32))
    sign_run(run, stranger)
    note = Note.parse((run / FILES_NOTE).read_bytes())
    assert [one.name for one in note.signatures] == ["stranger"]
    assert verify_run(run, [TRUSTED]).wrong == f"{FILES_NOTE}: not signed by {TRUSTED.id}"


def test_an_earlier_list_of_files_is_not_the_list(run: Path) -> None:
    kept = (run / FILES_NOTE).read_bytes()
    list_files(run)
    (run / FILES_NOTE).write_bytes(kept)
    assert str(verify_run(run, [TRUSTED]).wrong).startswith(FILES_NOTE)


def test_a_witness_alone_vouches_for_no_file_beside_the_ledger(run: Path) -> None:
    found = verify_run(run, [SEEN_BY])
    assert str(found.wrong).startswith(f"{FILES_NOTE}: not signed by a trusted key: {SEEN_BY.id} is a witness")
    assert verify_run(run, [SEEN_BY, TRUSTED]).wrong is None


def test_a_saved_model_has_no_ledger_and_needs_a_signature_of_its_files(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    fr.Popularity().fit(fr.load_data(DATA)).save(saved)
    assert verify_run(saved, [TRUSTED]).wrong == f"{FILES_NOTE}: missing, and coordinator must have signed it"
    assert str(verify_run(saved, [TRUSTED], published=True).wrong).startswith("ledger.jsonl: missing")
    with pytest.raises(InputError, match="no ledger, and a witness can sign only a ledger"):
        sign_run(saved, WITNESS, witness=True)
    sign_run(saved, COORDINATOR)
    assert verify_run(saved, [TRUSTED]).trusted == [TRUSTED.id]


def test_a_run_without_its_ledger_is_no_saved_model(run: Path) -> None:
    (run / "ledger.jsonl").unlink()
    list_files(run)
    (run / FILES_NOTE).unlink()
    assert str(verify_run(run).wrong) == f"ledger.jsonl: missing, but {LEDGER_NOTE} has a signature of the ledger"
    (run / LEDGER_NOTE).unlink()
    assert verify_run(run, [TRUSTED]).wrong == f"{FILES_NOTE}: missing, and coordinator must have signed it"


@pytest.mark.parametrize("name", ["report.json", "private/placement.json", "notes/read.me", "checkpoint/extra"])
def test_a_published_copy_holds_nothing_else_that_could_pass_as_signed(name: str, run: Path, tmp_path: Path) -> None:
    copy = published(run, tmp_path / "copy")
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_text("{}")
    found = verify_run(copy, published=True)
    assert found.wrong is None
    assert f"not checked, as these files are not part of a published copy: {name}" in found.remarks
    assert str(verify_run(copy, [TRUSTED], published=True).wrong).startswith(
        f"{name}: this file is not part of a published copy"
    )


# --- keys -----------------------------------------------------------------------------------------------------------


def test_a_key_made_to_go_by_the_id_of_another_is_told(run: Path) -> None:
    true, made = ONE_ID
    assert true.public().id == made.public().id
    assert true.public() != made.public()
    shutil.rmtree(run / "record")
    list_files(run)
    sign_run(run, made)
    assert verify_run(run, [true.public()]).wrong == (
        f"{KEYS}: two keys have the id {true.public().id}; the second was made to look like the first"
    )
    with pytest.raises(InputError, match="two required keys have the id coordinator"):
        verify_run(run, [key.public() for key in ONE_ID])
    (run / KEYS).write_bytes(b"")
    assert "the signature of coordinator is wrong" in str(verify_run(run, [true.public()]).wrong)


def test_keys_of_a_folder_have_different_ids(run: Path) -> None:
    (run / KEYS).write_text("".join(f"{key.public()}\n" for key in ONE_ID))
    with pytest.raises(DamagedError, match="two keys have the id coordinator"):
        signed_in(run, LEDGER_NOTE, [key.public() for key in ONE_ID])


def test_a_signature_said_twice_counts_once_and_both_are_checked(run: Path) -> None:
    note = Note.parse((run / LEDGER_NOTE).read_bytes())
    (run / LEDGER_NOTE).write_bytes(Note(note.text, (*note.signatures, note.signatures[0])).encode())
    assert verify_run(run, [TRUSTED]).trusted == [TRUSTED.id]
    wrong = Signature(note.signatures[0].name, note.signatures[0].key_hash, bytes(64))
    for signatures in ((wrong, *note.signatures), (*note.signatures, wrong)):
        (run / LEDGER_NOTE).write_bytes(Note(note.text, signatures).encode())
        assert "the signature of coordinator is wrong" in str(verify_run(run, [TRUSTED]).wrong)


def test_a_witness_is_not_an_operator_under_the_same_secret(run: Path) -> None:
    """A cosignature is over another text, so that neither can be put in the place of the other."""
    as_operator = WITNESS.public(LOG)
    assert str(verify_run(run, [as_operator]).wrong) == f"{LEDGER_NOTE}: not signed by {as_operator.id}"
    note = Note.parse((run / LEDGER_NOTE).read_bytes())
    seen = next(one for one in note.signatures if one.name == WITNESS.name)
    moved = Signature(WITNESS.name, as_operator.hash, seen.data[8:])
    (run / LEDGER_NOTE).write_bytes(Note(note.text, (moved,)).encode())
    assert "the signature of hospital is wrong" in str(verify_run(run, [as_operator]).wrong)


@pytest.mark.parametrize("name", ["a\x1b[31mb", "a\rb", "a+b", "a\u2028b"])
def test_a_name_that_would_write_over_the_screen_signs_nothing(name: str) -> None:
    with pytest.raises(DamagedError, match="not a signature line"):
        Note.parse(Note("text\n", (Signature(name, bytes(4), bytes(64)),)).encode())
    with pytest.raises(InputError, match="name of a key"):
        PublicKey(name, bytes(32))


# --- what is in the folder ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["readme", "private/more", "record/more", "model/more"])
@pytest.mark.parametrize("target", ["/etc", "/etc/hostname", "/dev/zero", "nowhere"])
def test_a_link_is_refused_wherever_it_is_and_points(name: str, target: str, run: Path) -> None:
    (run / name).symlink_to(target)
    assert str(verify_run(run).wrong).startswith(f"{name}: is a link; replace it by the file")
    with pytest.raises(DamagedError, match="is a link"):
        list_files(run)


@pytest.mark.parametrize("name", ["ledger.jsonl", "plan.yaml", "private", "record", "record/keys", "model"])
def test_a_part_of_a_run_is_no_link_to_one(name: str, run: Path) -> None:
    (run / name).rename(run.parent / "elsewhere")
    (run / name).symlink_to(run.parent / "elsewhere")
    assert f"{name}: is a link" in str(verify_run(run, [TRUSTED]).wrong)


def test_the_folder_itself_may_be_reached_by_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(run.name)
    assert verify_run(tmp_path / "latest", [TRUSTED]).wrong is None


@pytest.mark.parametrize("name", ["ledger.jsonl", "record/ledger.note", "private/pipe", "pipe"])
def test_a_pipe_neither_passes_nor_hangs(name: str, run: Path) -> None:
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    assert verify_run(run).wrong == f"{name}: is neither a file nor a folder; remove it, as it is not part of a run"


def test_what_a_crash_left_of_the_record_is_mentioned(run: Path) -> None:
    (run / "record/.keys.new").write_text("x")
    found = verify_run(run, [TRUSTED])
    assert found.wrong is None
    assert "files that are not part of the run: record/.keys.new" in found.remarks
    sign_run(run, COORDINATOR)
    assert not (run / "record/.keys.new").exists()


@pytest.mark.parametrize("name", ["record/more", "record/FILES.jsonl", "record/keys/x"])
def test_nothing_else_is_in_the_record(name: str, run: Path) -> None:
    if name == "record/keys/x":
        (run / KEYS).unlink()
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text("x")
    assert str(verify_run(run).wrong).startswith(f"{name}: is not a file of the record")


@pytest.mark.parametrize("name", [b"private/\xff", b"more\nrun: matches its record", b"a\x1b[2J"])
def test_a_name_that_cannot_be_printed_is_refused_in_letters(
    name: bytes, run: Path, fedrec: Callable[..., Any]
) -> None:
    Path(os.fsdecode(bytes(run) + b"/" + name)).write_text("x")
    said = fedrec("verify", run)
    assert said.code == 1
    assert "the name has unprintable characters" in said.out
    assert said.out.count("\n") < 10
    assert "\x1b" not in said.out


@pytest.mark.parametrize("name", ["report.json", "Report.JSON", "progress.jsonl"])
def test_a_file_that_fedrec_reads_is_listed_or_refused(name: str, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    fr.Popularity().fit(fr.load_data(DATA)).save(saved)
    (saved / name).write_text("{}")
    assert str(verify_run(saved).wrong).startswith(f"{name}: is not in the list of files")


@pytest.mark.parametrize(
    "path", ["../outside", "/etc/hostname", "private/../plan.yaml", "./plan.yaml", "private//placement.json",
             "PLAN.YAML", "plan.yaml/", "", ".", "record/keys", ".lock", "private/\udcff", "plan.yaml\0"],
)  # fmt: skip
def test_a_list_names_files_of_the_run_and_no_other_way_to_them(path: str, run: Path) -> None:
    (run.parent / "outside").write_text("x")
    entry = {"kind": "file", "path": path, "size": 1, "sha256": "0" * 64}
    relist(run, lambda lines: [*lines[:-1], entry, {**lines[-1], "files": lines[-1]["files"] + 1}])
    wrong = str(verify_run(run).wrong)
    assert wrong.endswith(": missing"), wrong
    assert wrong.isprintable()


@pytest.mark.parametrize("path", [5, None, ["plan.yaml"], True])
def test_a_name_in_a_list_is_text(path: object, run: Path) -> None:
    (run / str(path)).write_text("x")
    entry = {"kind": "file", "path": path, "size": 1, "sha256": "0" * 64}
    relist(run, lambda lines: [*lines[:-1], entry, {**lines[-1], "files": lines[-1]["files"] + 1}])
    assert "lines are missing" in str(verify_run(run).wrong)


def test_a_file_is_listed_once_and_an_entry_says_a_key_once(run: Path) -> None:
    relist(run, lambda lines: [*lines[:-1], lines[1], {**lines[-1], "files": lines[-1]["files"] + 1}])
    assert "lines are missing" in str(verify_run(run).wrong)
    line = rooted_line('{"kind":"start","plan":"a","plan":"b"}', Tree())
    with pytest.raises(DamagedError, match=r"line 1: .*'plan' appears more than once"):
        read_lines(line.encode() + b"\n", "ledger", rooted=True)


def test_names_are_those_of_all_files(tmp_path: Path) -> None:
    for name in ("b", "a/c/d", "a/b", ".lock"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    assert names_in(tmp_path) == [".lock", "a/b", "a/c/d", "b"]


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_says_what_is_trusted_and_ends_with_1_where_it_is_not(
    run: Path, fedrec: Callable[..., Any]
) -> None:
    said = fedrec("verify", run, "--trust", TRUSTED)
    assert said.code == 0
    assert f"trusted: {TRUSTED.id} signed the whole record" in said.out
    assert json.loads(fedrec("verify", run, "--trust", TRUSTED, "--json").out)["trusted"] == [TRUSTED.id]
    (run / LEDGER_NOTE).write_text(told(leaves_of(run)[:1], 0, COORDINATOR)["note"])
    said = fedrec("verify", run, "--trust", TRUSTED, "--json")
    assert said.code == 1
    answer = json.loads(said.out)
    assert (answer["fits"], answer["trusted"]) == (False, [])
    assert "signed the first 1 of 5 entries" in answer["wrong"]
