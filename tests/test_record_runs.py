"""The record of a run: whatever is changed is named, a crash leaves no trace in it, and what it cannot show is said."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fedrec as fr
import fedrec.record.durable as durable
import kill_driver
from fedrec.errors import DamagedError, InputError
from fedrec.federation.plan import Plan
from fedrec.privacy.chance import SeededChance
from fedrec.record.files import check_files, list_files, read_files
from fedrec.record.keys import SigningKey
from fedrec.record.ledger import Ledger, read_lines, rooted_line
from fedrec.record.merkle import Tree
from fedrec.record.notes import Checkpoint, Note
from fedrec.record.receipts import prove_receipt, read_receipts
from fedrec.record.signing import LEDGER_NOTE
from fedrec.runs.saved import open_run, save_run
from fedrec.runs.training import Placement, train_run
from fedrec.runs.verifying import sign_run, verify_run
from runs_in_test import DATA, MODELS, small_plan

pytestmark = pytest.mark.filterwarnings("ignore:ratings .or weights. from")  # values do not matter here

COORDINATOR = SigningKey("coordinator", bytes(range(32)))
NODE = SigningKey("node-0", bytes(range(1, 33)))


def private_plan() -> Plan:
    settings = {
        "data": {"source": DATA}, "model": MODELS["mf"], "seed": 5, "cohort": 0.8,
        "privacy": {"epsilon": 40.0, "delta": 1e-4, "clip": 1.0},
    }  # fmt: skip
    return Plan.make(settings)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished runs, one of them private; one saved model; one run that was stopped in the middle."""
    base = tmp_path_factory.mktemp("made")
    runs = {name: base / name for name in ("plain", "private", "saved", "stopped", "signed")}
    train_run(small_plan("mf"), runs["plain"], Placement(2))
    train_run(private_plan(), runs["private"], Placement(2), chance=SeededChance(9))
    fr.MF(rounds=2, embedding_size=8).fit(fr.load_data(DATA)).save(runs["saved"])
    killed_at(runs["stopped"], 40)
    shutil.copytree(runs["plain"], runs["signed"])
    sign_run(runs["signed"], COORDINATOR)
    sign_run(runs["signed"], NODE, witness=True)
    return runs


@pytest.fixture
def copied(made, tmp_path):
    return lambda name: Path(shutil.copytree(made[name], tmp_path / name))


def killed_at(folder, write, half=False, plan=None):
    def work():
        train_run(plan or small_plan("mf"), folder, Placement(2), resume=True, chance=SeededChance(9))

    return kill_driver.is_killed(work, write, half)


def names_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def rewritten(folder, change):
    """Rewrite the whole record after a change of the ledger's lines, roots and list of files included."""
    path = folder / "ledger.jsonl"
    lines, _ = read_lines(path.read_bytes(), "ledger", rooted=True)
    tree = Tree()
    texts = [rooted_line(json.dumps(line, separators=(",", ":")), tree) for line in change(lines)]
    path.write_text("".join(text + "\n" for text in texts))
    if (folder / "record" / "files.jsonl").exists():
        list_files(folder)


def where_of(name, data, place):
    """What must be named when a byte of a file is changed."""
    return f"{name}, line {data[:place].count(10) + 1}" if name.endswith(("ledger.jsonl", "files.jsonl")) else name


# --- one byte -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [{"name": "ease"}, MODELS["mf"]], ids=["ease", "mf"])
def test_a_saved_private_model_verifies_after_it_was_opened(model, tmp_path):
    train_run(Plan.make(private_plan().model_dump() | {"model": model}), tmp_path / "run")
    save_run(open_run(tmp_path / "run"), tmp_path / "saved")
    open_run(tmp_path / "saved")
    assert verify_run(tmp_path / "saved").wrong is None


@pytest.mark.parametrize("name", ["plain", "private", "saved", "signed"])
def test_one_byte_changed_in_any_file_is_named(name, made, copied):
    folder, draws = copied(name), random.Random(3)
    assert verify_run(folder).wrong is None
    tries = 0
    for file in names_in(folder):
        data = (folder / file).read_bytes()
        places = {0, 1, len(data) // 2, len(data) - 1, *(draws.randrange(len(data)) for _ in range(4))} if data else ()
        for place in places:
            bent = bytes([data[place] ^ draws.choice((1, 2, 16, 128, 255))])
            (folder / file).write_bytes(data[:place] + bent + data[place + 1 :])
            wrong = verify_run(folder).wrong
            assert wrong is not None, (file, place)
            assert wrong.startswith(where_of(file, data, place)), (file, place, wrong)
            tries += 1
        (folder / file).write_bytes(data)
    assert verify_run(folder).wrong is None
    assert tries > 50


def test_the_lock_must_stay_empty(copied):
    folder = copied("plain")
    (folder / ".lock").write_bytes(b"x")
    assert verify_run(folder).wrong == ".lock: must be an empty file"


@pytest.mark.parametrize("name", ["plain", "private", "signed"])
def test_any_file_taken_away_or_cut_is_named(name, copied):
    folder = copied(name)
    for file in names_in(folder):
        data = (folder / file).read_bytes()
        if file == ".lock" or file.endswith(".note"):
            continue  # a signature taken away is a run without it: see `test_a_signature_that_must_be_there`
        (folder / file).unlink()
        wrong = verify_run(folder).wrong
        assert wrong is not None, file
        assert file in wrong, (file, wrong)
        (folder / file).write_bytes(data[:-5])
        wrong = verify_run(folder).wrong
        assert wrong is not None, file
        assert wrong.startswith(file), (file, wrong)
        (folder / file).write_bytes(data)
    assert verify_run(folder).wrong is None


def test_a_file_put_into_a_run_is_named(copied):
    folder = copied("plain")
    (folder / "recommendations.csv").write_text("what a person keeps beside a run")
    verdict = verify_run(folder)
    assert verdict.wrong is None
    assert "files that are not part of the run: recommendations.csv" in verdict.remarks
    (folder / "checkpoint" / "noised-000000.safetensors").write_bytes(b"")
    assert verify_run(folder).wrong == (
        "checkpoint/noised-000000.safetensors: is not in the list of files; it was added after the run was closed"
    )


def test_of_a_run_that_was_stopped_all_that_it_goes_on_from_is_covered(made, copied):
    folder = copied("stopped")
    verdict = verify_run(folder)
    assert (verdict.wrong, verdict.finished) == (None, False)
    assert verdict.rounds >= 2
    assert any("has not ended" in remark for remark in verdict.remarks)
    newest = f"checkpoint/round-{verdict.rounds - 1:06d}.safetensors"
    for file in ("ledger.jsonl", newest, "private/node-0/receipts.jsonl"):
        data = (folder / file).read_bytes()
        for place in (0, len(data) // 3, len(data) // 2, len(data) - 1):
            (folder / file).write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            wrong = verify_run(folder).wrong
            assert wrong is not None, (file, place)
            assert wrong.startswith(where_of(file, data, place)), wrong
        (folder / file).write_bytes(data)
    state = durable.load_arrays(folder / newest)
    for name in [name for name in state if name.startswith("server.")]:
        state[name] = state[name] + 1
    plan = (folder / "plan.yaml").read_text()
    (folder / "plan.yaml").write_text(plan.replace("seed: 5", "seed: 6"))
    assert verify_run(folder).wrong == "plan.yaml: changed; the ledger was started with another plan"
    (folder / "plan.yaml").write_text("model: [")
    assert verify_run(folder).wrong.startswith("plan.yaml: ")


def test_a_run_does_not_go_on_from_a_ledger_that_was_changed(copied):
    folder = copied("stopped")
    data = (folder / "ledger.jsonl").read_bytes()
    (folder / "ledger.jsonl").write_bytes(data.replace(b'"cohort":1', b'"cohort":2', 1))
    with pytest.raises(DamagedError, match=r"ledger.jsonl, line 2: the 'round' entry does not match its root"):
        train_run(small_plan("mf"), folder, Placement(2), resume=True)


# --- crashes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [17, pytest.param(5, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("kind", ["plain", "private"])
def test_killed_at_any_write_the_record_is_that_of_a_run_that_never_was(kind, stride, made, tmp_path):
    plan = private_plan() if kind == "private" else small_plan("mf")
    write, seen = 2 if kind == "plain" else 4, set()
    while killed_at(tmp_path / "run", write, write % 2 == 0, plan):
        if (tmp_path / "run" / "plan.yaml").exists():
            wrong = verify_run(tmp_path / "run").wrong
            seen.add(wrong)
            assert wrong is None or "is incomplete" in wrong or "the run did not end" in wrong, (write, wrong)
        train_run(plan, tmp_path / "run", Placement(2), resume=True, chance=SeededChance(9))
        assert verify_run(tmp_path / "run").wrong is None
        assert (tmp_path / "run" / "ledger.jsonl").read_bytes() == (made[kind] / "ledger.jsonl").read_bytes()
        mine, whole = (read_files(folder)[0] for folder in (tmp_path / "run", made[kind]))
        assert list(mine) == list(whole)
        unlike = [name for name in mine if mine[name]["sha256"] != whole[name]["sha256"]]
        assert set(unlike) <= {"report.json", "progress.jsonl"}, "these two have times"
        shutil.rmtree(tmp_path / "run")
        write += stride
    assert write > 60
    assert None in seen


def test_resuming_a_finished_run_closes_it_again(copied):
    folder = copied("signed")
    before = (folder / "ledger.jsonl").read_bytes()
    train_run(small_plan("mf"), folder, Placement(2), resume=True)
    verdict = verify_run(folder)
    assert verdict.wrong is None
    assert (folder / "ledger.jsonl").read_bytes() == before
    assert [line.split(",")[0] for line in verdict.signatures] == ["ledger.jsonl"] * 2, "the list of files is new"


def test_using_a_run_changes_nothing_that_is_recorded(copied):
    folder = copied("private")
    before = {name: (folder / name).read_bytes() for name in names_in(folder)}
    model = fr.load_model(folder)
    model.recommend([1, 2], n=3)
    assert verify_run(folder).wrong is None
    assert {name: (folder / name).read_bytes() for name in names_in(folder)} == before


# --- epsilon, chain and plan ----------------------------------------------------------------------------------------


def test_epsilon_is_recomputed(made):
    verdict = verify_run(made["private"])
    assert verdict.epsilons.cohort == pytest.approx(40.0, rel=1e-5)
    assert verdict.epsilons.server == float("inf")


def _with(kind, place, **fields):
    def change(lines):
        chosen = [line for line in lines if line["kind"] == kind][place]
        chosen.update(fields)
        return lines

    return change


def _charge(lines):
    lines[2]["charge"]["noise_multiplier"] *= 2
    return lines


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_with("round", 2, epsilon_cohort=1.0), "ledger.jsonl, line 4: epsilon_cohort is 1.0, but"),
        (_with("round", 0, epsilon_cohort=None), "ledger.jsonl, line 2: epsilon_cohort is None, but"),
        (_with("round", 1, charge=None), "ledger.jsonl, line 3: a round with privacy has no charge"),
        (_charge, "ledger.jsonl, line 3: the privacy charge is not that of the plan"),
        (_with("round", 1, round=7), "ledger.jsonl, line 3: the round is 7, but must be 1"),
        (_with("round", 5, model="0" * 64), "ledger.jsonl, line 7: the model of this round is not the model in model/"),
        (
            _with("round", 5, checkpoint="0" * 64),
            "model/shared.safetensors: ledger.jsonl, line 7 committed another checkpoint",
        ),
        (_with("round", 2, sums=["00"]), "ledger.jsonl, line 4: the line does not have the sum of the receipt in"),
        (_with("round", 2, sums="00"), "ledger.jsonl, line 4: sums is missing or wrong"),
        (_with("start", 0, plan="0" * 64), "plan.yaml: changed"),
        (_with("end", 0, kept=2), "ledger.jsonl, line 8: round 2 is not the round that the plan keeps"),
        (_with("end", 0, files={}), "ledger.jsonl, line 8: the digests of plan.yaml"),
        (lambda lines: [*lines, lines[-1]], "ledger.jsonl, line 8: the end must be the last line"),
        (lambda lines: lines[1:], "ledger.jsonl, line 1: a ledger must have one start"),
        (lambda lines: lines[:3] + lines[4:], "ledger.jsonl, line 4: the round is 3, but must be 2"),
    ],
)
def test_a_record_rewritten_with_all_its_hashes_is_still_held_against_plan_and_files(change, message, copied):
    folder = copied("private")
    rewritten(folder, change)
    assert verify_run(folder).wrong.startswith(message)


def test_a_report_that_says_another_epsilon_is_named(copied):
    folder = copied("private")
    report = json.loads((folder / "report.json").read_text())
    report["privacy"]["epsilons"]["cohort"] = 1.0
    (folder / "report.json").write_text(json.dumps(report))
    list_files(folder)
    assert verify_run(folder).wrong == "report.json: the epsilons are not the total of the charges in the ledger"


# --- what signatures, checkpoints and receipts add ------------------------------------------------------------------


def test_entries_taken_from_the_end_are_told_by_the_list_of_files(copied):
    folder = copied("plain")
    data = (folder / "ledger.jsonl").read_bytes()
    (folder / "ledger.jsonl").write_bytes(b"".join(data.splitlines(keepends=True)[:-2]))
    assert verify_run(folder).wrong.startswith("ledger.jsonl: was changed")


def test_a_record_rewritten_as_a_whole_is_told_only_by_what_others_hold(copied, made):
    """Somebody with all of an unsigned folder in hand can write another history; nothing in the folder can tell."""
    folder = copied("plain")
    change = _with("round", 1, cohort=3)
    rewritten(folder, change)
    verdict = verify_run(folder)
    assert verdict.wrong is None
    assert any(remark.startswith("not signed") for remark in verdict.remarks)
    kept = folder.parent / "kept.note"
    kept.write_bytes((made["signed"] / LEDGER_NOTE).read_bytes())
    found = verify_run(folder, checkpoints=[kept])
    assert found.wrong.startswith("ledger.jsonl: the first 11 entries differ from those in")
    assert found.wrong.endswith("they were changed")


def test_entries_taken_from_the_end_of_a_run_are_told_by_a_checkpoint_and_by_a_receipt(copied, made):
    folder = copied("plain")
    receipts = folder.parent / "receipts.jsonl"
    shutil.copy(folder / "private" / "node-1" / "receipts.jsonl", receipts)
    kept = made["signed"] / LEDGER_NOTE
    rewritten(folder, lambda lines: [line for line in lines if line.get("round", 0) < 4 and line["kind"] != "end"])
    shutil.rmtree(folder / "private")
    shutil.rmtree(folder / "record")
    shutil.rmtree(folder / "model")
    shutil.rmtree(folder / "checkpoint")
    assert verify_run(folder, published=True).wrong.startswith("checkpoint/round-000003.safetensors: missing")
    by_note = verify_run(folder, [COORDINATOR.public()], [kept], published=True).wrong
    assert by_note.startswith("record/ledger.note: missing, and coordinator must have signed it")
    by_note = verify_run(folder, (), [kept], published=True).wrong
    assert by_note.startswith("ledger.jsonl, line 8: missing; ")
    assert "the last 4 entries were removed" in by_note


def test_a_hidden_sum_is_told_by_its_receipt(copied):
    folder = copied("plain")
    receipts = folder.parent / "receipts.jsonl"
    shutil.move(folder / "private" / "node-1" / "receipts.jsonl", receipts)
    rewritten(folder, lambda lines: lines)
    assert verify_run(folder).wrong is None
    assert verify_run(folder, receipts=[receipts]).receipts == 12
    rewritten(folder, lambda lines: [{**line, "sums": line["sums"][:1]} if "sums" in line else line for line in lines])
    assert verify_run(folder).wrong is None, "nobody in the folder knows of the sum"
    wrong = verify_run(folder, receipts=[receipts]).wrong
    assert wrong == f"ledger.jsonl, line 2: the line does not have the sum of the receipt in {receipts}, line 1"


def test_a_receipt_is_proved_from_a_checkpoint_alone(made):
    ledger = (made["signed"] / "ledger.jsonl").read_bytes()
    checkpoint = Checkpoint.parse(Note.parse((made["signed"] / LEDGER_NOTE).read_bytes()).text)
    mine, others = (
        read_receipts(made["signed"] / "private" / node / "receipts.jsonl", node) for node in ("node-0", "node-1")
    )
    for receipt in (*mine, *others):
        proof = prove_receipt(ledger, receipt)
        proof.check(receipt, checkpoint)
        assert len(proof.proof) <= 4
        with pytest.raises(DamagedError, match="without the sum of this receipt"):
            proof.check(type(receipt)(**{**vars(receipt), "sum": "00" * 32}), checkpoint)
        with pytest.raises(DamagedError, match="does not show"):
            proof.check(receipt, Checkpoint(checkpoint.origin, checkpoint.size, bytes(32)))
    with pytest.raises(DamagedError, match="is not of round 1"):
        prove_receipt(ledger, mine[0]).check(mine[1], checkpoint)
    commitments = {receipt.commitment for receipt in (*mine, *others)}
    assert len(commitments) == 12
    assert {receipt.sum for receipt in mine}.isdisjoint(text for text in ledger.decode().split('"'))


def test_a_node_that_was_shown_another_model_has_a_receipt_of_it(copied):
    folder = copied("plain")
    path = folder / "private" / "node-0" / "receipts.jsonl"
    lines, _ = read_lines(path.read_bytes(), "receipts", rooted=True)
    path.unlink()
    again = Ledger(path, rooted=True)
    for line in lines:
        shown = {"model": "0" * 64} if line["round"] == 3 else {}
        again.append(**{**line, **shown})
    list_files(folder)
    assert verify_run(folder).wrong == (
        "private/node-0/receipts.jsonl, line 4: in round 3 the node received another model than the ledger "
        "recorded before"
    )


# --- signatures -----------------------------------------------------------------------------------------------------


def test_a_signature_that_must_be_there(made):
    verdict = verify_run(made["signed"], [COORDINATOR.public(), NODE.public(4)])
    assert verdict.wrong is None
    assert [line.split(":")[0] for line in verdict.signatures] == [
        "ledger.jsonl, first 11", "ledger.jsonl, first 11", "record/files.jsonl",
    ]  # fmt: skip
    stranger = SigningKey("coordinator", bytes(32)).public()
    assert verify_run(made["signed"], [stranger]).wrong.startswith("record/ledger.note: not signed by coordinator+")
    assert verify_run(made["plain"], [stranger]).wrong.startswith("record/ledger.note: missing, and coordinator must")


def test_a_rewritten_record_does_not_fit_its_signature_and_no_other_key_helps(copied):
    folder = copied("signed")
    rewritten(folder, _with("round", 1, cohort=3))
    assert verify_run(folder).wrong.startswith(
        "ledger.jsonl: the first 11 entries differ from those in record/ledger.no"
    )
    shutil.rmtree(folder / "record")
    list_files(folder)
    sign_run(folder, SigningKey("coordinator", bytes(32)))
    assert verify_run(folder).wrong is None, "with no key that one knows, the folder vouches for itself"
    assert "not signed by coordinator" in verify_run(folder, [COORDINATOR.public()]).wrong


def test_only_what_verifies_is_signed_and_a_witness_signs_after_the_coordinator(copied):
    folder = copied("plain")
    with pytest.raises(InputError, match="a witness signs after the coordinator"):
        sign_run(folder, NODE, witness=True)
    (folder / "report.json").write_bytes(b"{}")
    with pytest.raises(DamagedError, match=r"cannot be signed, as the run does not verify: report\.json: was changed"):
        sign_run(folder, COORDINATOR)
    assert not (folder / "record" / "ledger.note").exists()


def test_signing_twice_changes_nothing(copied):
    folder = copied("signed")
    before = {name: (folder / name).read_bytes() for name in names_in(folder)}
    sign_run(folder, COORDINATOR)
    keys = (folder / "record" / "keys").read_bytes()
    assert keys == before["record/keys"]
    assert verify_run(folder).wrong is None
    assert (folder / "record" / "files.note").read_bytes() == before["record/files.note"]


def test_no_secret_is_in_what_is_published(made):
    secrets = [COORDINATOR.secret, NODE.secret]
    for node in ("node-0", "node-1"):
        secrets.append(bytes.fromhex((made["private"] / "private" / node / "secret").read_text()))
        receipts = read_receipts(made["private"] / "private" / node / "receipts.jsonl", node)
        secrets += [bytes.fromhex(text) for receipt in receipts for text in (receipt.salt, receipt.sum)]
    for folder in (made["private"], made["signed"]):
        for name in names_in(folder):
            data = (folder / name).read_bytes()
            if not name.startswith("private/"):
                assert not any(secret in data or secret.hex().encode() in data for secret in secrets), name


# --- published copies and the command line --------------------------------------------------------------------------


def test_what_is_published_verifies_by_itself(made, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("plan.yaml", "ledger.jsonl", "record/ledger.note", "record/keys", "model/catalog.jsonl",
                 "model/model.json", "model/shared.safetensors"):  # fmt: skip
        (copy / name).parent.mkdir(exist_ok=True)
        shutil.copy(made["signed"] / name, copy / name)
    assert verify_run(copy, [COORDINATOR.public()], published=True).wrong is None
    assert verify_run(copy).wrong.startswith("record/files.jsonl: missing")
    data = (copy / "model" / "shared.safetensors").read_bytes()
    (copy / "model" / "shared.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert verify_run(copy, published=True).wrong.startswith("model/shared.safetensors: was changed")


def test_the_commands(copied, tmp_path, fedrec):
    folder = copied("plain")
    signed = fedrec("sign", folder, "--key", tmp_path / "me.key", "--new-key", "--json")
    assert signed.code == 0, signed.err
    key = json.loads(signed.out)["public_key"]
    found = fedrec("verify", folder, "--trust", key, "--json")
    assert found.code == 0, found.err
    assert json.loads(found.out)["fits"] is True
    (folder / "progress.jsonl").write_text("{}\n")
    found = fedrec("verify", folder)
    assert found.code == 1
    assert "first error: progress.jsonl: was changed" in found.out
    assert fedrec("verify", tmp_path / "nothing").code == 2
    assert fedrec("verify", folder, "--trust", "nonsense").code == 2
    assert fedrec("sign", folder, "--key", tmp_path / "me.key").code == 2


def test_a_run_is_trained_and_verified_without_cryptography(tmp_path):
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from pathlib import Path\n"
        "from fedrec.runs.training import train_run\n"
        "from fedrec.runs.verifying import verify_run\n"
        "from runs_in_test import small_plan\n"
        f"folder = Path({str(tmp_path / 'run')!r})\n"
        "train_run(small_plan('popularity'), folder)\n"
        "print(verify_run(folder).wrong)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.stdout.strip() == "None", done.stderr


def test_the_list_of_files_must_name_each_file_once_and_end(copied):
    folder = copied("plain")
    files, leaves = read_files(folder)
    assert len(leaves) == len(files) + 2
    assert check_files(folder, files) == []
    lines = (folder / "record" / "files.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "record" / "files.jsonl").write_bytes(b"".join(lines[:-1]))
    assert verify_run(folder).wrong.startswith(f"record/files.jsonl, line {len(lines)}: lines are missing")
