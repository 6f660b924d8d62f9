"""`gridclip detect` on what people give it: what was found is never lost, what is wrong is said."""

import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import gridclip
from gridclip.cli import main
from gridclip.engine.detect.pictures import stems
from gridclip.engine.detect.sources import planned
from gridclip.io.errors import InputError

pytestmark = pytest.mark.field

NAMES = ["red plain circle", "blue striped square"]


@pytest.fixture(scope="module")
def detector(trained):
    return gridclip.load(trained)


@pytest.fixture
def image(mini_root):
    return min((mini_root / "images").rglob("*.jpg"))


def detect(trained, output, *images, options=("--threshold=0",)):
    """The exit status of the command."""
    command = ["detect", f"--run={trained}", f"--names={', '.join(NAMES)}", f"--output={output}"]
    try:
        main([*command, *options, *map(str, images)])
    except SystemExit as ended:
        return ended.code
    return 0


def kept(output):
    return json.loads((output / "detections.json").read_text())


def test_two_images_of_one_name_keep_a_drawing_each(trained, image, tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        shutil.copy(image, tmp_path / folder / "frame.jpg")
    Image.open(image).save(tmp_path / "b" / "FRAME.png")
    given = [tmp_path / "a/frame.jpg", tmp_path / "b/frame.jpg", tmp_path / "b/FRAME.png"]
    assert detect(trained, tmp_path / "out", *given) == 0
    drawn = {each.name for each in (tmp_path / "out").glob("*.jpg")}
    assert drawn == {"frame-detected.jpg", "frame-2-detected.jpg", "FRAME-3-detected.jpg"}
    assert set(kept(tmp_path / "out")) == set(map(str, given))


def test_no_drawing_takes_the_place_of_another_or_of_an_image_that_is_given(tmp_path):
    names = ("a.jpg", "a-detected.png", "a.png", "b.jpg", "b.jpg")
    sources = planned([str(tmp_path / name) for name in names], tmp_path)
    assert [Path(each.name).name for each in sources] == [*names[:4]]
    assert [*stems(sources, tmp_path).values()] == ["a-2", "a-detected", "a-3", "b"]


def test_an_image_that_cannot_be_read_costs_no_other(trained, image, tmp_path, capsys):
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(image.read_bytes()[:300])
    (tmp_path / "words.txt").write_text("no pixels")
    given = [tmp_path / "absent.jpg", image, cut, tmp_path / "words.txt"]
    assert detect(trained, tmp_path / "out", *given) == 1
    assert [*kept(tmp_path / "out")] == [str(image)]
    assert kept(tmp_path / "out")[str(image)]
    told = capsys.readouterr().err
    assert "3 of 4 images could not be read" in told
    assert str(cut) in told
    assert "absent.jpg" in told


def test_what_was_found_is_kept_when_the_command_is_stopped(trained, image, tmp_path, monkeypatch):
    second, stopped = tmp_path / "second.jpg", []
    shutil.copy(image, second)

    def stop(report, line):
        stopped.append(line)
        raise KeyboardInterrupt

    monkeypatch.setattr("gridclip.engine.detect.report.Report.say", stop)
    with pytest.raises(KeyboardInterrupt):
        detect(trained, tmp_path / "out", image, second)
    assert len(stopped) == 1
    assert [*kept(tmp_path / "out")] == [str(image)]


def test_predict_goes_on_where_an_image_cannot_be_read(trained, mini_root, tmp_path, capsys):
    root = shutil.copytree(mini_root, tmp_path / "data")
    images = json.loads((root / "val.json").read_text())["images"]
    (root / "images" / images[3]["file_name"]).write_bytes(b"\xff\xd8\xff")
    command = ["predict", f"--config={trained / 'config.yaml'}", f"--run_dir={tmp_path / 'run'}"]
    command += [f"--ckpt_path={trained / 'checkpoints/last.ckpt'}", f"--data.init_args.root={root}"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--data.init_args.val_batch_size=1"])  # so one batch is of nothing
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert f"1 of {len(images)} images could not be read" in told
    assert images[3]["file_name"] in told
    found = json.loads((tmp_path / "run" / "detections.json").read_text())
    left = {each["id"] for each in images} - {images[3]["id"]}
    assert {each["image_id"] for each in found} == left


@pytest.fixture
def clip(mini_root, tmp_path):
    """A video of five images of the mini set."""
    file = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 8, (128, 128))
    for image in sorted((mini_root / "images").rglob("*.jpg"))[:5]:
        writer.write(cv2.imread(str(image)))
    writer.release()
    return file


def frames_of(file):
    opened = cv2.VideoCapture(str(file))
    rate, found = opened.get(cv2.CAP_PROP_FPS), []
    while (read := opened.read())[0]:
        found.append(read[1])
    return rate, found


def test_a_video_becomes_a_video_with_boxes_and_rows_by_frame(
    trained, detector, image, clip, tmp_path, capsys
):
    options = ("--threshold=0", "--limit=3", "--batch=2", "--every=2", "--format=csv")
    assert detect(trained, tmp_path / "out", clip, image, options=options) == 0
    found = kept(tmp_path / "out")
    assert [*found] == [f"{clip}#0", f"{clip}#2", f"{clip}#4", str(image)]
    rate, drawn = frames_of(tmp_path / "out" / "clip-detected.mkv")
    _, plain = frames_of(clip)
    assert rate == 4.0  # as long as the video that was searched
    assert [each.shape for each in drawn] == [(512, 512, 3)] * 3  # enlarged, so that words fit in
    for number, frame in enumerate(drawn):
        gap = np.abs(frame[2::4, 2::4].astype(int) - plain[2 * number]).mean(2)
        assert np.median(gap) < 20 < gap.max()
    expected = detector.detect(plain[2][:, :, ::-1].copy(), NAMES, threshold=0.0, limit=3)
    boxes = [each["box"] for each in found[f"{clip}#2"]]
    np.testing.assert_allclose(boxes, [each.box for each in expected], atol=0.05)
    told = capsys.readouterr().out
    assert "9 found in 3 frames" in told
    assert "4 images in" in told
    assert "images per second" in told


def test_a_webcam_is_searched_until_it_is_stopped(trained, clip, tmp_path, monkeypatch):
    """A video stands in for the camera, and a key that ends the search for its fourth frame."""

    class Camera:
        def __init__(self, number):
            assert number == 0
            self.video, self.grabbed = open_video(str(clip)), 0

        def grab(self):
            self.grabbed += 1
            if self.grabbed == 4:
                raise KeyboardInterrupt
            return self.video.grab()

        def __getattr__(self, name):
            return getattr(self.video, name)

    open_video = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    assert detect(trained, tmp_path / "out", "0") == 0
    assert [*kept(tmp_path / "out")] == [f"camera 0#{number}" for number in range(3)]
    monkeypatch.undo()
    assert len(frames_of(tmp_path / "out" / "camera-0-detected.mkv")[1]) == 3


def test_batches_and_names_from_a_file_find_what_single_images_do(trained, image, tmp_path):
    folder = shutil.copytree(image.parent, tmp_path / "photos")
    for extra in sorted(folder.iterdir())[7:]:
        extra.unlink()
    assert detect(trained, tmp_path / "one", folder) == 0
    names = tmp_path / "names.txt"
    names.write_text("\n".join(NAMES))
    main(
        ["detect", str(folder), f"--run={trained}", f"--names={names}", "--threshold=0"]
        + [f"--output={tmp_path / 'many'}", "--batch=3", "--pictures=false"]
    )
    one, many = kept(tmp_path / "one"), kept(tmp_path / "many")
    assert [*one] == [*many] == [str(each) for each in sorted(folder.iterdir())]
    for name in one:
        ours, theirs = ([each["score"] for each in kept[name][:20]] for kept in (one, many))
        assert ours == pytest.approx(theirs, abs=1e-3)
    assert not [*(tmp_path / "many").glob("*.jpg")]


def test_tiles_find_what_the_whole_image_is_too_large_for(trained, image, tmp_path):
    canvas = Image.new("RGB", (512, 384))
    canvas.paste(Image.open(image), (300, 200))
    canvas.save(tmp_path / "large.png")
    options = ("--threshold=0", "--limit=1000", "--tiles=128", "--overlap=0.25", "--batch=4")
    assert detect(trained, tmp_path / "out", tmp_path / "large.png", options=options) == 0
    [found] = kept(tmp_path / "out").values()
    boxes = np.array([each["box"] for each in found])
    assert (boxes >= 0).all()
    assert (boxes <= [512, 384, 512, 384]).all()
    scores = [each["score"] for each in found]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--batch=0"], "batch: 0 is out of range"),
        (["--every=0"], "every: 0 is out of range"),
        (["--tiles=8"], "tiles: 8 is out of range"),
        (["--tiles=64", "--overlap=1"], "overlap: 1.0 is out of range"),
        (["--format=voc"], "format: 'voc' is no form"),
        (["--download_mb=0"], "download_mb: 0.0 is out of range"),
        (["--format=labelme", "absent.mp4"], "labelme opens images"),
        (["ftp://host/a.jpg"], "ftp:// is not fetched"),
        (["--names=absent.txt"], "absent.txt"),
    ],
)
def test_what_cannot_be_is_refused_before_the_run_is_read(tmp_path, capsys, options, told):
    assert detect(tmp_path / "no run", tmp_path / "out", "a.jpg", options=options) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_turned_photograph_is_searched_upright_which_is_said(
    trained, detector, image, tmp_path, capsys
):
    upright, exif = Image.open(image), Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: the stored rows are columns of the scene
    phone = tmp_path / "phone.png"
    upright.transpose(Image.Transpose.ROTATE_90).save(phone, exif=exif)
    expected = detector.detect(upright, NAMES, threshold=0.0)
    assert detector.detect(phone, NAMES, threshold=0.0) == expected
    assert detector.detect(Image.open(phone), NAMES, threshold=0.0) != expected  # as it is stored
    assert detect(trained, tmp_path / "out", phone) == 0
    assert "turned upright as its EXIF says" in capsys.readouterr().out
    assert kept(tmp_path / "out")[str(phone)][0]["box"] == pytest.approx(expected[0].box, abs=1e-3)
    drawn = np.asarray(Image.open(tmp_path / "out" / "phone-detected.jpg"))
    assert drawn.shape[0] * upright.width == drawn.shape[1] * upright.height


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"limit": -1}, "limit"),
        ({"limit": 0}, "limit"),
        ({"threshold": float("nan")}, "threshold"),
        ({"threshold": 40.0}, "threshold"),
        ({"threshold": -1.0}, "threshold"),
    ],
)
def test_a_threshold_or_limit_out_of_range_is_refused(
    trained, detector, image, tmp_path, capsys, given, field
):
    with pytest.raises(InputError, match=f"{field}: .* is out of range"):
        detector.detect(image, NAMES, **given)
    options = [f"--{name}={value}" for name, value in given.items()]
    assert detect(trained, tmp_path / "out", image, options=options) == 2
    assert field in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_of_no_image_nothing_is_found(detector):
    assert detector.detect_many([], NAMES) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_an_image_of_a_single_row_or_column_is_searched(detector, size):
    detector.detect(Image.new("RGB", size), NAMES, threshold=0.0)


def test_a_single_text_is_no_list_of_names(detector, image):
    with pytest.raises(InputError, match=r"names: 'cat' is one text\n  fix: give a list"):
        detector.detect(image, "cat")


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta", "xpu", "", "cpu:x"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(trained, device, capsys):
    with pytest.raises(InputError, match="is not on this machine") as caught:
        gridclip.load(trained, device)
    assert "fix: give auto or cpu" in str(caught.value)


@pytest.mark.parametrize("output", ["file", "/proc/self/x", "n" * 300])
def test_an_output_that_cannot_be_written_is_refused_before_the_run_is_read(
    tmp_path, image, output, capsys
):
    (tmp_path / "file").touch()
    assert detect(tmp_path / "no run", tmp_path / output, image) == 2
    assert "output: cannot be written" in capsys.readouterr().err


class Dead:
    """A screen that takes nothing more."""

    encoding = "utf-8"

    def write(self, text):
        raise OSError(28, "No space left on device")

    def flush(self):
        self.write("")

    def isatty(self):
        return False


def test_a_screen_that_fails_costs_no_boxes(trained, image, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Dead())
    with pytest.raises((OSError, AttributeError)):
        detect(trained, tmp_path / "out", image)
    assert [*kept(tmp_path / "out")] == [str(image)]
    assert Path(tmp_path / "out" / f"{image.stem}-detected.jpg").exists()
