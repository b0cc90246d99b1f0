"""The device of networks belongs to a machine: an option of commands, a key of node.toml, a variable of services."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import Said
from fedrec.errors import InputError, PlanError
from fedrec.models.networks.devices import device, held_device
from fedrec.owner.config import NodeConfig
from fedrec.owner.limits import ResourceLimits

Call = Callable[..., Said]
NOT_THERE = "cuda:77"


@pytest.mark.parametrize(
    "words",
    ["train --data x --model sasrec", "evaluate run", "recommend run --user 1", "compare --data x --models sasrec",
     "tune --data x --model sasrec --grid window=5", "audit run", "federation demo"],
)  # fmt: skip
def test_every_command_that_runs_networks_refuses_a_device_that_is_not_there(words: str, fedrec: Call) -> None:
    for name, why in (("abacus", "this is not the name of a device"), (NOT_THERE, r"torch finds")):
        said = fedrec(*words.split(), "--device", name)
        assert said.code == 2
        assert f"--device {name}: {why}" in said.err
        assert "use cpu" in said.err


def test_a_node_refuses_a_device_of_its_configuration_that_is_not_there(fedrec: Call, tmp_path: Path) -> None:
    home = tmp_path / "node.toml"
    assert fedrec("node", "init", "shop", "--data", "x.csv", "--config", home, "--home", tmp_path / "home").code == 0
    home.write_text(home.read_text().replace('# device = "cuda"', f'device = "{NOT_THERE}"'))
    said = fedrec("node", "start", "--kit", tmp_path, "--config", home)
    assert (said.code, f"limits.device in node.toml: {NOT_THERE}: torch finds" in said.err) == (2, True)
    home.write_text(home.read_text().replace(NOT_THERE, "abacus"))
    with pytest.raises(PlanError, match=r"limits\.device"):
        NodeConfig.read(home)
    assert ResourceLimits(device="cuda:1").device == "cuda:1"


def test_the_variable_is_asked_where_nothing_else_names_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDREC_DEVICE", raising=False)
    assert device() == torch.device("cpu")
    monkeypatch.setenv("FEDREC_DEVICE", NOT_THERE)
    with pytest.raises(InputError, match=rf"FEDREC_DEVICE={NOT_THERE}: torch finds .* use cpu"):
        device()
    with held_device("cpu"):
        assert device() == torch.device("cpu")
    assert os.environ["FEDREC_DEVICE"] == NOT_THERE


def test_a_device_without_torch_says_what_to_install(fedrec: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "fedrec.models.networks.devices", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    said = fedrec("train", "--data", "x", "--model", "ease", "--device", "cuda")
    assert said.code == 2
    assert "--device cuda: networks need PyTorch; pip install 'fedrec[torch]'" in said.err
