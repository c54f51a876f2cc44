"""Recognisers in torch return the embeddings of insightface for files of every exporter."""

import hashlib
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from PIL import Image
from torch import Tensor, nn

from pvtool_core.errors import BrokenWeights, InputRefused
from pvtool_core.faces.analyzer import (
    FaceAnalyzer,
    Picture,
    align,
    align_differentiable,
    largest,
    load_recognizer,
)
from pvtool_core.faces.insightface_models import open_recognizer
from pvtool_core.models.adding import add
from pvtool_core.models.installed import Models
from pvtool_core.models.registry import Registry, model_folder
from pvtool_core.paths import config_dir, presets_dir
from tests.support.iresnet import (
    export,
    normalise_inside,
    random_iresnet,
    with_norm,
    without_identity_nodes,
)

TINY = presets_dir() / "tiny"
NARROW: dict[str, Any] = {"widths": (8, 8, 16, 24, 32), "dimensions": 64}


@pytest.fixture(scope="module")
def crops() -> list[Picture]:
    """Return aligned RGB crops of noise, and of faces in the tiny preset's sample photos."""
    analyzer = FaceAnalyzer(TINY / "faces", "det_tiny.onnx", (), 128, 0.5, threads=1)
    found: list[Picture] = [
        np.random.default_rng(seed).integers(0, 256, (112, 112, 3), np.uint8) for seed in (0, 1)
    ]
    for path in sorted((TINY / "samples").glob("*.png")):
        with Image.open(path) as image:
            picture = np.asarray(image.convert("RGB"))
        face = largest(analyzer.detect(picture))
        assert face is not None
        found.append(align(picture, face.landmarks))
    assert len(found) > 6
    return found


def in_unit_range(crops: list[Picture]) -> Tensor:
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 255


def largest_distance(onnx: Path, crops: list[Picture]) -> float:
    """Return the largest 1 - cosine between our embeddings and insightface's.

    Our model embeds all crops in one batch.
    """
    model = open_recognizer(onnx, threads=1)
    theirs = torch.from_numpy(
        np.concatenate([model.get_feat(crop[..., ::-1]) for crop in crops])
    ).double()
    with torch.no_grad():
        ours = load_recognizer(onnx)(in_unit_range(crops)).double()
    assert ours.shape == theirs.shape
    apart = torch.cosine_similarity(theirs[:1], theirs[1:]).max()
    assert apart < 1 - 1e-4, (
        "all crops have the same embedding: the comparison would be meaningless"
    )
    return float((1 - torch.cosine_similarity(ours, theirs)).max())


def folded(path: Path) -> None:
    export(random_iresnet(**NARROW), path)


def not_folded(path: Path) -> None:
    export(random_iresnet(**NARROW), path, do_constant_folding=False)


def older(path: Path) -> None:
    export(random_iresnet(**NARROW), path, opset=11, dynamic=False)


def oldest(path: Path) -> None:
    """Export batch norm in a version unknown to onnx2torch, with the weights among the inputs."""
    export(random_iresnet(**NARROW), path, opset=8, keep_initializers_as_inputs=True)


def alike() -> nn.Module:
    """Export layers of equal weights, as before training: the exporter stores them once."""
    model = random_iresnet(**NARROW)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return model


def shared_by_identity_nodes(path: Path) -> None:
    from onnx import load
    from onnx2torch import convert

    export(alike(), path)
    with pytest.raises(KeyError):  # the reason for converting the file before onnx2torch
        convert(load(str(path)))


def shared_by_an_optimiser(path: Path) -> None:
    export(alike(), path)
    assert without_identity_nodes(path) > 10


def made_for_one_crop(path: Path) -> None:
    model = random_iresnet(**NARROW)
    model.examples = 1
    export(model, path, dynamic=False)


def normalised_inside(path: Path) -> None:
    export(random_iresnet(**NARROW), path, opset=11)
    normalise_inside(path)


EXPORTS = [
    folded,
    not_folded,
    older,
    oldest,
    shared_by_identity_nodes,
    shared_by_an_optimiser,
    made_for_one_crop,
    normalised_inside,
]


@pytest.mark.parametrize("write", EXPORTS)
def test_embeddings_equal_those_of_insightface(
    write: Callable[[Path], None], tmp_path: Path, crops: list[Picture]
) -> None:
    write(tmp_path / "rec.onnx")
    assert largest_distance(tmp_path / "rec.onnx", crops) < 1e-6


@pytest.mark.parametrize("name", ["rec_reward.onnx", "rec_metric.onnx"])
def test_embeddings_of_the_tiny_preset_equal_those_of_insightface(
    name: str, crops: list[Picture]
) -> None:
    assert largest_distance(TINY / "faces" / name, crops) < 1e-6


@pytest.mark.slow
def test_embeddings_of_a_full_iresnet_100_equal_those_of_insightface(
    tmp_path: Path, crops: list[Picture]
) -> None:
    export(random_iresnet((3, 13, 30, 3)), tmp_path / "rec.onnx", opset=11)
    assert largest_distance(tmp_path / "rec.onnx", crops[1:3]) < 1e-6


@pytest.fixture
def adaface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a small recogniser with AdaFace's outputs, registered as taking BGR."""
    path = tmp_path / "elsewhere" / "adaface.onnx"
    path.parent.mkdir()
    export(random_iresnet(**NARROW), path)
    with_norm(path)
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    register_as_bgr(path)
    return path


def test_registered_recogniser_of_bgr_gets_bgr_wherever_it_is(
    adaface: Path, crops: list[Picture]
) -> None:
    """Compares with onnxruntime on reversed channels; the file is given by an absolute path."""
    analyzer = FaceAnalyzer(
        TINY / "faces", "det_tiny.onnx", ("rec_reward.onnx", str(adaface)), 128, 0.5, threads=1
    )
    ours = analyzer.embed(crops, str(adaface))
    assert np.allclose(ours, embeddings(adaface, crops, "bgr"), atol=1e-5)
    assert not np.allclose(ours, embeddings(adaface, crops, "rgb"), atol=1e-2)
    tiny = TINY / "faces/rec_reward.onnx"
    plain = analyzer.embed(crops, "rec_reward.onnx")
    assert np.allclose(plain, embeddings(tiny, crops, "rgb"), atol=1e-5)


def test_registered_recogniser_of_bgr_gets_bgr_in_torch(
    adaface: Path, crops: list[Picture]
) -> None:
    with torch.no_grad():
        ours = load_recognizer(adaface)(in_unit_range(crops))
    assert np.allclose(ours.numpy(), embeddings(adaface, crops, "bgr"), atol=1e-5)


def test_users_entry_of_the_same_name_keeps_the_order_of_the_shipped_file(
    tmp_path: Path,
) -> None:
    """A user's mirror of AdaFace without `channels` would otherwise swap them silently."""
    (tmp_path / "rec.onnx").write_bytes(b"adaface")
    digest = hashlib.sha256(b"adaface").hexdigest()
    entry = "[a]\ntitle='x'\nsources=[{address='http://x/rec.onnx'}]\n"
    known = f"sha256={{'rec.onnx'='{digest}'}}\nchannels={{'rec.onnx'='bgr'}}"
    (tmp_path / "shipped.toml").write_text(entry + known)
    (tmp_path / "own.toml").write_text(entry)
    registry = Registry(tmp_path / "shipped.toml", tmp_path / "own.toml")
    assert registry.channels(tmp_path / "rec.onnx") == "bgr"
    (tmp_path / "rec.onnx").write_bytes(b"another")
    assert registry.channels(tmp_path / "rec.onnx") == "rgb"


def register_as_bgr(path: Path) -> None:
    """Write a user's registry with the recogniser."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    config_dir().mkdir(parents=True)
    (config_dir() / "models.toml").write_text(
        f"[judge]\ntitle='x'\nsources=[{{address='http://x/judge.onnx'}}]\n"
        f"sha256={{'judge.onnx'='{digest}'}}\nchannels={{'judge.onnx'='bgr'}}"
    )


def embeddings(path: Path, crops: list[Picture], order: str) -> Any:
    """Return unit embeddings (crops, dimensions) by onnxruntime."""
    session: Any = onnxruntime.InferenceSession(str(path))
    wanted = [each.name for each in session.get_outputs() if each.shape[1] != 1]
    pixels = np.stack(crops).astype(np.float32) / 127.5 - 1
    pixels = pixels[..., ::-1] if order == "bgr" else pixels
    name = session.get_inputs()[0].name
    found = [
        session.run(wanted, {name: np.ascontiguousarray(each.transpose(2, 0, 1)[None])})[0][0]
        for each in pixels
    ]
    return np.stack([each / np.linalg.norm(each) for each in found])


def test_recogniser_with_normalisation_inside_gets_the_same_pixels(tmp_path: Path) -> None:
    """Compares the input of the first layer, not only the angle between embeddings."""
    normalised_inside(tmp_path / "rec.onnx")
    model = load_recognizer(tmp_path / "rec.onnx")
    assert (model.mean, model.std) == (0, 1 / 255)
    folded(tmp_path / "plain.onnx")
    assert load_recognizer(tmp_path / "plain.onnx").mean == 0.5


@pytest.mark.parametrize("write", [not_folded, made_for_one_crop, normalised_inside])
def test_gradient_equals_finite_differences(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "rec.onnx")
    assert gradient_error(tmp_path / "rec.onnx") < 1e-6


@pytest.mark.parametrize("name", ["rec_reward.onnx", "rec_metric.onnx"])
def test_gradient_of_the_tiny_preset_equals_finite_differences(name: str) -> None:
    assert gradient_error(TINY / "faces" / name) < 1e-6


def gradient_error(onnx: Path) -> float:
    """Return the relative error of a directional derivative of a similarity, in float64.

    The direction is random, but not one with a nearly zero derivative.
    """
    recognizer = load_recognizer(onnx).double()
    generator = torch.Generator().manual_seed(0)
    faces, person, part = (
        torch.rand(2, 3, 112, 112, generator=generator, dtype=torch.float64) for _ in range(3)
    )

    def similarity(moved: Tensor) -> Tensor:
        return torch.cosine_similarity(recognizer(moved), recognizer(person)).sum()

    faces.requires_grad_()
    (gradient,) = torch.autograd.grad(similarity(faces), faces)
    way = 1e-6 * part * gradient / gradient.abs().max()
    with torch.no_grad():
        numeric = float(similarity(faces + way) - similarity(faces - way)) / 2
    return abs(float((gradient * way).sum()) - numeric) / abs(numeric)


def test_recogniser_is_frozen_with_its_running_statistics(tmp_path: Path) -> None:
    not_folded(tmp_path / "rec.onnx")
    recognizer = load_recognizer(tmp_path / "rec.onnx")
    before = {name: value.clone() for name, value in recognizer.state_dict().items()}
    frames = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    landmarks = torch.tensor([[[20.0, 25], [44, 25], [32, 38], [23, 48], [41, 48]]])
    recognizer(align_differentiable(frames, landmarks))[0, 0].backward()
    assert frames.grad is not None
    assert frames.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in recognizer.parameters())
    assert not any(module.training for module in recognizer.modules())
    assert sum("running_mean" in name for name in before) > 10
    assert all(torch.equal(value, before[name]) for name, value in recognizer.state_dict().items())


# Files of torch's exporter since 2.9: opset 18 or newer, `allowzero`, weights in a second file


def by_todays_exporter(path: Path, opset: int = 18, beside: bool = True) -> None:
    """Convert an older exporter's file to that of `torch.onnx.export(dynamo=True)`.

    This works without onnxscript. Batch norms are folded, Flatten is a Reshape with allowzero=1,
    and all weights are in `rec.onnx.data`.
    """
    export(random_iresnet(**NARROW), path)
    model = onnx.load(str(path))
    for node in model.graph.node:
        if node.op_type == "Flatten":
            flat = helper.make_node("Reshape", [node.input[0], "flat"], [*node.output], allowzero=1)
            node.CopyFrom(flat)
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 32 * 49]), "flat"))
    model.opset_import[0].version = opset
    model.ir_version = 10
    if beside:
        onnx.save(
            model,
            str(path),
            save_as_external_data=True,
            location=f"{path.name}.data",
            size_threshold=1024,
        )
    else:
        onnx.save(model, str(path))


@pytest.mark.parametrize("opset", [18, 19, 20, 21, 22, 23])
@pytest.mark.parametrize("beside", [True, False])
def test_embeddings_of_the_newest_exporter_equal_those_of_onnxruntime(
    opset: int, beside: bool, tmp_path: Path, crops: list[Picture]
) -> None:
    by_todays_exporter(tmp_path / "rec.onnx", opset, beside)
    assert (tmp_path / "rec.onnx.data").exists() is beside
    assert largest_distance(tmp_path / "rec.onnx", crops) < 1e-5


def test_gradient_of_the_newest_exporter_equals_finite_differences(tmp_path: Path) -> None:
    by_todays_exporter(tmp_path / "rec.onnx")
    crops = torch.rand(2, 3, 112, 112, requires_grad=True)
    load_recognizer(tmp_path / "rec.onnx")(crops).sum().backward()
    assert crops.grad is not None
    assert crops.grad.abs().sum() > 0


def test_newer_operators_are_converted_to_older_ones(tmp_path: Path, crops: list[Picture]) -> None:
    """Averages with axes as an input (opset 18), Gelu (20) and CastLike, in a small network."""
    generator = np.random.default_rng(0)
    weights = {
        "filters": generator.standard_normal((16, 3, 16, 16)).astype(np.float32) / 16,
        "axes": np.array([2, 3]),
        "matrix": generator.standard_normal((16, 32)).astype(np.float32),
        "twice": np.array(2.0, np.float64),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["input.1", "filters"], ["maps"], strides=[16, 16]),
        node("Gelu", ["maps"], ["active"]),
        node("ReduceMean", ["active", "axes"], ["mean"], keepdims=0, noop_with_empty_axes=0),
        node("CastLike", ["twice", "mean"], ["two"]),
        node("Mul", ["mean", "two"], ["double"]),
        node("MatMul", ["double", "matrix"], ["embedding"]),
    ]
    shapes = {"input.1": ["n", 3, 112, 112], "embedding": ["n", 32]}
    given, made = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    )
    plain = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", [given], [made], plain)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(tmp_path / "rec.onnx"))
    assert largest_distance(tmp_path / "rec.onnx", crops) < 1e-5


def test_error_names_a_layer_without_gradient(tmp_path: Path) -> None:
    by_todays_exporter(tmp_path / "rec.onnx", beside=False)
    model = onnx.load(str(tmp_path / "rec.onnx"))
    last = model.graph.node[-1]
    name = last.output[0]
    last.output[0] = "before"
    model.graph.node.append(helper.make_node("Hardmax", ["before"], [name]))
    onnx.save(model, str(tmp_path / "rec.onnx"))
    with pytest.raises(InputRefused, match=r"has a layer without a gradient in torch: Hardmax"):
        load_recognizer(tmp_path / "rec.onnx")


def moved(path: Path, location: str) -> None:
    """Rename the weights file in the model."""
    model = onnx.load(str(path), load_external_data=False)
    for entry in (entry for tensor in model.graph.initializer for entry in tensor.external_data):
        if entry.key == "location":
            entry.value = location
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("location", ["../rec.onnx.data", "/etc/passwd", "a/../../rec.onnx.data"])
def test_weights_outside_the_models_folder_are_not_read(location: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in/rec.onnx"
    by_todays_exporter(path)
    shutil.copy(tmp_path / "in/rec.onnx.data", tmp_path)
    moved(path, location)
    with pytest.raises(InputRefused, match="has its weights in a file outside its folder"):
        load_recognizer(path)
    with pytest.raises(InputRefused, match="has its weights in a file outside its folder"):
        add(Models(), "mine", [path])


@pytest.mark.parametrize(
    ("key", "value"), [("offset", "+0"), ("offset", " 0"), ("length", "x"), ("offset", "9" * 30)]
)
def test_error_for_invalid_location_of_weights(key: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / "rec.onnx"
    by_todays_exporter(path)
    model = onnx.load(str(path), load_external_data=False)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    entry = (
        next((entry for entry in tensor.external_data if entry.key == key), None)
        or tensor.external_data.add()
    )
    entry.key, entry.value = key, value
    path.write_bytes(model.SerializeToString())
    for attempt in (partial(load_recognizer, path), partial(add, Models(), "mine", [path])):
        with pytest.raises(InputRefused, match="has an invalid location for its weights"):
            attempt()


def test_errors_for_missing_and_truncated_weights_files(
    tmp_path: Path,
) -> None:
    by_todays_exporter(tmp_path / "rec.onnx")
    data = tmp_path / "rec.onnx.data"
    content = data.read_bytes()
    data.write_bytes(content[:-8])
    with pytest.raises(
        InputRefused, match=r"keeps its weights in rec\.onnx\.data, which is truncated"
    ):
        load_recognizer(tmp_path / "rec.onnx")
    data.unlink()
    with pytest.raises(
        InputRefused, match=r"keeps its weights in rec\.onnx\.data, which is missing"
    ):
        load_recognizer(tmp_path / "rec.onnx")
    data.symlink_to("/dev/zero")
    with pytest.raises(InputRefused, match="not a regular file"):
        load_recognizer(tmp_path / "rec.onnx")


@pytest.mark.parametrize("link", [False, True])
def test_weights_file_is_added_and_verified_with_its_model(
    link: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    by_todays_exporter(tmp_path / "rec.onnx")
    models = Models()
    assert add(models, "mine", [tmp_path / "rec.onnx"], link=link) == []
    assert {file.path for file in models.verify("mine")} == {"rec.onnx", "rec.onnx.data"}
    assert load_recognizer(model_folder("mine") / "rec.onnx")
    (model_folder("mine") / "rec.onnx.data").write_bytes(b"x")
    with pytest.raises(BrokenWeights, match=r"rec\.onnx\.data is truncated"):
        models.verify("mine")
    (tmp_path / "rec.onnx.data").unlink()
    with pytest.raises(InputRefused, match="which is missing"):
        add(models, "other", [tmp_path / "rec.onnx"])
