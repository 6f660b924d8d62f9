import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from gridclip.clip import fitting
from gridclip.clip.fitted import FittedTeacher, ImageEncoder, load_encoder, save_encoder
from gridclip.clip.fitting import FitSettings, fit_teacher, naming_loss
from gridclip.data.drawn.scenes import SceneSettings
from gridclip.data.drawn.sprite_pictures import SpritePictures
from gridclip.data.drawn.sprites import read_sprites
from gridclip.errors import InputError
from gridclip.networks.backbone import TimmBackbone
from gridclip.structures import Images

NETWORK = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def sprites(tmp_path_factory) -> Path:
    """Four names in plain colours, one of them rare, by two hands."""
    folder, listed = tmp_path_factory.mktemp("sprites"), []
    for row, colour in enumerate([(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0)]):
        for made in ("oil", "ink"):
            picture = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
            ImageDraw.Draw(picture).ellipse((1, 1, 14, 14 - row), fill=(*colour, 255))
            picture.save(folder / f"{row}_{made}.png")
            listed.append({"file": f"{row}_{made}.png", "lvis_id": row + 1, "set": made})
    categories = [
        {"id": row + 1, "name": name, "frequency": "r" if name == "kiwi" else "f"}
        for row, name in enumerate(["apple", "kiwi", "plum", "lemon"])
    ]
    document = {"categories": categories, "sprites": listed}
    (folder / "sprites.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def vectors(tmp_path_factory) -> tuple[Path, Path]:
    """Vectors of five names, in another order than the sprites', one of them never drawn."""
    folder = tmp_path_factory.mktemp("vectors")
    rows = np.random.default_rng(0).normal(size=(5, 8)) + 1
    np.save(folder / "vectors.npy", rows.astype(np.float32))
    (folder / "names.txt").write_text("\n".join(["lemon", "fig", "plum", "kiwi", "apple"]))
    return folder / "vectors.npy", folder / "names.txt"


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_encoder(ImageEncoder(TimmBackbone(NETWORK), 8), file, backbone=NETWORK, side=64)
    return file


def test_a_saved_teacher_embeds_whole_pictures_without_their_padding(teacher_file):
    teacher = FittedTeacher(str(teacher_file))
    teacher.load()
    assert teacher.width == 8
    pixels = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    pixels[1, :, :, 64:] = 0
    pair = teacher(Images(pixels, torch.tensor([[64, 96], [64, 64]])))
    torch.testing.assert_close(pair.norm(dim=-1), torch.ones(2))
    encoder, side = load_encoder(teacher_file)
    assert side == 64
    with torch.no_grad():  # the second is the square itself, so nothing is resized
        torch.testing.assert_close(pair[1], encoder(pixels[1:, :, :, :64].float())[0])


def test_a_teacher_is_frozen_and_no_part_of_a_checkpoint(teacher_file):
    teacher = FittedTeacher(str(teacher_file))
    assert not hasattr(teacher, "encoder")  # cheap until it is needed
    teacher.load()
    teacher.train()
    assert [*teacher.parameters()] == []
    assert teacher.state_dict() == {}
    assert not teacher.encoder.network.training


def test_the_fingerprint_follows_the_weights(teacher_file, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(teacher_file.read_bytes())
    torch.manual_seed(1)
    other = tmp_path / "other.safetensors"
    save_encoder(ImageEncoder(TimmBackbone(NETWORK), 8), other, backbone=NETWORK, side=64)
    one, same, different = (
        FittedTeacher(str(file)).fingerprint() for file in (teacher_file, copy, other)
    )
    assert one == same != different


def test_a_file_that_is_no_teacher_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no\.safetensors: .*cannot be read.*\n.*clip fit"):
        FittedTeacher(str(tmp_path / "no.safetensors")).load()
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(InputError, match="is no safetensors file"):
        FittedTeacher(str(tmp_path / "text.safetensors")).load()
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="holds no fitted image encoder"):
        FittedTeacher(str(tmp_path / "other.safetensors")).load()


def test_the_loss_is_a_cross_entropy_whose_truth_is_shared_by_the_names_shown():
    torch.manual_seed(0)
    images, texts = (F.normalize(torch.randn(n, 6), dim=-1) for n in (3, 5))
    shown = torch.tensor([[0, 1, 0, 0, 0], [1, 0, 0, 1, 0], [0, 0, 0, 0, 0]]).float()
    total = 0.0
    for image, names in ((0, [1]), (1, [0, 3])):  # the third shows nothing
        weights = [math.exp(float(images[image] @ text) / 0.1) for text in texts]
        total += sum(-math.log(weights[name] / sum(weights)) for name in names) / len(names)
    found = naming_loss(images, texts, shown, temperature=0.1)
    assert float(found) == pytest.approx(total / 2, rel=1e-5)


def test_pictures_to_fit_on_are_a_function_of_seed_and_index(sprites):
    train, _ = read_sprites(sprites).split(("ink",))

    def pictures(seed: int) -> SpritePictures:
        scene = SceneSettings(objects=(2, 3))
        return SpritePictures(train, seed=seed, batches=3, batch_size=6, side=64, scene=scene)

    first, again, other = pictures(1)[1], pictures(1)[1], pictures(2)[1]
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.shown, again.shown)
    assert not torch.equal(first.pixels, other.pixels)
    assert first.pixels.shape == (6, 3, 64, 64)
    assert first.shown[0::2].sum(1).tolist() == [1, 1, 1]  # close-ups
    assert first.shown[1::2].sum(1).max() > 1
    assert len(list(pictures(1))) == 3


def test_accuracy_counts_names_among_as_many_best_ones_by_group():
    names = fitting.Names(torch.eye(4), torch.eye(4)[[2, 0, 1]])  # three categories, four names
    images = torch.tensor([[0.9, 0.1, 0.0, 0.5], [0.2, 0.7, 0.1, 0.6]])
    shown = torch.tensor([[1.0, 1.0, 0, 0], [0, 1.0, 0, 0]])  # names 0 and 1; name 1
    rare = torch.tensor([False, True, False])  # the category whose name is row 0
    groups = {"all": rare | ~rare, "base": ~rare, "rare": rare, "none": rare & ~rare}
    found = fitting._accuracies(images, shown, names, groups)
    # Picture 0: best two are 0 and 3, so 1 is missed; picture 1: best is 1.
    assert found == {"all": pytest.approx(2 / 3, abs=1e-4), "base": 0.5, "rare": 1.0}


def test_a_fit_writes_a_teacher_that_names_what_it_never_saw_drawn(sprites, vectors, tmp_path):
    torch.manual_seed(0)
    start = ImageEncoder(TimmBackbone(NETWORK), 8)
    weights = tmp_path / "imagenet.pth"
    import timm

    torch.save(timm.create_model(NETWORK).state_dict(), weights)
    output = tmp_path / "new" / "teacher.safetensors"
    settings = FitSettings(weights=str(weights), side=64, steps=3, batch_size=4)
    fit_teacher(output, *vectors, sprites, ("ink",), settings)
    teacher = FittedTeacher(str(output))
    teacher.load()
    assert teacher.width == start.project.out_features == 8
    record = json.loads(output.with_suffix(".json").read_text())
    assert (record["seed"], record["steps"], record["val_sets"]) == (0, 3, ["ink"])
    assert set(record["zero_shot"]["close_up"]) == {"all", "base", "rare"}
    assert sorted(path.name for path in output.parent.iterdir()) == [
        "teacher.json",
        "teacher.safetensors",
    ]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"output": "teacher.pt"}, "output: ends in '.pt'"),
        ({"val_sets": ("wax",)}, "val_sets"),
        ({"names": "few.txt"}, "vectors.npy: 5 vectors for the 2 names of .*few.txt"),
        ({"vectors": "few.npy", "names": "few.txt"}, "few.txt: names: has no vector for 2 names"),
    ],
)
def test_what_is_wrong_is_named_before_the_fit(sprites, vectors, tmp_path, wrong, told):
    (tmp_path / "few.txt").write_text("apple\nkiwi\n")
    np.save(tmp_path / "few.npy", np.ones((2, 8), np.float32))
    given = {"output": "out/t.safetensors", "vectors": vectors[0], "names": vectors[1], **wrong}
    paths = {key: tmp_path / value for key, value in given.items() if key != "val_sets"}
    with pytest.raises(InputError, match=told):
        fit_teacher(**paths, sprites=sprites, val_sets=wrong.get("val_sets", ("ink",)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [{"side": 8}, {"steps": 0}, {"temperature": 0.0}])
def test_settings_of_a_fit_are_checked(wrong):
    with pytest.raises(InputError, match=f"fit.{next(iter(wrong))}"):
        FitSettings(**wrong)
