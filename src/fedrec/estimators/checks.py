"""Checks from Python: compare several models, verify a run against its ledger, attack a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from fedrec.audit.running import audit
from fedrec.bars import bar
from fedrec.data.arguments import check_arguments
from fedrec.data.cleaning import Cleaning
from fedrec.data.digests import digest_of
from fedrec.data.listing import listed, whole_number
from fedrec.data.reading.frames import as_interactions
from fedrec.data.splits import Split
from fedrec.engines.local import LocalEngine
from fedrec.errors import InputError
from fedrec.estimators.estimator import Estimator, Table, estimator, warn_of_values
from fedrec.evaluation.metrics import default_metrics, parse_metrics
from fedrec.federation.plan import Plan
from fedrec.federation.run import read_plan
from fedrec.record.keys import PublicKey
from fedrec.runs.comparing import compare_on
from fedrec.runs.verifying import Verdict, verify_run

__all__ = ["audit_run", "compare", "verify"]


def compare(
    data: Table | Split,
    models: str | Estimator | type[Estimator] | Iterable[str | Estimator | type[Estimator]],
    metrics: str | Sequence[str] | None = None,
    *,
    seeds: int = 1,
    split: str = "leave-last-out",
    protocol: str = "full",
    told: Callable[[str, int], None] = lambda *_: None,
    progress: bool = True,
) -> Any:
    """Train several models on the same split and measure them on test.

    Args:
        data: a `Split`, or interactions that are split as `split` says.
        models: names, estimator classes, or estimators with their own hyperparameters; the estimators are not fitted.
        metrics, protocol: the metrics, and how held-out items are ranked. Default: metrics of lists, or `rmse` and
            `mae` if all models predict ratings.
        seeds: number of trainings of each model, with the seeds `seed`, `seed + 1`, …
        split: how to split the data, see `fedrec.data.splits.SplitMethod`.
        told: function that is called with model and seed before each training.
        progress: show a bar on a terminal or in a notebook, if it takes longer than a second.

    Returns:
        A row per model: `model`, the mean of each metric and with several seeds its sample standard deviation
        `METRIC_sd`, `rounds`, `seconds`, of them `seconds_train` and `seconds_evaluate`, and the bytes `bytes_up` and
        `bytes_down` of a node. A pandas table if the data is pandas.

    Raises:
        InputError: if there is no model, or the split has no test part.

    Example:
        >>> import fedrec as fr
        >>> split = fr.leave_last_out(fr.synthetic(users=300, items=120, interactions_per_user=12))
        >>> table = fr.compare(split, ["popularity", fr.EASE(reg=50)], ["hr@10"])
        >>> table.columns[:4], table["model"].to_list()
        (['model', 'hr@10', 'rounds', 'seconds'], ['popularity', 'ease'])
    """
    check_arguments(compare, locals())
    whole = data.data if isinstance(data, Split) else as_interactions(data)
    method = "none" if isinstance(data, Split) else split
    plans = []
    compared = list(_plans(models))
    if metrics is None:
        metrics = default_metrics(all(plan.build_model().traits.reads_ratings for plan in compared))
    names = [str(metric) for metric in parse_metrics(metrics)]
    for plan in compared:
        settings = plan.model_dump()
        settings["evaluation"] |= {"protocol": protocol, "metrics": names}
        plans.append(Plan.make(settings | {"split": method}, "compare"))
    seeds = whole_number(seeds, "seeds")
    warn_of_values(plans, whole)

    def nodes(plan: Plan) -> LocalEngine:
        return LocalEngine.of_split(data, plan) if isinstance(data, Split) else LocalEngine.build(whole, plan)

    with bar("compare", progress):
        measured = compare_on(plans, seeds, whole, digest_of(whole), nodes, told)
    rows = []
    for row in measured:
        figures: dict[str, Any] = {"model": row["model"]}
        for name in names:
            figures[name] = row["metrics"][name]
            if seeds > 1:
                figures[f"{name}_sd"] = row["sd"][name]
        moved = row["bytes"]["plain_per_node"]
        figures |= {"rounds": row["rounds"], "seconds": row["seconds"]}
        figures |= {f"seconds_{part}": row["seconds_of"][part] for part in ("train", "evaluate")}
        rows.append(figures | {"bytes_up": moved["up"], "bytes_down": moved["down"]})
    table = pl.DataFrame(rows)
    return table.to_pandas() if whole.pandas else table


def verify(
    run: str | Path,
    trust: str | Sequence[str] = (),
    *,
    checkpoints: Sequence[str | Path] = (),
    receipts: Sequence[str | Path] = (),
    published: bool = False,
) -> Verdict:
    """Check a run against its ledger: hashes, signatures, epsilon, and the chain of models.

    Args:
        run: folder of the run.
        trust: public keys, `name+hash+base64`, that must have signed the ledger and all files.
        checkpoints: earlier signed checkpoints that you kept.
        receipts: receipts that nodes kept outside of the run.
        published: the folder has only plan, ledger, `model/` and signatures.

    Returns:
        The verdict; its `wrong` is the first error, or `None` if the run matches its ledger.

    Example:
        >>> import tempfile
        >>> import fedrec as fr
        >>> folder = Path(tempfile.mkdtemp()) / "run"
        >>> fr.EASE().fit(fr.synthetic(users=100, items=90, interactions_per_user=10)).save(folder)
        >>> _ = (folder / "model" / "catalog.jsonl").write_text("")
        >>> fr.verify(folder).wrong is None
        False
    """
    check_arguments(verify, locals())
    keys = [PublicKey.parse(text) for text in listed(trust, "trust")]
    kept, outside = ([Path(path) for path in listed(paths, "files")] for paths in (checkpoints, receipts))
    return verify_run(Path(run), keys, kept, outside, published)


def audit_run(
    target: str | Path | Plan,
    attacks: str | Sequence[str] | None = None,
    *,
    malicious: float = 0.01,
    data: str | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> pl.DataFrame:
    """Train a plan again in memory and attack everything that it releases.

    Args:
        target: folder of a run, a plan in YAML, or a plan.
        attacks: names of attacks, see `fedrec.audit.running.ATTACKS`; `poisoning` means all poisoning attacks.
        malicious: number of malicious clients divided by the number of users, for poisoning attacks.
        data: the plan's source, given again; required if the source is a database server.
        told: function that is called with the name of each attack before the attack starts.

    Returns:
        A row per attack: `attack`, `against`, `measure`, `value`, `limit`, `verdict` and `says`; see
        `fedrec.audit.findings.Finding`.

    Raises:
        InputError: if an attack is unknown, or the plan's data cannot be loaded again.
    """
    check_arguments(audit_run, locals())
    folder = Path()
    if isinstance(target, Plan):
        plan = target
    else:
        place = Path(target)
        plan, folder = (Plan.read(place), folder) if place.is_file() else (read_plan(place), place)
    if plan.data.source == "memory":
        raise InputError("audit: the plan's data existed only in memory; save the model and audit its folder")
    chosen = None if attacks is None else list(listed(attacks, "attacks"))
    findings = audit(plan, chosen, told=told, folder=folder, malicious=malicious, named=data)
    columns = {
        "attack": pl.String,
        "against": pl.String,
        "measure": pl.String,
        "value": pl.Float64,
        "limit": pl.Float64,
        "verdict": pl.String,
        "says": pl.String,
    }
    return pl.DataFrame([finding.to_json() for finding in findings], schema=columns)


def _plans(models: Any) -> list[Plan]:
    if isinstance(models, str):
        models = [name.strip() for name in models.split(",") if name.strip()]
    elif isinstance(models, Estimator | type):
        models = [models]
    plans = []
    for model in listed(models, "models"):
        if isinstance(model, Estimator):
            if model.plan.data.cleaning not in (Cleaning(), Cleaning(rating_at_least="none")):
                raise InputError(
                    "compare: all models are measured on the same data, so an estimator must not clean its own. Pass "
                    "fr.clean(data, …)[0] as data, and remove data.cleaning from the estimators' plans"
                )
            plans.append(
                Plan.make(
                    model.plan.model_dump()
                    | {"n_max": None, "catalog": None, "features": None, "data": _memory(model.plan)}
                )
            )
        elif isinstance(model, type) and issubclass(model, Estimator):
            plans.append(model().plan)
        elif isinstance(model, str):
            plans.append(estimator(model)().plan)
        else:
            raise InputError(
                f"models: {model!r} is not a model; give a name such as 'ease', or an estimator such as fr.EASE()"
            )
    if not plans:
        raise InputError("models is empty; name at least one model")
    return plans


def _memory(plan: Plan) -> dict[str, Any]:
    """Where the data is; what a plan says of it without changing it stays said."""
    return {"source": "memory", "cleaning": {"rating_at_least": plan.data.cleaning.rating_at_least}}
