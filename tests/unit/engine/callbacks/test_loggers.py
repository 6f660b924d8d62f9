import json
import math

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import metadata

from gridclip.engine.callbacks.loggers import announce, conclude, read_hyperparameters

RECIPE = """
seed_everything: 3
trainer: {max_steps: 20, accelerator: cpu}
model:
  optimizer: {lr: 0.003, milestones: [0.5, 0.9]}
  detector:
    class_path: gridclip.GridCLIP
    init_args: {weights: {grid: 1.0, image: 0.1}, text: {templates: [a, b]}}
data: {init_args: {rare_split: all, batch_size: 16, root: data/mini}}
"""
FIGURES = {"AP": 0.4, "APr": math.nan, "APc": 0.5, "APf": 0.6, "AP50": 0.7, "AP_new": 0.3}


@pytest.fixture
def run(tmp_path):
    """A run folder with its recipe."""
    folder = tmp_path / "trials" / "001"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(RECIPE)
    return folder


def sessions(root):
    """What TensorBoard's own reader finds: settings and figures of each run with HPARAMS."""
    reader = EventMultiplexer().AddRunsFromDirectory(str(root)).Reload()
    found = {}
    for name, content in reader.PluginRunToTagToContent(metadata.PLUGIN_NAME).items():
        start = metadata.parse_session_start_info_plugin_data(
            content[metadata.SESSION_START_INFO_TAG]
        )
        settings = {
            key: getattr(value, value.WhichOneof("kind")) for key, value in start.hparams.items()
        }
        assert metadata.EXPERIMENT_TAG not in content
        assert metadata.SESSION_END_INFO_TAG in content
        figures = {
            tag: reader.Tensors(name, tag)[-1].tensor_proto.float_val[0]
            for tag in reader.GetAccumulator(name).Tags()["tensors"]
            if not tag.startswith("_hparams_")
        }
        found[name] = (settings, figures)
    return found


def tensorboard(run):
    return TensorBoardLogger(save_dir=run, name="tensorboard", version="")


def test_the_main_settings_are_named_as_a_sweep_file_names_them(run):
    assert read_hyperparameters(run) == {
        "data.init_args.batch_size": 16,
        "data.init_args.rare_split": "all",
        "model.detector.class_path": "gridclip.GridCLIP",
        "model.detector.init_args.weights.grid": 1.0,
        "model.detector.init_args.weights.image": 0.1,
        "model.optimizer.lr": 0.003,
        "model.optimizer.milestones": [0.5, 0.9],
        "seed_everything": 3,
        "trainer.max_steps": 20,
    }


def test_whatever_a_sweep_varies_is_a_setting(run):
    given = {"data.init_args.root": "elsewhere", "seed_everything": 4}
    (run / "trial.json").write_text(json.dumps({"parameters": given}))
    settings = read_hyperparameters(run)
    assert settings["data.init_args.root"] == "elsewhere"
    assert settings["seed_everything"] == 4


def test_tensorboard_reads_back_settings_and_final_figures(run):
    parameters = {"data.flip": True, "data.scale": [0.5, 2], "data.none": None}
    (run / "trial.json").write_text(json.dumps({"parameters": parameters}))
    folder = conclude(run, [tensorboard(run)], FIGURES, step=20)
    assert folder == run / "tensorboard" / "hparams"
    [(name, (settings, figures))] = sessions(run.parents[1]).items()
    assert name == "trials/001/tensorboard/hparams"
    assert settings["data.flip"] == 1.0
    assert not isinstance(settings["data.flip"], bool)
    assert (settings["data.scale"], settings["data.none"]) == ("[0.5, 2]", "null")
    assert settings["model.optimizer.milestones"] == "[0.5, 0.9]"
    assert (settings["model.optimizer.lr"], settings["seed_everything"]) == (0.003, 3)
    defined = {"AP": 0.4, "APc": 0.5, "APf": 0.6, "AP_new": 0.3}  # APr is not
    assert figures == pytest.approx(defined)


def test_an_evaluation_done_again_takes_the_place_of_the_first(run):
    for value in (0.1, 0.2):
        conclude(run, [tensorboard(run)], FIGURES | {"AP": value}, step=20)
    assert len(list((run / "tensorboard" / "hparams").iterdir())) == 1
    [(_, figures)] = sessions(run).values()
    assert figures["AP"] == pytest.approx(0.2)


def test_nothing_is_written_without_tensorboard_or_recipe(run, tmp_path):
    assert conclude(run, [CSVLogger(tmp_path)], FIGURES, step=1) is None
    (run / "config.yaml").unlink()
    assert conclude(run, [tensorboard(run)], FIGURES, step=1) is None
    assert not (run / "tensorboard" / "hparams").exists()


def test_wandb_is_told_the_settings_as_the_recipe_nests_them(run, tmp_path):
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    announce(run, [logger])
    config = dict(logger.experiment.config)
    logger.experiment.finish()
    assert config["seed_everything"] == 3
    weights = {"grid": 1.0, "image": 0.1}
    assert config["model"]["detector"]["init_args"] == {"weights": weights}
    assert config["data"] == {"init_args": {"batch_size": 16, "rare_split": "all"}}
