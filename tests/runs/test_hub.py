"""Runs on a hub: what is pushed is what is loaded, and a stranger's run stays a stranger's."""

import json
import sys
import threading

import huggingface_hub.constants
import numpy as np
import pytest
import torch
import yaml
from hub_server import TOKEN, Hub

import gridclip
from gridclip.cli import main
from gridclip.engine.hub.shared_run import beside, with_files
from gridclip.engine.hub.transfer import address_of
from gridclip.io.errors import InputError

NAMES = ["red plain circle", "blue striped square"]
REPO = "someone/small-detector"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # Read when the package is first imported, which another test may have done.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def image(mini_root):
    return min((mini_root / "images").rglob("*.jpg"))


def found(run, image):
    return gridclip.load(run).detect(image, NAMES, threshold=0.0)


def test_a_run_that_is_pushed_and_loaded_finds_what_it_found(hub, trained, image, tmp_path, capsys):
    main(["push", str(trained), REPO, "--licence=apache-2.0"])
    said = capsys.readouterr()
    address = said.out.split(": ")[0]
    assert address.startswith(f"hf://{REPO}@")
    files = hub.repos[REPO]["main"]
    assert {*files} == {"config.yaml", "model.safetensors", "metrics.json", "README.md"}
    expected = found(trained, image)
    sha = next(name for name in hub.repos[REPO] if name != "main" and hub.repos[REPO][name])
    assert found(f"hf://{REPO}", image) == expected
    assert found(f"hf://{REPO}@{sha}", image) == expected
    # No token, and no path of the machine, in anything that was written or said.
    left = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    for content in (*files.values(), *left, said.out.encode(), said.err.encode()):
        assert TOKEN.encode() not in content
        assert str(trained.parent).encode() not in content


def test_classify_opens_a_shared_run_as_well(hub, trained, image, tmp_path, capsys):
    main(["push", str(trained), REPO])
    (tmp_path / "boxes.json").write_text("[[0, 0, 9, 9]]")
    given = ["--boxes", str(tmp_path / "boxes.json"), "--names", "a cup"]
    with pytest.raises(SystemExit):
        main(["classify", str(image), "--run", f"hf://{REPO}", *given])
    assert "GridCLIP finds its own regions" in capsys.readouterr().err  # so it was loaded


def test_the_card_says_data_protocol_names_figures_and_licence(hub, trained):
    main(["push", str(trained), REPO, "--licence=cc-by-4.0"])
    _, head, text = hub.repos[REPO]["main"]["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "cc-by-4.0"
    assert "12 images. Protocol: standard" in text
    file = trained / "checkpoints" / "last.ckpt"
    known = torch.load(file, weights_only=True)["trained_on"]
    assert ", ".join(known) in text
    assert f"{len(known)} names. They" in text
    assert f'gridclip.load("hf://{REPO}")' in text
    assert "| AP |" in text


@pytest.mark.slow
def test_files_that_a_recipe_names_go_with_it(hub, short_run, mini_root, image, tmp_path):
    run, root = tmp_path / "run", "--model.detector.init_args.text"
    truth = json.loads((mini_root / "val.json").read_text())
    every = [each["name"] for each in truth["categories"]]
    np.save(tmp_path / "words.npy", np.random.default_rng(0).normal(size=(len(every), 128)))
    (tmp_path / "words.txt").write_text("\n".join(every))
    bank = {"vectors": str(tmp_path / "words.npy"), "names": str(tmp_path / "words.txt")}
    text = {"class_path": "TextVectors", "init_args": bank}
    short_run(run, f"{root}={json.dumps(text)}", steps=3)
    expected = found(run, image)
    main(["push", str(run), REPO])
    (tmp_path / "words.npy").unlink()
    assert found(f"hf://{REPO}", image) == expected
    assert str(tmp_path).encode() not in hub.repos[REPO]["main"]["config.yaml"]


def test_a_strangers_run_brings_no_code(hub, trained, tmp_path):
    main(["push", str(trained), REPO])
    files = hub.repos[REPO]["main"]
    recipe = yaml.safe_load(files["config.yaml"])
    recipe["model"]["detector"]["class_path"] = "stranger.Detector"
    evil = b"raise SystemExit('it ran')"
    hub.commit(REPO, {"config.yaml": yaml.safe_dump(recipe).encode(), "stranger.py": evil})
    with pytest.raises(InputError, match=r"stranger\.Detector, which is code from outside"):
        gridclip.load(f"hf://{REPO}")
    assert not [*(tmp_path / "hub").rglob("*.py")]


@pytest.mark.parametrize("value", ["run://../../secret.npy", "run:///etc/passwd"])
def test_a_recipe_names_no_file_outside_by_its_own_scheme(tmp_path, value):
    tree = {"text": [{"vectors": value}]}
    with pytest.raises(InputError, match="leads out of the run"):
        with_files(tree, beside(tmp_path / "config.yaml"))
    tree["text"][0]["vectors"] = "run://files/words.npy"
    found = with_files(tree, beside(tmp_path / "config.yaml"))
    assert found == {"text": [{"vectors": str(tmp_path / "files" / "words.npy")}]}


def test_weights_that_are_none_are_refused(hub, trained):
    main(["push", str(trained), REPO])
    hub.commit(REPO, {"model.safetensors": b"\xff" * 100})
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be read"):
        gridclip.load(f"hf://{REPO}")


@pytest.mark.parametrize(
    "address", ["hf://", "hf://one", "hf://a/b/c", "hf://a/b@", "hf://../b c", "hf://a/b?x"]
)
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(InputError, match="is no address of a shared run"):
        address_of(address)


def test_a_run_that_is_not_there_and_a_login_that_fails_are_said_in_one_line(
    hub, trained, monkeypatch, capsys
):
    with pytest.raises(InputError, match="hf://no/body: "):
        gridclip.load("hf://no/body")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(SystemExit):
        main(["push", str(trained), REPO])
    said = capsys.readouterr().err
    assert "hf auth login" in said
    assert "hf_wrong" not in said
    assert REPO not in hub.repos


def test_a_run_that_is_not_finished_is_not_shared(hub, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["push", str(tmp_path), REPO])
    assert "metrics.json" in capsys.readouterr().err
    assert not hub.asked


def test_without_the_extra_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'gridclip\[hub\]'"):
        gridclip.load("hf://a/b")
