"""Trainings told to an experiment tracker: TensorBoard, MLflow or Weights & Biases.

What is told is what the ledger of the run says, line by line, and at the end the metrics of its report; so a tracker
learns no more of a training than its record tells everybody who reads it. Libraries are imported when they are named.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from fedrec.errors import InputError

__all__ = ["Tracked", "Tracker", "rounds_of", "tracker"]

Values = dict[str, float]


def rounds_of(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rounds in the ledger of a run folder, and lines of its `progress.jsonl`."""
    from fedrec.record.ledger import Ledger

    told = (folder / "progress.jsonl").read_text(encoding="utf-8").splitlines()
    return Ledger(folder / "ledger.jsonl", rooted=True).of_kind("round"), [json.loads(line) for line in told]


class Tracker(Protocol):
    """Where a training is told."""

    def begin(self, name: str, settings: Mapping[str, str]) -> None:
        """A training begins, or goes on."""

    def log(self, step: int, values: Values) -> None:
        """Something was measured in a round, counted from 1."""

    def end(self, values: Values) -> None:
        """The training is over; what it ended with."""


class Tracked:
    """A run folder whose ledger is told to a tracker as it grows.

    A tracker that fails is left, with a warning: the training goes on.

    Args:
        told: where.
        folder: of the run.
        warn: told once why the rest is not tracked.
    """

    def __init__(self, told: Tracker, folder: Path, warn: Callable[[str], None]) -> None:
        self._told, self._folder, self._warn = told, folder, warn
        self._read, self._begun, self._left = 0, False, False

    def follow(self) -> None:
        """Tell the rounds that are in the ledger and were not told yet."""
        self._unless_left(self._follow)

    def end(self, report: Mapping[str, Any]) -> None:
        """Tell the rest, and the metrics of a finished run with their standard errors."""
        self._unless_left(self._follow)
        values = {
            f"{part}/{name}{word}": value
            for key, word in (("metrics", ""), ("standard_error", " s.e."))
            for part, metrics in report[key].items()
            for name, value in metrics.items()
            if value is not None
        }
        self._unless_left(lambda: self._told.end(values))

    def _unless_left(self, tell: Callable[[], None]) -> None:
        if self._left:
            return
        try:
            tell()
        except Exception as error:  # whatever the library or its server raises
            self._left = True
            said = str(error).partition("\n")[0]
            self._warn(f"the tracker failed ({type(error).__name__}: {said}); the training goes on and is not tracked")

    def _follow(self) -> None:
        path = self._folder / "ledger.jsonl"
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                self._tell(json.loads(line))

    def _tell(self, line: dict[str, Any]) -> None:
        if not self._begun:
            self._begun = True
            self._told.begin(self._folder.name, self._settings())
        if line["kind"] == "round":
            kept = {key: value for key, value in line.items() if key != "round"}
            self._told.log(line["round"] + 1, dict(_numbers(kept)))
        elif line["kind"] == "validation":
            self._told.log(line["round"] + 1, {f"valid/{name}": value for name, value in line["metrics"].items()})

    def _settings(self) -> dict[str, str]:
        from fedrec.federation.run import read_plan

        return dict(_texts(read_plan(self._folder).model_dump(mode="json")))


def tracker(text: str) -> Tracker:
    """The tracker that `--track` names.

    Args:
        text: `tensorboard:FOLDER`, `mlflow:URI` (such as `file:mlruns`) or `wandb:PROJECT`.

    Raises:
        InputError: for other text, or if the library is not installed.
    """
    kind, colon, where = text.partition(":")
    if kind not in _TRACKERS:
        raise InputError(f"--track {text}: give tensorboard:FOLDER, mlflow:URI or wandb:PROJECT")
    if not colon or not where:
        raise InputError(f"--track {text}: say where, as in {_EXAMPLES[kind]}")
    try:
        return _TRACKERS[kind](where)
    except ImportError:
        raise InputError(f"--track {text} needs {_PACKAGES[kind]}; pip install {_PACKAGES[kind]}") from None


class _TensorBoard:
    """Event files that TensorBoard reads."""

    def __init__(self, folder: str) -> None:
        from tensorboardX import SummaryWriter

        self._writer, self._folder, self._last = SummaryWriter, Path(folder), 0
        self._open: Any = None

    def begin(self, name: str, settings: Mapping[str, str]) -> None:
        self._open = self._writer(str(self._folder / name))
        self._open.add_text("plan", "\n".join(f"    {key}: {value}" for key, value in settings.items()))

    def log(self, step: int, values: Values) -> None:
        self._last = max(self._last, step)
        for name, value in values.items():
            self._open.add_scalar(_word(name), value, step)

    def end(self, values: Values) -> None:
        self.log(self._last, {f"end/{name}": value for name, value in values.items()})
        self._open.close()


class _MLflow:
    """A run of MLflow, in its experiment `fedrec` unless the environment names another."""

    def __init__(self, uri: str) -> None:
        import mlflow

        self._mlflow, self._uri = mlflow, uri

    def begin(self, name: str, settings: Mapping[str, str]) -> None:
        self._mlflow.set_tracking_uri(self._uri)
        self._mlflow.set_experiment("fedrec")
        self._mlflow.start_run(run_name=name)
        self._mlflow.log_params({key: value[:500] for key, value in settings.items()})

    def log(self, step: int, values: Values) -> None:
        self._mlflow.log_metrics({_word(name): value for name, value in values.items()}, step=step)

    def end(self, values: Values) -> None:
        self._mlflow.log_metrics({f"end/{_word(name)}": value for name, value in values.items()})
        self._mlflow.end_run()


class _Wandb:
    """A run of Weights & Biases; WANDB_MODE=offline keeps it on this machine."""

    def __init__(self, project: str) -> None:
        import wandb

        self._wandb, self._project = wandb, project
        self._run: Any = None

    def begin(self, name: str, settings: Mapping[str, str]) -> None:
        self._run = self._wandb.init(project=self._project, name=name, config=dict(settings))

    def log(self, step: int, values: Values) -> None:
        self._run.log(values, step=step)

    def end(self, values: Values) -> None:
        self._run.summary.update(values)
        self._run.finish()


_TRACKERS: dict[str, Callable[[str], Tracker]] = {"tensorboard": _TensorBoard, "mlflow": _MLflow, "wandb": _Wandb}
_PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow-skinny", "wandb": "wandb"}
_EXAMPLES = {"tensorboard": "tensorboard:logs", "mlflow": "mlflow:file:mlruns", "wandb": "wandb:shops"}


def _word(name: str) -> str:
    """A name of a metric as TensorBoard and MLflow take it."""
    return name.replace("@", "_at_")


def _numbers(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in a line of the ledger, by their path."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{before}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{before}{key}", float(value)


def _texts(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """What a plan says, one entry for each of its keys that is set."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _texts(value, f"{before}{key}.")
        elif value is not None:
            yield f"{before}{key}", str(value)
