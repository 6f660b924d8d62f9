"""Run folders, configurations and checkpoints of a stranger, each made by code."""

import zipfile
from collections.abc import Callable

import torch
from hostile_world import EVIL, Case, Open, Payload, World, bomb

from gridclip.cli import main
from gridclip.models.encoders.backbones import TimmBackbone
from gridclip.models.encoders.open_clip import ClipModel

DETECTOR = "model.detector.class_path"
BACKBONE = "model.detector.init_args.backbone"
SPY = "runs.stranger.payload.Spy"
TIMM = "test_efficientnet.r160_in1k"
TRUST = r"if you trust whoever wrote this, say --trust \(trust=True in Python\): it imports "
SYSTEM = r"cannot be read: it asks for (posix|os).system, which could run code"


def named(place: str, value: object, how: str = "load") -> Callable[[World], Open]:
    """A run whose config.yaml has this value."""

    def make(world: World) -> Open:
        world.configure(place, value)
        words = ["detect", "x.jpg", "--run=runs/stranger", "--names=a"]
        ways = {"load": world.load, "detect": lambda: main(words)}
        return ways[how] if how in ways else world.call(how)

    return make


def settings_elsewhere(world: World) -> Open:
    (world.run / "other.yaml").write_text(f"class_path: {EVIL}\n")
    world.configure(BACKBONE, "other.yaml")
    return world.call("validate")


def timm_weights(weights: str) -> dict[str, object]:
    return {"class_path": "TimmBackbone", "init_args": {"name": TIMM, "weights": weights}}


def pickled_checkpoint(*words: str) -> Callable[[World], Open]:
    def make(world: World) -> Open:
        file = world.checkpoint(more=Payload())
        return world.call(words[0], *words[1:], f"--ckpt_path={file}") if words else world.load

    return make


def started_from_a_pickle(world: World) -> Open:
    file = world.root / "old.ckpt"
    torch.save({"state_dict": {}, "more": Payload()}, file)
    return world.call("fit", f"--model.init_from={file}")


def settings_in_a_checkpoint(world: World) -> Open:
    """LightningCLI would take them, and build what they name; here only the data is missing."""
    file = world.checkpoint(hyper_parameters={"detector": {"class_path": SPY}})
    return world.call("validate", f"--ckpt_path={file}", "--data.init_args.root=none")


def compressed_checkpoint(world: World) -> Open:
    file = world.checkpoint(more=torch.zeros(1_000))
    whole = zipfile.ZipFile(file)
    parts = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as small:
        for name, content in parts.items():
            small.writestr(name, content)
    return world.load


def endless_tensor(world: World) -> Open:
    world.checkpoint(more=torch.zeros(1).expand(10**6, 10**6))
    return world.load


def program_as_checkpoint(world: World) -> Open:
    world.checkpoint()  # a file of its own
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), world.run / "checkpoints" / "last.ckpt")
    return world.load


def weights(suffix: str, content: object, build: Callable[[str], object]) -> Callable:
    """A file of weights beside the run: bytes as they are, what else as torch saves it."""

    def make(world: World) -> Open:
        file = world.root / f"w{suffix}"
        file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
        return lambda: build(str(file))

    return make


def recipe(text: str, how: str = "load") -> Callable[[World], Open]:
    def make(world: World) -> Open:
        (world.run / "config.yaml").write_text(text)
        return world.load if how == "load" else world.call(how)

    return make


def function_as_callback(function: str) -> list[dict[str, object]]:
    kind = "lightning.pytorch.callbacks.LambdaCallback"
    return [{"class_path": kind, "init_args": {"on_validation_start": function}}]


def timm(file: str) -> object:
    return TimmBackbone(TIMM, weights=file)


def clip(file: str) -> object:
    return ClipModel(weights=file).create()


def address(world: World) -> Open:
    return world.call("validate", "--ckpt_path=file:///x.ckpt")


YAML = "cannot be read as YAML"
NAMES = f"names {EVIL}, which is code from outside"
IMPORTS = f"{TRUST}runs.stranger.payload"
CASES = [
    Case("detector", named(DETECTOR, EVIL), "config.yaml", DETECTOR, NAMES, IMPORTS),
    Case(
        "backbone",
        named(f"{BACKBONE}.class_path", EVIL, "detect"),
        "config.yaml",
        f"{BACKBONE}.class_path",
        NAMES,
        IMPORTS,
    ),
    Case("name alone", named(BACKBONE, EVIL), "config.yaml", "model.detector", NAMES, IMPORTS),
    Case("file of settings", settings_elsewhere, "", "model.detector", NAMES, IMPORTS),
    Case(
        "file of settings elsewhere",
        named(BACKBONE, "other.yaml"),
        "config.yaml",
        "model.detector",
        "other.yaml is no file of settings that is there",
    ),
    Case("one word", named(DETECTOR, "payload"), "config.yaml", DETECTOR, "no full path"),
    Case(
        "package in a package",
        named(f"{BACKBONE}.class_path", "gridclip.io.files.shutil"),
        "config.yaml",
        "model.detector",
        "names shutil",
    ),
    Case("function", named(DETECTOR, "gridclip.load"), "config.yaml", DETECTOR, "no class"),
    Case(
        "function for a part",
        named(f"{BACKBONE}.class_path", "gridclip.load"),
        "config.yaml",
        "model",
        "gridclip.load",
    ),
    Case(
        "class of torch",
        named(f"{BACKBONE}.class_path", "torch.nn.Identity"),
        "config.yaml",
        "model",
        "torch.nn.Identity",
    ),
    Case(
        "package",
        named(BACKBONE, timm_weights("package://runs.stranger.payload/x.pth")),
        "",
        "weights",
        "'runs.stranger.payload' is no name of a package",
    ),
    Case(
        "file beside a package",
        named(BACKBONE, timm_weights("package://timm/../x.pth")),
        "",
        "weights",
        "is not inside its package",
    ),
    Case(
        "callback",
        named("trainer.callbacks", [{"class_path": SPY}], "validate"),
        "config.yaml",
        "trainer.callbacks",
        f"names {SPY}",
        IMPORTS,
    ),
    Case(
        "called function",
        named("trainer.callbacks", function_as_callback("gridclip.load"), "fit"),
        "",
        "trainer.callbacks.0.init_args.on_validation_start",
        "names load, which is no class",
    ),
    Case("trusting itself", named("trust", True, "fit"), "", "trust", "cannot trust itself"),
    Case("no care", named("weights_only", False, "validate"), "", "weights_only", "never false"),
    Case("aliases of aliases", recipe(bomb()), "config.yaml", "", f"{YAML}: stands for more"),
    Case("aliases for a verb", recipe(bomb(), "fit"), "config.yaml", "", "stands for more"),
    Case("nesting", recipe("model: " + "[" * 10_000), "config.yaml", "", YAML),
    Case(
        "object in YAML",
        recipe("model: !!python/object/apply:os.system [touch pwned]"),
        "config.yaml",
        "",
        YAML,
    ),
    Case("pickle", pickled_checkpoint(), "last.ckpt", "", SYSTEM),
    Case("pickle for a verb", pickled_checkpoint("validate"), "last.ckpt", "", SYSTEM),
    Case("pickle to start from", started_from_a_pickle, "old.ckpt", "", SYSTEM),
    Case("settings in it", settings_in_a_checkpoint, "val.json", "", "file does not exist"),
    Case("compressed", compressed_checkpoint, "last.ckpt", "", "it is compressed"),
    Case("endless tensor", endless_tensor, "last.ckpt", "", "bytes, but a tensor of 4000000000000"),
    Case("program", program_as_checkpoint, "last.ckpt", "", "it is (a program|compressed)"),
    Case("another scheme", address, "file:///x.ckpt", "ckpt_path", "file:// is not fetched"),
    Case("weights of timm", weights(".pth", {"w": Payload()}, timm), "w.pth", "weights", SYSTEM),
    Case("weights of CLIP", weights(".pt", {"w": Payload()}, clip), "w.pt", "weights", SYSTEM),
    Case("no weights", weights(".pt", b"junk", clip), "w.pt", "weights", "cannot be read"),
    Case(
        "other weights",
        weights(".pt", {"a": torch.ones(1)}, clip),
        "",
        "weights",
        "cannot load weights '.*w.pt'",
    ),
    Case("no safetensors", weights(".safetensors", b"junk", clip), "", "weights", "cannot load"),
]
