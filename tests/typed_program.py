"""A program of a user, for type checkers only: what is right passes, and what is wrong is found where `ignore` says."""

from __future__ import annotations

import fedrec as fr

data = fr.load_data("synthetic:users=200,items=100")
split: fr.Split = fr.leave_last_out(data)
model = fr.EASE(reg=200, seed=3).fit(split.train)
lists = model.recommend([1, 2], n=2)
fr.evaluate(model, split, ["ndcg@10"])
fr.MF(loss="bpr", rounds=3, weights={"form": "log"})
fr.Popularity().fit(split).save("run")
again: fr.Estimator = fr.load_model("run")

fr.EASE(reg="much")  # type: ignore[arg-type]
fr.EASE(rge=200.0)  # type: ignore[call-arg]
fr.MF(loss="hinge")  # type: ignore[arg-type]
fr.EASSE()  # type: ignore[attr-defined]
model.recommand([1])  # type: ignore[attr-defined]
