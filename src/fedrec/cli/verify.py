"""Commands that verify and sign the record of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrec.cli.options import Json, Quiet
from fedrec.cli.output import Output

if TYPE_CHECKING:
    from fedrec.privacy.accounting import Epsilons

__all__ = ["sign", "verify"]

_Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]


def verify(
    run: _Run,
    trust: Annotated[
        list[str] | None,
        typer.Option(
            "--trust", help="Public key (name+hash+base64) that must have signed the ledger and the list of files."
        ),
    ] = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option("--checkpoint", help="Earlier signed checkpoint that you kept.")
    ] = None,
    receipts: Annotated[
        list[Path] | None, typer.Option("--receipts", help="Receipts that a node kept outside of the run.")
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Accept a folder with plan, ledger, model/ and signatures only.")
    ] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Recompute hashes, signatures, epsilon and the chain of models; exit code 1 if one of them is wrong."""
    from fedrec.record.keys import PublicKey
    from fedrec.runs.verifying import verify_run

    keys = [PublicKey.parse(text) for text in trust or ()]
    checked = verify_run(run, keys, checkpoint or (), receipts or (), published)
    rounds = f"{checked.rounds} round{'s' if checked.rounds != 1 else ''}"
    words = [
        f"{run}: {'does not match its record' if checked.wrong else 'matches its record'}",
        *([f"first error: {checked.wrong}"] if checked.wrong else []),
        f"ledger: {checked.entries} entries, {rounds}, root {checked.root}",
        *([f"files: {checked.files}"] if checked.files else []),
        *([f"receipts of nodes: {checked.receipts}"] if checked.receipts else []),
        *([f"{_cost(checked.epsilons)}, recomputed from the charges"] if checked.epsilons else []),
        *(f"signed: {line}" for line in checked.signatures),
        *(f"trusted: {who} signed the whole record" for who in checked.trusted),
        *(f"{remark[0].upper()}{remark[1:]}." for remark in checked.remarks),
    ]
    Output(json_, quiet).answer({"run": str(run), **checked.to_json()}, *words)
    if checked.wrong:
        raise typer.Exit(1)


def _cost(cost: Epsilons) -> str:
    return f"epsilon_cohort {cost.cohort:.4g}, epsilon_release {cost.release:.4g} at delta {cost.delta:g}"


def sign(
    run: _Run,
    key: Annotated[Path, typer.Option("--key", help="File with the signing key.")],
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the key's owner; name of the file by default.")
    ] = None,
    new_key: Annotated[bool, typer.Option("--new-key", help="Make a new key in the file of --key first.")] = False,
    witness: Annotated[
        bool,
        typer.Option("--witness", help="Sign as a witness, a node that has seen the ledger, after the coordinator."),
    ] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Verify and sign the record of a run, and print the public key with which others check the signature."""
    from fedrec.record.keys import SigningKey
    from fedrec.runs.verifying import sign_run

    owner = name or key.stem
    signer = SigningKey.make(owner, key) if new_key else SigningKey.load(owner, key)
    public = str(sign_run(run, signer, witness))
    answer = {"run": str(run), "public_key": public, "witness": witness}
    Output(json_, quiet).answer(answer, f"{owner} signed {run}. To check the signature, use this public key:", public)
