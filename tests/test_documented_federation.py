"""The page on deployment, from its first command to its last: three shops on this machine, each in its own folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from fedrec.deploy.demo import free_port
from fedrec.network.nvflare.supervised import PARENT
from fedrec.record.keys import SigningKey
from pages_in_test import Command, commands_in_blocks, commands_in_sentences, other_files, small_table

pytest.importorskip("nvflare")
pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

DEPLOY, README = "docs/deploy.md", "README.md"
SHOPS = ["shop-a", "shop-b", "shop-c"]
CONNECTED = 120.0


class Shops:
    """A folder for each shop, the first of which is the coordinator's too, and the processes that were started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        table = small_table().rename({"user_id": "customer", "item_id": "sku", "timestamp": "when"})
        for number, name in enumerate(SHOPS):
            home = folder / name
            home.mkdir(parents=True)
            other_files(home, DEPLOY)
            whose = pl.col("customer").replace({196: 4711}) if name == "shop-b" else pl.col("customer") + 1000 * number
            table.with_columns(customer=whose).write_csv(home / "clicks.csv")

    def run(self, shop: str, command: Command, **instead: str) -> str:
        """What a command of a page prints in a shop's folder; some of its words are replaced."""
        words = [instead.get(word, word) for word in command.words]
        done = subprocess.run(
            [sys.executable, "-m", "fedrec", *words], cwd=self.folder / shop, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command.page}, line {command.line}: {words}\n{done.stderr}{done.stdout}"
        return done.stdout

    def start(self, shop: str, command: Command) -> None:
        """Leave a command of a page running in a shop's folder."""
        with (self.folder / shop / f"{command.words[0]}.txt").open("wb") as output:
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "fedrec", *command.words],
                    cwd=self.folder / shop,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, PARENT: str(os.getpid())},
                )
            )

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(60.0)
        self.processes.clear()


@pytest.fixture
def shops(tmp_path: Path) -> Iterator[Shops]:
    made = Shops(tmp_path)
    yield made
    made.stop()


def of(page: str, beginning: str, number: int = 0) -> Command:
    """A command of a page by how it begins."""
    there = [*commands_in_blocks(page), *commands_in_sentences(page)]
    return [command for command in there if str(command).startswith(beginning)][number]


def key_in(printed: str, name: str) -> str:
    found = re.search(rf"{name}\+[0-9a-f]{{8}}\+[\w/+=]+", printed)
    assert found is not None, printed
    return found[0]


def test_the_page_on_deployment_works_from_nothing_to_recommendations(shops: Shops) -> None:
    host = {"fed.shop-a.example": "localhost"}
    init = of(DEPLOY, "federation init")
    port = Command(init.page, init.line, (*init.words, "--port", str(free_port())))
    coordinator = key_in(shops.run("shop-a", port, **host), "coordinator")
    shown = next(word for word in of(DEPLOY, "node init").words if word.startswith("coordinator+"))
    keys = {}
    for name in SHOPS:
        printed = shops.run(name, of(DEPLOY, "node init"), **{"shop-b": name, shown: coordinator})
        keys[name] = key_in(printed, name)
    for name in SHOPS:
        config = shops.folder / name / "node.toml"
        text = re.sub(
            r"(?s)parties = \[.*?\]", f"parties = {json.dumps([*keys.values()])}", config.read_text(), count=1
        )
        text = text.replace("epsilon = 8.0", "epsilon = 20.0").replace("delta = 1e-6", "delta = 1e-5")  # for three runs
        config.write_text(text)
        assert "every plan is refused" not in shops.run(name, of(DEPLOY, "node check"))
        assert "783" in shops.run(name, of(DEPLOY, "node check --catalog"))
    shops.run("shop-a", of(DEPLOY, "federation invite"), **{f"{name}+…": key for name, key in keys.items()})
    for name in SHOPS:
        shutil.copytree(shops.folder / "shop-a/federation/kits" / name, shops.folder / name / "kit")

    shops.start("shop-a", of(DEPLOY, "federation start"))
    for name in SHOPS:
        shops.start(name, of(DEPLOY, "node start"))
    until = time.monotonic() + CONNECTED
    while (status := shops.run("shop-a", of(DEPLOY, "federation status"))).count("yes") < len(SHOPS):
        assert time.monotonic() < until, status
        time.sleep(1.0)

    run = shops.folder / "shop-a" / "run"
    shops.run("shop-a", of(DEPLOY, "train --federation", 0))
    shops.run("shop-a", of(DEPLOY, "train --federation federation --resume"))
    shops.run("shop-a", of(DEPLOY, "verify run"))
    assert shops.run("shop-b", of(DEPLOY, "recommend shop-b-home", 0)).count("\n") > 10
    shops.run("shop-b", of(DEPLOY, "recommend shop-b-home", 1))
    assert 4711 in pl.read_parquet(shops.folder / "shop-b/recs.parquet")["user_id"].to_list()
    for page, name in ((DEPLOY, "federation"), (README, "shops")):
        shutil.rmtree(run)
        shops.run("shop-a", of(page, f"train --federation {name} --plan"), shops="federation")
    assert shops.run("shop-a", of(README, "recommend shop-a-home")).count("\n") > 10

    shops.stop()
    shutil.rmtree(shops.folder / "shop-a/federation/provisioning")
    shops.run("shop-a", of(DEPLOY, "federation invite", 1))
    fourth = str(SigningKey("shop-d", bytes(32)).public())
    shops.run("shop-a", of(DEPLOY, "federation invite federation shop-d"), **{"shop-d+…": fourth})
    assert "shop-c" in shops.run("shop-a", of(DEPLOY, "federation remove"))
