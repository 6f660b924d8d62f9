"""What is left of a recipe when its training is over."""

import inspect

import pytest

from gridclip.engine.recipe import without_past
from gridclip.io.errors import InputError
from gridclip.models.gridclip.model import GridCLIP
from gridclip.models.regionclip.model import RegionCLIP
from gridclip.models.regionclip.pretraining import RegionPretraining
from gridclip.models.vild.crop_and_classify import CropAndClassify


def recipe(path, **given):
    return {"init_from": "old.ckpt", "detector": {"class_path": path, "init_args": given}}


@pytest.mark.parametrize(
    ("detector", "past"),
    [
        (GridCLIP, set()),
        (CropAndClassify, {"checkpoint"}),
        (RegionCLIP, {"checkpoint", "box_weights", "given"}),
        (RegionPretraining, {"given"}),
    ],
)
def test_a_trained_detector_is_rebuilt_without_the_files_that_its_training_took(detector, past):
    files = {name: f"{name}.file" for name in ("checkpoint", "box_weights", "given", "concepts")}
    model = recipe(f"{detector.__module__}.{detector.__name__}", **files)
    left = without_past(model)
    assert left["init_from"] is None
    kept = left["detector"]["init_args"]
    assert kept == files | dict.fromkeys(past)
    assert model["detector"]["init_args"] == files  # the recipe itself is as it was
    arguments = inspect.signature(detector).parameters
    assert all(arguments[name].default is None for name in past)


@pytest.mark.parametrize("path", ["gridclip.models.nothing.Nothing", "gridclip.Nothing", "", "a b"])
def test_a_detector_whose_class_is_not_there_is_refused_by_its_name(path):
    with pytest.raises(InputError, match=r"model\.detector\.class_path: .*is not there"):
        without_past(recipe(path))
