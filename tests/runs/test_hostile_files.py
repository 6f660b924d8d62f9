"""Whatever a stranger's file holds, opening it runs none of it, and says what is wrong with it."""

import ast
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_data import CASES as DATA
from hostile_runs import BACKBONE, SPY, TRUST
from hostile_runs import CASES as RUNS
from hostile_world import EVIL, PAYLOAD, Payload, World

import gridclip
from gridclip.engine.lightning_cli import build
from gridclip.io.downloads import fetch
from gridclip.io.errors import InputError

pytestmark = pytest.mark.field
SOURCE = Path(gridclip.__file__).parent
ROW = SOURCE.parents[1] / "experiments" / "mini" / "gridclip.yaml"


@pytest.fixture(scope="module")
def sound_run(tmp_path_factory) -> Path:
    """A run folder as a training leaves it, but for the training."""
    folder = tmp_path_factory.mktemp("sound")
    small = ["--model.detector.init_args.width=16", "--model.detector.init_args.num_convs=1"]
    cli = build([f"--config={ROW}", *small])
    (folder / "config.yaml").write_text(cli.parser.dump(cli.config, skip_none=False))
    checkpoint = {"state_dict": cli.model.state_dict()}
    cli.model.on_save_checkpoint(checkpoint)
    (folder / "checkpoints").mkdir()
    torch.save(checkpoint, folder / "checkpoints" / "last.ckpt")
    return folder


@pytest.fixture
def world(sound_run, tmp_path, monkeypatch) -> World:
    run = tmp_path / "runs" / "stranger"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(sound_run / "config.yaml", run)
    checkpoint = Path("checkpoints", "last.ckpt")
    (run / checkpoint).hardlink_to(sound_run / checkpoint)
    (run / "payload.py").write_text(PAYLOAD)
    shutil.copy(run / "payload.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield World(tmp_path, run)
    for name in [name for name in sys.modules if name.split(".")[0] in ("runs", "payload")]:
        del sys.modules[name]


@pytest.mark.parametrize("case", [*RUNS, *DATA], ids=lambda case: case.name)
def test_a_hostile_file_is_refused_with_file_field_and_fix_and_nothing_of_it_runs(
    case, world, capsys
):
    attempt = case.make(world)
    with pytest.raises((InputError, SystemExit)) as refusal:
        attempt()
    said = capsys.readouterr().err if refusal.type is SystemExit else str(refusal.value)
    assert re.search(case.refusal(), said), said
    assert "weights_only=False" not in said
    assert "secret" not in said.replace("secret.txt", "").replace("secret.png", "")
    assert not (world.root / "pwned").exists()


def test_a_sound_run_opens_and_needs_no_trust(world):
    assert gridclip.load("runs/stranger").detect(np.zeros((64, 64, 3), np.uint8), ["a"]) is not None


def test_what_is_trusted_runs_and_is_said_aloud(world, caplog):
    world.configure(f"{BACKBONE}.class_path", EVIL)
    gridclip.load("runs/stranger", trust=True)
    assert f"{BACKBONE}.class_path imports {EVIL}, which is trusted" in caplog.text
    assert (world.root / "pwned").exists()


def test_classes_of_ones_own_are_taken_by_a_verb_that_is_told_to(world):
    spy = f'--trainer.callbacks+={{"class_path": "{SPY}"}}'
    config = f"--config={world.run / 'config.yaml'}"
    assert SPY in str(build([config, spy, "--trust"]).config.trainer.callbacks)
    with pytest.raises(InputError, match=f"names {SPY}.*\n.*{TRUST}"):
        build([config, spy])


def test_the_parsers_of_others_may_import_what_they_like_afterwards(world):
    from jsonargparse import ArgumentParser

    gridclip.load("runs/stranger")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--kind", type=type[zipfile.ZipFile])
    assert parser.parse_args(["--kind=zipfile.PyZipFile"]).kind is zipfile.PyZipFile


def test_the_working_directory_stands_for_no_package(world):
    (world.run / "msgspec.py").write_text(PAYLOAD)
    (world.run / "yaml.py").write_text(PAYLOAD)
    command = [sys.executable, "-m", "gridclip", "sweep", "list"]
    subprocess.run(command, cwd=world.run, check=True, capture_output=True)
    assert not (world.run / "pwned").exists()


def test_a_checkpoint_from_the_web_is_read_as_a_file_is(world, tmp_path_factory, capsys):
    folder = tmp_path_factory.mktemp("web")
    torch.save({"state_dict": {}, "more": Payload()}, folder / "evil.ckpt")
    (folder / "long.ckpt").write_bytes(bytes(9999))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            if self.path == "/away":
                self.send_response(302)
                self.send_header("Location", "ftp://127.0.0.1:1/x")
                self.end_headers()
            else:
                super().do_GET()

    server = HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        with pytest.raises(SystemExit):
            world.call("validate", f"--ckpt_path={address}/evil.ckpt")()
        assert re.search(r"evil.ckpt: cannot be read: it asks for", capsys.readouterr().err)
        assert fetch(f"{address}/long.ckpt", field="f").read_bytes() == bytes(9999)
        for path, most, problem in (
            ("long.ckpt?again", 999, "more than 999 bytes"),
            ("absent.ckpt", 999, "404"),
            ("away", 999, "cannot be fetched"),
        ):
            with pytest.raises(InputError, match=f"{re.escape(path)}: f: .*{problem}"):
                fetch(f"{address}/{path}", field="f", most=most)
    finally:
        server.shutdown()
        server.server_close()
    assert not (world.root / "pwned").exists()


def test_one_reader_has_every_torch_load_and_nothing_unpickles():
    found = set()
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load"):
                found.add(file.relative_to(SOURCE).as_posix())
                settings = {each.arg: ast.unparse(each.value) for each in node.keywords}
                safe = settings.get("weights_only") or settings.get("allow_pickle")
                assert safe == {"torch.load": "True", "np.load": "False"}[ast.unparse(node.func)]
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not names & {"pickle", "dill", "joblib", "marshal", "shelve"}, file
        assert "weights_only=False" not in file.read_text()
    assert found == {"io/state_dicts.py", "models/encoders/text.py"}
