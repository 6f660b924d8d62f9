"""Words of --keep, and the settings of a detector that they stand for."""

import inspect
from itertools import combinations

import pytest

from gridclip.engine.finetune.keep import WAYS, read_keep
from gridclip.engine.finetune.row import Length, make_row
from gridclip.io.errors import InputError
from gridclip.models.gridclip.keeping import Keeping
from gridclip.models.gridclip.model import GridCLIP
from gridclip.models.gridclip.prompt import Prompt
from gridclip.models.vild.model import ViLD


class Unbuilt(GridCLIP):
    """Of its class only the arguments are asked."""

    def __init__(self, backbone, text, assigner, keeping=None, prompt=None):
        pass


def settings(words, kind=Unbuilt):
    return read_keep(words).settings(kind.__new__(kind), ["cup", "mug"])


@pytest.mark.parametrize("way", WAYS)
def test_each_way_alone_makes_settings_that_gridclip_takes(way):
    made = settings(way)
    assert made.keys() <= inspect.signature(GridCLIP).parameters.keys()
    Keeping(**made.get("keeping", {}))
    assert ("prompt" in made) == (way == "prompt")
    if "prompt" in made:
        assert Prompt(names=tuple(made["prompt"]["names"])).names == ("cup", "mug")


def test_ways_of_the_data_change_nothing_of_the_model():
    assert settings("replay, pseudo") == settings("nothing") == {}


def test_ways_are_joined_and_each_is_in_the_settings():
    made = settings("distillation,replay,residual")["keeping"]
    keeping = Keeping(**made)
    assert keeping.learns == "residual"
    assert keeping.embeddings > 0
    assert keeping.boxes > 0


@pytest.mark.parametrize("pair", combinations(WAYS, 2), ids=",".join)
def test_two_that_contradict_each_other_are_refused_and_no_others(pair):
    contradict = {"nothing", "prompt"} & {*pair} or {*pair} == {"residual", "head"}
    if contradict:
        with pytest.raises(InputError, match="--keep"):
            read_keep(",".join(pair))
    else:
        assert set(read_keep(",".join(pair)).ways) == {*pair}


def test_shifted_vectors_learn_fast_and_weights_that_were_known_slowly():
    assert read_keep("prompt").rate > 1 > read_keep("replay,pseudo").rate
    assert len({read_keep(way).rate for way in WAYS if way != "prompt"}) == 1


@pytest.mark.parametrize("words", ["", "replays", "replay,", "replay;pseudo"])
def test_a_word_that_is_none_is_refused_with_the_choices(words):
    with pytest.raises(InputError, match="take of: nothing, replay, pseudo"):
        read_keep(words)


def test_a_detector_without_a_setting_is_refused_and_ways_of_the_data_go_with_any():
    assert settings("replay,pseudo", ViLD) == {}
    for way in ("head", "residual", "distillation", "prompt"):
        with pytest.raises(InputError, match=f"ViLD has no setting for: {way}"):
            settings(f"{way}", ViLD)


def recipe(**arguments):
    detector = {"class_path": "GridCLIP", "init_args": {"width": 8} | arguments}
    return {"model": {"detector": detector}, "data": {}, "trainer": {}}


def test_a_row_forgets_what_the_run_itself_was_kept_by(tmp_path):
    row = make_row(
        tmp_path, recipe(keeping={"learns": "head"}), tmp_path, Length(1, 0.1, 0), {"width": 9}
    )
    assert row["model"]["detector"]["init_args"] == {"width": 9}


def test_a_run_of_shifted_vectors_is_no_start(tmp_path):
    given = recipe(prompt={"names": ["cup"]})
    with pytest.raises(InputError, match="lets the network rest"):
        make_row(tmp_path, given, tmp_path, Length(1, 0.1, 0), {})
