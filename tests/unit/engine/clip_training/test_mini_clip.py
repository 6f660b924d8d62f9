import json
import math

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss
from PIL import Image
from safetensors.torch import load_file

from gridclip.data.synthetic.mini_captions import MiniPairs, PairBatch
from gridclip.data.synthetic.mini_world import KINDS, NAMES
from gridclip.data.synthetic.painter import draw_scene
from gridclip.engine.clip_training import mini_clip
from gridclip.engine.clip_training.mini_clip import contrastive_loss, train_mini_clip
from gridclip.io.errors import InputError
from gridclip.models.encoders.attention_pool import AttentionPool
from gridclip.models.encoders.open_clip import (
    MINI_FOLDER,
    MINI_MODEL,
    MINI_RECORD,
    MINI_WEIGHTS,
    RANDOM,
    ClipModel,
)


@pytest.fixture(scope="module")
def model():
    open_clip.add_model_config(MINI_FOLDER)
    return open_clip.create_model(MINI_MODEL, pretrained=str(MINI_WEIGHTS)).eval()


def test_the_bundled_weights_fit_open_clip_tensor_by_tensor(model):
    held, own = load_file(MINI_WEIGHTS), model.state_dict()
    assert held.keys() == own.keys()
    for name, tensor in held.items():
        assert torch.equal(tensor.to(own[name].dtype), own[name]), name


def test_the_bundled_weights_are_small_finite_and_half_precision():
    assert MINI_WEIGHTS.stat().st_size <= 8_000_000
    for name, tensor in load_file(MINI_WEIGHTS).items():
        if tensor.is_floating_point():
            assert tensor.dtype == torch.float16, name
            assert tensor.isfinite().all(), name


@torch.no_grad()
def test_fresh_single_objects_of_all_kinds_are_named_zero_shot(model):
    # By open_clip's own preprocessing and tokenizer, as its documentation does it.
    prepare = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**open_clip.get_model_preprocess_cfg(model)),
        is_train=False,
    )
    rng = np.random.default_rng(12345)
    scenes = [draw_scene(rng, [kind]) for kind in KINDS]
    images = torch.stack([prepare(Image.fromarray(scene.pixels)) for scene in scenes])
    tokens = open_clip.get_tokenizer(MINI_MODEL)([f"a photo of a {name}" for name in NAMES])
    images = model.encode_image(images, normalize=True)
    texts = model.encode_text(tokens, normalize=True)
    top = (images @ texts.T).argmax(1)
    assert (top == torch.arange(len(KINDS))).float().mean() >= 0.92


@torch.no_grad()
def test_the_text_tells_the_names_of_different_shapes_apart(model):
    tokens = open_clip.get_tokenizer(MINI_MODEL)([f"a photo of a {name}" for name in NAMES])
    texts = model.encode_text(tokens, normalize=True)
    shapes = [kind.shape for kind in KINDS]
    apart = torch.tensor([[one != other for other in shapes] for one in shapes])
    assert (texts @ texts.T)[apart].max() <= 0.95


def test_the_record_tells_how_the_weights_were_made_and_how_good_they_are():
    record = json.loads(MINI_RECORD.read_text())
    assert record["command"].startswith("gridclip clip train")
    assert f"--seed {record['seed']}" in record["command"]
    assert f"--steps {record['steps']}" in record["command"]
    assert record["zero_shot"]["in_scene"]["all"] >= 0.92
    assert record["zero_shot"]["in_scene"]["rare_shapes"] >= 0.92


def test_the_loss_is_open_clips_own():
    torch.manual_seed(0)
    network = ClipModel(weights=RANDOM).create()
    batch = MiniPairs(seed=0, batches=1, batch_size=8, side=128, most=3)[0]
    cfg = open_clip.get_model_preprocess_cfg(network)
    mean, std = (torch.tensor(cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    expected = ClipLoss()(
        network.encode_image((batch.pixels / 255 - mean) / std, normalize=True),
        network.encode_text(open_clip.get_tokenizer(MINI_MODEL)(batch.captions), True),
        network.logit_scale.exp(),
    )
    torch.testing.assert_close(contrastive_loss(network, batch), expected)


def test_small_images_are_pooled_as_the_detector_pools_them():
    torch.manual_seed(0)
    tower = ClipModel(weights=RANDOM).create().visual
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    seen = {}
    tower.layer4.register_forward_hook(lambda _, __, output: seen.update(c5=output))
    embedded = mini_clip._embed(tower, pixels)
    pool = AttentionPool.from_open_clip(tower.attnpool)
    expected = pool(seen["c5"], torch.ones(2, 2, 2, dtype=torch.bool)).image
    torch.testing.assert_close(embedded, expected)
    embedded.sum().backward()
    assert tower.attnpool.positional_embedding.grad.abs().sum() > 0


def test_the_learning_rate_rises_then_falls_to_nothing():
    rates = [mini_clip._schedule(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) > 0.97
    assert rates[-1] < 1e-4
    assert rates[100:] == sorted(rates[100:], reverse=True)


def test_words_that_no_caption_held_are_forgotten():
    torch.manual_seed(0)
    network = ClipModel(weights=RANDOM).create()
    settings = mini_clip._Settings(seed=0, steps=1, learning_rate=1e-3, weight_decay=0.1)
    optimizer = mini_clip._optimizer(network, settings)
    pixels = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    contrastive_loss(network, PairBatch(pixels, ["a red star", "a blue ring"])).backward()
    optimizer.step()
    mini_clip._forget_unused_words(network, optimizer)
    tokens = open_clip.get_tokenizer(MINI_MODEL)(["a red star", "a blue ring"])
    used = network.token_embedding.weight.abs().sum(1).nonzero().flatten()
    # Padding comes after the end of the sentence, which cannot look at it.
    assert set(used.tolist()) == set(tokens.flatten().tolist()) - {0}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [({"steps": 0}, "steps"), ({"seed": -1}, "seed"), ({"learning_rate": math.nan}, "learning")],
)
def test_arguments_that_make_no_sense_are_named_before_training(tmp_path, wrong, field):
    with pytest.raises(InputError, match=field):
        train_mini_clip(tmp_path / "clip", **wrong)
    assert not (tmp_path / "clip").exists()


def test_a_folder_that_cannot_be_written_is_named_before_training(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="give a path in a folder of yours"):
        train_mini_clip(tmp_path / "file")


@pytest.mark.slow
def test_the_same_seed_trains_the_same_weights(tmp_path):
    for name in ("one", "two"):
        train_mini_clip(tmp_path / name, steps=4)
    one, two = (load_file(tmp_path / name / MINI_WEIGHTS.name) for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not list((tmp_path / "one").glob("*.part"))
    vectors = F.normalize(one["token_embedding.weight"].float().sum(0), dim=0)
    assert vectors.isfinite().all()
