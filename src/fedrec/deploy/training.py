"""Training over the nodes of a real federation, for the command line and for Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedrec.federation.coordinator import Progress
    from fedrec.federation.plan import Plan
    from fedrec.progress import Stopwatch

__all__ = ["train_over"]


def train_over(
    federation: Path,
    plan: Plan,
    out: Path,
    secure: bool = False,
    resume: bool = False,
    watch: Callable[[Progress], None] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
    clock: Stopwatch | None = None,
) -> dict[str, Any]:
    """Train a plan over the nodes of a federation.

    Args:
        federation: folder of the federation.
        plan: the plan.
        out: folder of the run.
        secure: use secure aggregation.
        resume: continue an interrupted run in `out`.
        watch: receives the progress.
        tell: receives warnings about nodes.
        clock: measures the time.

    Returns:
        The report; see `fedrec.runs.federated.train_federated`.
    """
    from fedrec.deploy.folder import FederationFolder
    from fedrec.network.nvflare.post import NvflarePost
    from fedrec.runs.federated import train_federated

    folder = FederationFolder.open(federation)
    members = folder.members
    folder.check_own_kits(tell)
    post = NvflarePost(federation, folder.admin_kit, tell=tell)
    try:
        return train_federated(plan, out, members, post, secure, folder.waiting, resume, watch, tell, clock=clock)
    finally:
        post.close()
