"""What is searched: files, folders, patterns, videos, a camera, addresses."""

import http.server
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from gridclip.engine.detect.pictures import drawn, stems
from gridclip.engine.detect.sources import Frame, Unreadable, count, frames, planned
from gridclip.io.errors import InputError


def picture(file, value=0, size=(32, 24)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(file)
    return file


def film(file, length=10, size=(64, 48), rate=10):
    """A video whose frame i is grey of 20 i."""
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), rate, size)
    for number in range(length):
        writer.write(np.full((size[1], size[0], 3), 20 * number, np.uint8))
    writer.release()
    return file


def names(given, output="out"):
    return [each.name for each in planned([str(each) for each in given], Path(output))]


def read(given, **options):
    sources = planned([str(each) for each in given], Path("out"))
    return [*frames(sources, **{"every": 1, "download_mb": 1.0} | options)]


def test_a_folder_stands_for_its_images_and_videos_in_order_however_deep(tmp_path):
    wanted = [tmp_path / name for name in ("a/2.png", "a/b/1.JPG", "c.jpg")]
    for file in wanted:
        picture(file)
    wanted.append(film(tmp_path / "d.avi"))
    for name in (".hidden/x.jpg", ".x.jpg", "a/.cache/x.png"):
        picture(tmp_path / name)
    (tmp_path / "words.txt").write_text("no image")
    assert names([tmp_path]) == [str(file) for file in wanted]


def test_a_folder_whose_own_path_is_hidden_is_searched(tmp_path):
    assert names([picture(tmp_path / ".photos" / "a.png").parent]) == [
        str(tmp_path / ".photos" / "a.png")
    ]


def test_drawings_of_an_earlier_search_are_not_searched_with_their_folder(tmp_path):
    first = picture(tmp_path / "a.jpg")
    drawn = picture(tmp_path / "detections" / "a-detected.jpg")
    assert names([tmp_path], tmp_path / "detections") == [str(first)]
    assert names([tmp_path / "detections"], tmp_path / "detections") == [str(drawn)]
    assert names([tmp_path / "detections"], tmp_path) == [str(drawn)]
    assert names([tmp_path], tmp_path) == [str(first), str(drawn)]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("*.jpg", ["b.jpg"]), ("**/*.jpg", ["a/b.jpg", "b.jpg"]), ("a/?.*", ["a/b.jpg", "a/c.png"])],
)
def test_a_pattern_stands_for_the_images_that_it_matches(tmp_path, pattern, found):
    for name in ("b.jpg", "a/b.jpg", "a/c.png"):
        picture(tmp_path / name)
    (tmp_path / "a" / "d.txt").touch()
    assert names([tmp_path / pattern]) == [str(tmp_path / each) for each in found]


def test_a_file_is_taken_by_its_name_before_it_is_a_pattern_or_a_camera(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a[1].jpg", "0"):
        (tmp_path / name).touch()
    assert [each.kind for each in planned(["a[1].jpg", "0", "1"], Path("out"))] == [
        "image",
        "image",
        "camera",
    ]


def test_what_is_given_twice_is_searched_once(tmp_path):
    file = picture(tmp_path / "a.jpg")
    assert names([file, tmp_path, tmp_path / "*.jpg"]) == [str(file)]


@pytest.mark.parametrize("given", ["empty", "empty/*.jpg"])
def test_where_there_is_no_image_that_is_said_at_once(tmp_path, given):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="there is no image or video"):
        names([tmp_path / given])


@pytest.mark.parametrize("address", ["ftp://host/a.jpg", "rtsp://camera/1", "file:///etc/passwd"])
def test_only_addresses_of_the_web_are_taken(address):
    with pytest.raises(InputError, match=r"is not fetched\n  fix: .*http or https"):
        names([address])


@pytest.mark.parametrize(("every", "expected"), [(1, [*range(10)]), (4, [0, 4, 8]), (99, [0])])
def test_a_video_is_read_frame_by_frame_upright_and_in_rgb(tmp_path, every, expected):
    source = film(tmp_path / "clip.avi")
    found = read([source], every=every)
    assert [each.name for each in found] == [f"{source}#{number}" for number in expected]
    assert [each.rate for each in found] == [10.0] * len(expected)
    for each in found:
        assert each.pixels.shape == (48, 64, 3)
        assert abs(each.pixels.mean() - 20 * each.number) < 3
    assert count(planned([str(source)], Path("out")), every) == len(expected)


def test_colours_of_a_video_are_red_first(tmp_path):
    writer = cv2.VideoWriter(
        str(tmp_path / "red.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (32, 32)
    )
    writer.write(np.full((32, 32, 3), (0, 0, 250), np.uint8))  # blue, green, red
    writer.release()
    [frame] = read([tmp_path / "red.avi"])
    assert frame.pixels[16, 16, 0] > 200
    assert frame.pixels[16, 16, 2] < 60


def test_what_cannot_be_read_takes_its_place_and_stops_nothing(tmp_path):
    good, broken = picture(tmp_path / "good.png"), tmp_path / "broken.avi"
    broken.write_bytes(b"no video")
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    given = [
        tmp_path / "absent.jpg",
        good,
        broken,
        tmp_path / "cut.jpg",
        "97",
        good.parent / "x.mp4",
    ]
    found = read(given)
    assert [type(each) for each in found] == [Unreadable, Frame] + [Unreadable] * 4
    for each in found:
        if isinstance(each, Unreadable):
            assert each.problem.startswith(each.source.name)


def test_a_name_that_no_file_can_have_is_told_with_the_rest_going_on(tmp_path):
    long, good = read(["n" * 300 + ".jpg", picture(tmp_path / "a.png")])
    assert "File name too long" in long.problem
    assert isinstance(good, Frame)


def test_the_number_of_frames_is_open_where_nothing_says_it(tmp_path):
    file = str(picture(tmp_path / "a.png"))
    assert count(planned([file], Path("out")), 1) == 1
    assert count(planned([file, "0"], Path("out")), 1) is None
    assert count(planned(["http://127.0.0.1/a.mp4"], Path("out")), 1) is None


@pytest.fixture
def web(tmp_path):
    """A server on loopback, and its folder."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *given):
            super().__init__(*given, directory=str(folder))

        def log_message(self, *given):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()


def test_images_and_videos_are_fetched_from_the_web_each_time_anew(web):
    address, folder = web
    picture(folder / "a.png", value=200)
    film(folder / "b.avi", length=3)
    found = read([f"{address}/a.png?size=large", f"{address}/b.avi"])
    assert found[0].name == f"{address}/a.png?size=large"
    assert [each.number for each in found] == [None, 0, 1, 2]
    picture(folder / "a.png", value=10)
    assert read([f"{address}/a.png"])[0].pixels[0, 0, 0] == 10


def test_an_address_that_holds_too_much_or_no_image_is_named_with_the_rest_going_on(web):
    address, folder = web
    (folder / "large.jpg").write_bytes(b"0" * 2_000_000)
    (folder / "words.jpg").write_text("no image")
    picture(folder / "good.png")
    large, words, absent, good = read(
        [f"{address}/{name}" for name in ("large.jpg", "words.jpg", "absent.jpg", "good.png")]
    )
    assert "more than 1000000 bytes" in large.problem
    assert f"{address}/words.jpg" in words.problem
    assert "404" in absent.problem
    assert isinstance(good, Frame)


def test_files_of_results_have_names_of_their_own_that_a_disk_takes():
    given = ["http://host/a/photo.jpg?x=1", "http://host/b/PHOTO.jpg", "http://host/", "7"]
    given += ["ü" * 125 + ".jpg", "photo/photo.png"]
    sources = planned(given, Path("out"))
    names = [*stems(sources, Path("out")).values()]
    assert names[:4] == ["photo", "PHOTO-2", "image", "camera-7"]
    assert names[5] == "photo-3"
    assert max(len(f"{drawn(name)}.jpg".encode()) for name in names) <= 255
    assert len({name.casefold() for name in names}) == len(names)
