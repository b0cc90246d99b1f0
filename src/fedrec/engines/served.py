"""A finished run of a federation, kept at a node as a run of its own, so that the node's users can be served."""

from __future__ import annotations

import os
import shutil

from fedrec.engines.local import LocalEngine
from fedrec.engines.opened import OpenedRun
from fedrec.federation.coordinator import Trained
from fedrec.federation.host import Served

__all__ = ["save_served"]


def save_served(served: Served) -> None:
    """Save the model with the node's own users and private rows; `fedrec recommend` and the like open it.

    The folder is made aside and put in its place when it is whole; `latest`, beside it, points to it.
    """
    folder, plan = served.folder, served.plan
    engine = LocalEngine([served.node])
    trained = Trained(served.state, served.kept, served.kept + 1)
    aside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(parents=True, exist_ok=True)
    OpenedRun(plan, plan.build_model(), trained, engine, served.data).save(aside)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    link = folder.with_name(".latest.new")
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name)
    os.replace(link, folder.with_name("latest"))
