"""Commands about the record of a run: verify it, sign it."""

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
        typer.Option("--trust", help="Public key (name+hash+base64) that must have signed the ledger and all files."),
    ] = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option("--checkpoint", help="A signed checkpoint of this run that you saved earlier.")
    ] = None,
    receipts: Annotated[
        list[Path] | None, typer.Option("--receipts", help="File of receipts that a node keeps outside the run.")
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="The folder holds only the plan, the ledger, model/ and signatures.")
    ] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Recompute hashes, signatures, epsilon and the chain of models. Exit code 1 if one of them is wrong."""
    from fedrec.record.keys import PublicKey
    from fedrec.runs.verifying import verify_run

    keys = [PublicKey.parse(text) for text in trust or ()]
    verdict = verify_run(run, keys, checkpoint or (), receipts or (), published)
    rounds = f"{verdict.rounds} round{'s' if verdict.rounds != 1 else ''}"
    words = [
        f"{run}: {'does NOT match its ledger' if verdict.wrong else 'matches its ledger'}",
        *([f"first error: {verdict.wrong}"] if verdict.wrong else []),
        f"ledger: {verdict.entries} entries, {rounds}, root {verdict.root}",
        *([f"files: {verdict.files}"] if verdict.files else []),
        *([f"receipts of nodes: {verdict.receipts}"] if verdict.receipts else []),
        *([f"{_cost(verdict.epsilons)}, recomputed from the charges"] if verdict.epsilons else []),
        *(f"signed: {line}" for line in verdict.signatures),
        *(f"trusted: {who} signed the ledger and all files" for who in verdict.trusted),
        *(f"{remark[0].upper()}{remark[1:]}." for remark in verdict.remarks),
    ]
    Output(json_, quiet).answer({"run": str(run), **verdict.to_json()}, *words)
    if verdict.wrong:
        raise typer.Exit(1)


def _cost(epsilons: Epsilons) -> str:
    return f"epsilon_cohort {epsilons.cohort:.4g}, epsilon_release {epsilons.release:.4g} at delta {epsilons.delta:g}"


def sign(
    run: _Run,
    key: Annotated[Path, typer.Option("--key", help="File of the signing key.")],
    name: Annotated[str | None, typer.Option("--name", help="Name of the key's owner. Default: the file name.")] = None,
    new_key: Annotated[bool, typer.Option("--new-key", help="Create the key file first.")] = False,
    witness: Annotated[
        bool,
        typer.Option(
            "--witness", help="Sign as a node that witnessed the ledger; the coordinator must have signed before."
        ),
    ] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Verify a run, sign its ledger and files, and print the public key that others need to check the signature."""
    from fedrec.record.keys import SigningKey
    from fedrec.runs.verifying import sign_run

    owner = name or key.stem
    signer = SigningKey.make(owner, key) if new_key else SigningKey.load(owner, key)
    public = str(sign_run(run, signer, witness))
    answer = {"run": str(run), "public_key": public, "witness": witness}
    Output(json_, quiet).answer(
        answer, f"{run}: signed by {owner}. Others need this public key to check the signature:", public
    )
