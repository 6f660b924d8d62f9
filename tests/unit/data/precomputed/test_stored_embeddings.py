"""Embeddings stored once, held against the teacher itself."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from gridclip.data.images.decode import read_image
from gridclip.data.images.sources import open_images
from gridclip.data.precomputed.stored import StoredEmbeddings
from gridclip.data.synthetic.painter import Kind, draw_scene
from gridclip.data.transforms.augment import Resize, prepare
from gridclip.engine.precompute.embed_images import embed, embed_command, embed_images
from gridclip.engine.precompute.resume import RowJournal, journal_beside
from gridclip.io.errors import InputError
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.teachers import ClipTeacher, StoredTeacher
from gridclip.ops.images import pad
from gridclip.structures import Images

KIND = Kind("red", "striped", "star")


@pytest.fixture(scope="module")
def teacher():
    teacher = ClipTeacher(ClipModel())
    teacher.load()
    return teacher


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Five images of several sizes, in an annotation file's folder."""
    root = tmp_path_factory.mktemp("drawn")
    (root / "images").mkdir()
    for seed in range(5):
        scene = draw_scene(np.random.default_rng(seed), [KIND], size=96)
        Image.fromarray(scene.pixels[: 96 - 8 * seed]).save(root / "images" / f"{seed}.png")
    return root


@pytest.fixture
def root(drawn, tmp_path):
    return shutil.copytree(drawn, tmp_path / "root")


def listing(root, *names):
    """An annotation file of these images."""
    file = root / "train.json"
    file.write_text(json.dumps({"images": [{"file_name": f"{name}.png"} for name in names]}))
    return file


def true_embedding(teacher, root, name, mirrored):
    """Straight through the teacher, one image at a time, without padding."""
    image = read_image(root / "images" / f"{name}.png")
    image = image[:, ::-1].copy() if mirrored else image
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    return teacher(Images(pixels, torch.tensor([image.shape[:2]])))[0].numpy()


def test_stored_embeddings_are_those_of_the_teacher_plain_and_mirrored(teacher, root, tmp_path):
    embed_command(listing(root, 3, 0, 1), output=tmp_path / "e", batch_size=2)
    stored = StoredEmbeddings(tmp_path / "e")
    assert (len(stored), stored.width) == (3, teacher.width)
    assert stored.fingerprint == teacher.fingerprint()
    gaps = []
    for name in (0, 1, 3):
        for mirrored in (False, True):
            found = stored.of(f"{name}.png", mirrored)
            true = true_embedding(teacher, root, name, mirrored)
            assert found.dtype == np.float32
            # float16 keeps 11 bits: half a unit in the last place of each component.
            np.testing.assert_allclose(found, true, atol=2.5e-4)
            gaps.append(1 - found @ true / np.linalg.norm(found))
    assert max(gaps) < 1e-6
    plain, mirror = (stored.of("0.png", mirrored) for mirrored in (False, True))
    assert np.abs(plain - mirror).max() > 1e-3


def test_what_is_new_or_has_changed_is_added_and_the_rest_is_kept(root, tmp_path, monkeypatch):
    embedded = []

    def spy(images, rows, *rest, **settings):
        embedded.append([images.image(row).path for row in rows])
        return embed_images(images, rows, *rest, **settings)

    monkeypatch.setattr("gridclip.engine.precompute.embed_images.embed_images", spy)
    output = tmp_path / "e"
    embed_command(listing(root, 0, 1, 2), output=output)
    before = StoredEmbeddings(output).of("0.png", True)
    shutil.copy(root / "images" / "4.png", root / "images" / "1.png")
    embed_command(listing(root, 3, 1, 2), output=output)
    stored = StoredEmbeddings(output)
    assert embedded == [["0.png", "1.png", "2.png"], ["3.png", "1.png"]]
    assert len(stored) == 4
    np.testing.assert_array_equal(stored.of("0.png", True), before)
    teacher = ClipTeacher(ClipModel())
    teacher.load()
    true = true_embedding(teacher, root, 4, False)
    np.testing.assert_allclose(stored.of("1.png", False), true, atol=2.5e-4)
    embed_command(listing(root, 3, 1, 2), output=output)
    assert len(embedded) == 2


def test_another_teachers_file_is_refused_and_kept(root, tmp_path):
    output = tmp_path / "e"
    embed_command(listing(root, 0), output=output)
    before = output.read_bytes()

    class Other(ClipTeacher):
        def fingerprint(self):
            return "another"

    with pytest.raises(InputError, match=r"e: output: holds embeddings of another teacher"):
        embed(open_images(listing(root, 0)), Other(ClipModel()), output)
    assert output.read_bytes() == before


class Interrupted(ClipTeacher):
    """Stops after some batches, as a machine does."""

    left = 3

    def forward(self, images):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().forward(images)


def test_an_interrupted_run_goes_on_and_gives_the_same_file(root, tmp_path):
    images = open_images(listing(root, *range(5)))
    with pytest.raises(KeyboardInterrupt):
        embed(images, Interrupted(ClipModel()), tmp_path / "e", batch_size=2)
    assert not (tmp_path / "e").exists()
    again = Interrupted(ClipModel())
    again.left = 4  # two batches, plain and mirrored: one was done
    embed(images, again, tmp_path / "e", batch_size=2)
    embed(images, ClipTeacher(ClipModel()), tmp_path / "whole", batch_size=2)
    assert (tmp_path / "e").read_bytes() == (tmp_path / "whole").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["e", "root", "whole"]


def test_a_missing_image_is_named_with_the_command_that_adds_it(root, tmp_path):
    embed_command(listing(root, 0, 1), output=tmp_path / "e")
    stored = StoredEmbeddings(tmp_path / "e")
    stored.check(["0.png", "1.png"], root / "images")
    message = r"e: 2 images have no embedding: '2.png', '3.png'(.|\n)*gridclip data embed"
    with pytest.raises(InputError, match=message):
        stored.check(["0.png", "2.png", "3.png"])
    with pytest.raises(InputError, match=r"1 images have no embedding: '4.png'"):
        stored.of("4.png", mirrored=False)


def test_a_file_of_another_length_is_told(root, tmp_path):
    embed_command(listing(root, 0, 1), output=tmp_path / "e")
    shutil.copy(root / "images" / "4.png", root / "images" / "1.png")
    with pytest.raises(InputError, match=r"1 images are other files than those embedded: '1.png'"):
        StoredEmbeddings(tmp_path / "e").check(["0.png", "1.png"], root / "images")


def test_stored_embeddings_pickle_as_their_name(root, tmp_path):
    embed_command(listing(root, 0, 1), output=tmp_path / "e")
    pickled = pickle.dumps(StoredEmbeddings(tmp_path / "e"))
    assert len(pickled) < 300
    assert len(pickle.loads(pickled)) == 2


def test_a_stored_teacher_knows_width_and_name_and_cannot_look(teacher, root, tmp_path):
    embed_command(listing(root, 0), output=tmp_path / "e")
    stored = StoredTeacher(str(tmp_path / "e"))
    stored.load()
    assert stored.width == teacher.width
    assert stored.fingerprint() == teacher.fingerprint()
    with pytest.raises(InputError, match="carries no stored embeddings"):
        stored(Images(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([[8, 8]])))
    with pytest.raises(InputError, match=r"absent: cannot be read(.|\n)*gridclip data embed"):
        StoredTeacher(str(tmp_path / "absent")).load()


def test_embeddings_of_random_weights_are_not_stored(root, tmp_path):
    with pytest.raises(InputError, match="weights: embeddings of random weights"):
        embed_command(listing(root, 0), output=tmp_path / "e", clip=ClipModel(weights="random"))
    assert not (tmp_path / "e").exists()


def test_two_runs_do_not_write_one_file(root, tmp_path):
    with (
        journal_beside(tmp_path / "e"),
        pytest.raises(InputError, match=r"e: another run is writing it"),
    ):
        embed_command(listing(root, 0), output=tmp_path / "e")


def test_a_journal_counts_whole_batches_only(tmp_path):
    rows = np.arange(10, dtype=np.float16).reshape(5, 2)
    journal = RowJournal(tmp_path / "j", "recipe", width=2, batch_size=2)
    journal.append(rows[:2])
    journal.append(rows[2:4])
    whole = (tmp_path / "j").read_bytes()
    for lost in (1, 5, 8):
        (tmp_path / "j").write_bytes(whole[:-lost])
        torn = RowJournal(tmp_path / "j", "recipe", width=2, batch_size=2)
        assert torn.done == 2
        torn.append(rows[2:4])
        torn.append(rows[4:])
        np.testing.assert_array_equal(torn.rows(), rows)
    assert RowJournal(tmp_path / "j", "recipe", width=2, batch_size=2).done == 4
    assert RowJournal(tmp_path / "j", "another recipe", width=2, batch_size=2).done == 0


def test_the_resized_view_of_a_student_embeds_almost_the_same(teacher, root, tmp_path):
    """Stored embeddings are of the stored image; a ClipTeacher sees the student's resized view.

    Both are squeezed to the tower's square, so only the resampling differs.
    """
    embed_command(listing(root, *range(5)), output=tmp_path / "e")
    stored = StoredEmbeddings(tmp_path / "e")
    for name in range(5):
        image = read_image(root / "images" / f"{name}.png")
        for side in (64, 128, 256):
            view = pad([prepare(image, Resize(shortest=(side,), longest=999))])
            assert teacher(view)[0].numpy() @ stored.of(f"{name}.png", False) > 0.9
