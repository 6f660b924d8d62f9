"""Files of weights are taken whole, or refused with what is wrong."""

import pytest
import torch
from torch import nn

from gridclip.io.errors import InputError
from gridclip.io.state_dicts import fill, read_state
from gridclip.models.encoders.backbones import TimmBackbone


def test_a_state_dict_is_read_bare_or_under_its_usual_key(tmp_path):
    state = nn.Linear(2, 3).state_dict()
    for content in (state, {"model": state}):
        torch.save(content, tmp_path / "w.pth")
        read = read_state(tmp_path / "w.pth", fix="")
        assert {name: tensor.tolist() for name, tensor in read.items()} == {
            name: tensor.tolist() for name, tensor in state.items()
        }


@pytest.mark.parametrize(
    "content",
    [[torch.ones(1)], {"state_dict": {"a": torch.ones(1)}}, {"model": torch.ones(1)}, None],
)
def test_what_is_no_state_dict_is_refused_by_name(content, tmp_path):
    file = tmp_path / "w.pth"
    if content is not None:
        torch.save(content, file)
    with pytest.raises(InputError, match=r"w\.pth: weights: (.|\n)*fix: give one"):
        read_state(file, field="weights", fix="give one")


def test_a_module_is_filled_whole_or_the_names_that_differ_are_told():
    with pytest.raises(InputError, match=r"(?s)Missing.*bias.*Unexpected.*scale"):
        fill(
            nn.Linear(2, 3),
            {"weight": torch.ones(3, 2), "scale": torch.ones(1)},
            "w.pth",
            field="weights",
            fix="",
        )


def test_a_backbone_refuses_a_training_checkpoint_and_weights_of_another(tmp_path):
    file = tmp_path / "last.ckpt"
    for content, problem in (
        ({"state_dict": {}, "epoch": 3}, "other things than tensors"),
        (nn.Linear(2, 3).state_dict(), "do not fit"),
    ):
        torch.save(content, file)
        with pytest.raises(InputError, match=problem):
            TimmBackbone(name="test_efficientnet.r160_in1k", weights=str(file))
