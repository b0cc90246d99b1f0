"""Gradients and local training of a module over clients; nothing here knows rounds, sums or plans."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fedrec.errors import FedrecError
from fedrec.models.networks.batch import Batch, reseeded
from fedrec.models.networks.devices import device

__all__ = [
    "Local",
    "Pool",
    "client_changes",
    "client_gradients",
    "fit_private",
    "loaded",
    "parameters",
    "terms_of",
    "train_together",
]


_BESIDE = 64
_BESIDE_FLOATS = 1 << 22
"""Clients whose gradients are formed apart at the same time: at most so many, with gradients of so many numbers."""


@dataclass(frozen=True)
class Local:
    """How parameters are trained away from the coordinator.

    Args:
        learning_rate: of each step.
        optimiser: `adam` or `sgd`; its moments begin anew with every round.
        decays: β₁ and β₂ of Adam.
        epochs: passes over the clients.
        batch: clients of a step.
        proximal: μ of FedProx: pull towards the parameters of the round.
    """

    learning_rate: float
    optimiser: str = "adam"
    decays: tuple[float, float] = (0.9, 0.999)
    epochs: int = 1
    batch: int = 64
    proximal: float = 0.0


def parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name; those that need no gradient stay as the module makes them."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def loaded(module: nn.Module, shared: Mapping[str, np.ndarray]) -> nn.Module:
    """The module on its device with its trained parameters set to the shared arrays of their names."""
    module.to(device())
    with torch.no_grad():
        for name, parameter in parameters(module).items():
            parameter.copy_(torch.from_numpy(np.array(shared[name])))
    return module


def terms_of(module: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Losses and numbers of terms [clients] of a batch.

    Raises:
        FedrecError: if `loss` gives anything else.
    """
    told = module.loss(batch)  # type: ignore[operator]
    losses, weights = told if isinstance(told, tuple) else (told, torch.ones_like(told))
    if losses.shape != (len(batch),) or weights.shape != (len(batch),):
        raise FedrecError(
            f"{type(module).__name__}.loss must give one loss for each of the {len(batch)} clients, not a tensor of "
            f"shape {list(losses.shape)}"
        )
    return losses, weights


class Pool:
    """Gradients, or changes, of many batches, added up in float64."""

    def __init__(self, names: Mapping[str, nn.Parameter]) -> None:
        self.sums = {name: np.zeros(tuple(parameter.shape)) for name, parameter in names.items()}
        self.weight = 0.0

    def add_gradients(self, module: nn.Module, batch: Batch) -> np.ndarray:
        """Add the negative gradient of the sum of the clients' losses.

        Returns:
            Whose losses were finite [clients] bool; the others are not in the sum.
        """
        included = torch.ones(len(batch), dtype=torch.bool, device=batch.items.device)
        names = parameters(module)
        losses, weights = terms_of(module, batch)
        finite = torch.isfinite(losses.detach()) & torch.isfinite(weights)
        if not bool(finite.all()):  # a gradient of what is not finite would spoil that of the others
            included = finite
            if not bool(finite.any()):
                return included.cpu().numpy()
            batch = _some(batch, torch.nonzero(finite)[:, 0])
            losses, weights = terms_of(module, batch)
        for name, gradient in zip(names, _gradients(losses.sum(), names.values()), strict=True):
            self.sums[name] -= gradient.cpu().numpy()
        self.weight += float(weights.sum())
        return included.cpu().numpy()


def fit_private(module: nn.Module, batch: Batch, steps: int, learning_rate: float) -> Batch:
    """The batch with its private arrays after some steps of Adam on each client's own loss; the module stays as it
    is."""
    if not batch.private:
        return batch
    values = {name: array.clone().requires_grad_(True) for name, array in batch.private.items()}
    rule = torch.optim.Adam(values.values(), lr=learning_rate)
    for step in range(steps):
        drawn = replace(reseeded(batch, f"private step {step}"), private=values)
        losses, _ = terms_of(module, drawn)
        for value, gradient in zip(values.values(), _gradients(losses.sum(), values.values()), strict=True):
            value.grad = gradient
        rule.step()
    return replace(batch, private={name: value.detach() for name, value in values.items()})


def train_together(
    module: nn.Module,
    batch_at: Callable[[np.ndarray, int, int], Batch],
    clients: int,
    order: np.random.Generator,
    local: Local,
    drift: Mapping[str, Tensor] | None = None,
) -> float:
    """Train the module on all clients of a node, in batches; returns the number of terms of one pass.

    Args:
        module: which is changed.
        batch_at: the batch of the clients at some positions, in some epoch and step of all, with what it takes of
            private arrays.
        clients: how many there are.
        order: of the clients.
        local: how.
        drift: what is added to every gradient of a parameter.
    """
    names = parameters(module)
    before = {name: parameter.detach().clone() for name, parameter in names.items()}
    rule = _rule(names.values(), local)
    seen, step = 0.0, 0
    for epoch in range(local.epochs):
        places = order.permutation(clients)
        for start in range(0, clients, local.batch):
            losses, weights = terms_of(module, batch_at(places[start : start + local.batch], epoch, step))
            step += 1
            count = weights.sum()
            seen += float(count) if epoch == 0 else 0.0
            if float(count) <= 0.0:
                continue
            gradients = _gradients(losses.sum() / count, names.values())
            for (name, parameter), gradient in zip(names.items(), gradients, strict=True):
                parameter.grad = gradient + local.proximal * (parameter.detach() - before[name])
                if drift is not None:
                    parameter.grad += drift[name]
            rule.step()
    return seen


def client_gradients(module: nn.Module, batch: Batch) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The negative gradient of each client's loss: {name: [clients, size] float32}, and the clients' numbers of terms.

    Some clients at a time, by `torch.func.vmap`, and always equally many, so that a client's bits do not depend on the
    others; one after the other where the module does what cannot be done so, such as picking places of the window by
    what they hold.
    """
    names = parameters(module)
    out = {name: np.zeros((len(batch), parameter.numel()), np.float32) for name, parameter in names.items()}
    terms = np.zeros(len(batch))
    form, width = _side_by_side, _beside(sum(parameter.numel() for parameter in names.values()))
    start = 0
    while start < len(batch):
        places = torch.arange(start, start + width, device=batch.items.device).clamp(max=len(batch) - 1)
        try:
            gradients, weights = form(module, _some(batch, places))
        except RuntimeError:
            if form is _alone:
                raise
            form, width = _alone, 1
            continue
        some = slice(start, min(start + width, len(batch)))
        for name, gradient in gradients.items():
            rows = gradient.reshape(width, -1)[: some.stop - start]
            np.negative(rows.cpu().numpy(), out=out[name][some])
        terms[some] = weights[: some.stop - start].cpu().numpy()
        start = some.stop
    return out, terms


def client_changes(
    module: nn.Module,
    batch_at: Callable[[np.ndarray, int, int], Batch],
    clients: int,
    local: Local,
    drift: np.ndarray | None = None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What each client changes when it trains alone from the parameters of the round: {name: [clients, size] float32},
    and the clients' numbers of terms; with what is added to its gradients, [clients, size] over all parameters."""
    names = parameters(module)
    before = {name: parameter.detach().clone() for name, parameter in names.items()}
    out = {name: np.zeros((clients, parameter.numel()), np.float32) for name, parameter in names.items()}
    terms = np.zeros(clients)
    for place in range(clients):

        def alone(_: np.ndarray, epoch: int, step: int, place: int = place) -> Batch:
            return batch_at(np.array([place]), epoch, step)

        own = None if drift is None else _parted(drift[place], names)
        terms[place] = train_together(module, alone, 1, np.random.default_rng(0), local, own)
        with torch.no_grad():
            for name, parameter in names.items():
                out[name][place] = (parameter - before[name]).reshape(-1).cpu().numpy()
                parameter.copy_(before[name])
    return out, terms


def _parted(values: np.ndarray, names: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Values of all parameters, one after the other, as one tensor of each."""
    parts = torch.split(torch.from_numpy(values).to(device()), [parameter.numel() for parameter in names.values()])
    return {name: part.reshape(parameter.shape) for (name, parameter), part in zip(names.items(), parts, strict=True)}


def _beside(numbers: int) -> int:
    """How many clients are handled side by side, with gradients of so many numbers each: a power of 2."""
    return min(_BESIDE, 1 << max(_BESIDE_FLOATS // max(numbers, 1), 1).bit_length() - 1)


class _Loss(nn.Module):
    """The loss of a module as what is called, so that other parameters can stand in for its own."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return terms_of(self.module, batch)


def _side_by_side(module: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """Gradients {name: [clients, …]} and numbers of terms [clients] of clients that never meet in a batch."""
    whole = _Loss(module)
    names = {f"module.{name}": parameter.detach() for name, parameter in parameters(module).items()}

    def loss_of(
        values: dict[str, Tensor], items: Tensor, seeds: Tensor, read: Tensor | None, private: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        client = replace(
            batch,
            items=items[None],
            seeds=seeds[None],
            values=None if read is None else read[None],
            private={name: array[None] for name, array in private.items()},
            apart=True,
        )
        losses, weights = torch.func.functional_call(whole, values, (client,))
        return losses.sum(), weights.sum().detach()

    mapped = (None, 0, 0, None if batch.values is None else 0, 0)
    apart = torch.func.vmap(torch.func.grad(loss_of, has_aux=True), in_dims=mapped, randomness="different")
    with sdpa_kernel(SDPBackend.MATH):  # the only form of attention that vmap knows how to widen
        gradients, weights = apart(names, batch.items, batch.seeds, batch.values, dict(batch.private))
    return {name.removeprefix("module."): gradient for name, gradient in gradients.items()}, weights


def _alone(module: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """The same for a single client."""
    losses, weights = terms_of(module, batch)
    names = parameters(module)
    gradients = _gradients(losses.sum(), names.values())
    return {name: gradient[None] for name, gradient in zip(names, gradients, strict=True)}, weights


def _gradients(loss: Tensor, values: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Gradients of a loss; zeros for what it does not depend on."""
    return torch.autograd.grad(loss, list(values), allow_unused=True, materialize_grads=True)


def _rule(values: object, local: Local) -> torch.optim.Optimizer:
    if local.optimiser == "adam":
        return torch.optim.Adam(values, lr=local.learning_rate, betas=local.decays)  # type: ignore[arg-type]
    return torch.optim.SGD(values, lr=local.learning_rate)  # type: ignore[arg-type]


def _some(batch: Batch, places: Tensor) -> Batch:
    """Some clients of a batch."""
    return replace(
        batch,
        items=batch.items[places],
        seeds=batch.seeds[places],
        values=None if batch.values is None else batch.values[places],
        private={name: array[places] for name, array in batch.private.items()},
    )
