"""ArcFace's network as in insightface, with random weights, and its common exports."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        )
        if stride == 1:
            self.downsample = nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.prelu(self.bn2(self.conv1(self.bn1(maps))))
        return self.bn3(self.conv2(inner)) + self.downsample(maps)


class IResNet(nn.Module):
    """Network with blocks per stage in `layers`: (3, 13, 30, 3) is IResNet-100.

    `examples` is the batch size in the exported graph.
    """

    def __init__(
        self,
        layers: Sequence[int],
        widths: Sequence[int] = (64, 64, 128, 256, 512),
        dimensions: int = 512,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.prelu = nn.PReLU(widths[0])
        blocks: list[nn.Module] = []
        for count, inputs, outputs in zip(layers, widths, widths[1:], strict=False):
            blocks += [
                Block(inputs, outputs, 2),
                *(Block(outputs, outputs, 1) for _ in range(count - 1)),
            ]
        self.blocks = nn.Sequential(*blocks)
        self.bn2 = nn.BatchNorm2d(widths[-1])
        self.dropout = nn.Dropout(0.4)
        self.fc = nn.Linear(widths[-1] * 49, dimensions)
        self.features = nn.BatchNorm1d(dimensions)
        self.examples = 0
        self.eval()

    def forward(self, crops: Tensor) -> Tensor:
        maps = self.bn2(self.blocks(self.prelu(self.bn1(self.conv1(crops)))))
        flat = maps.reshape(self.examples, -1) if self.examples else torch.flatten(maps, 1)
        return self.features(self.fc(self.dropout(flat)))


def random_iresnet(layers: Sequence[int] = (1, 2, 1, 1), **sizes: Any) -> IResNet:
    """Return a network with random statistics and slopes per channel, like a trained one."""
    torch.manual_seed(0)
    model = IResNet(layers, **sizes)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0.1, 0.4)
    return model


def export(
    model: nn.Module, path: Path, opset: int = 17, dynamic: bool = True, **options: Any
) -> Path:
    """Export like insightface: the input is `input.1`, the output one embedding."""
    options |= (
        {"dynamic_axes": {"input.1": {0: "batch"}, "embedding": {0: "batch"}}} if dynamic else {}
    )
    names: dict[str, Any] = {"input_names": ["input.1"], "output_names": ["embedding"]}
    crops = (torch.zeros(1, 3, 112, 112),)
    torch.onnx.export(
        model, crops, str(path), dynamo=False, opset_version=opset, **names, **options
    )
    return path


def with_norm(path: Path) -> None:
    """Convert to the outputs of AdaFace: the norm of the embedding, and the unit embedding."""
    model = onnx.load(str(path))
    (embedding,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["raw" if name == embedding.name else name for name in node.output]
    model.graph.node.extend(
        [
            helper.make_node("ReduceL2", ["raw"], ["norm"], axes=[1], keepdims=1),
            helper.make_node("Div", ["raw", "norm"], [embedding.name]),
        ]
    )
    norm = helper.make_tensor_value_info("norm", onnx.TensorProto.FLOAT, ["batch", 1])
    model.graph.output.insert(0, norm)
    onnx.save(model, str(path))


def without_identity_nodes(path: Path) -> int:
    """Merge equal weights into one initialiser, like graph optimisers.

    Returns how many nodes this removed.
    """
    model = onnx.load(str(path))
    weights = {each.name for each in model.graph.initializer}
    alias = {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if node.op_type == "Identity" and node.input[0] in weights
    }
    kept = [node for node in model.graph.node if node.output[0] not in alias]
    for node in kept:
        node.input[:] = [alias.get(name, name) for name in node.input]
    graph = helper.make_graph(
        kept, "g", model.graph.input, model.graph.output, model.graph.initializer
    )
    onnx.save(
        helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version),
        str(path),
    )
    return len(alias)


def normalise_inside(path: Path) -> None:
    """Convert to inputs of 0 to 255, like files from MXNet: the first nodes map them to -1 to 1."""
    model = onnx.load(str(path))
    for node in model.graph.node:
        node.input[:] = ["prepared" if name == "input.1" else name for name in node.input]
    first = [
        helper.make_node("Sub", ["input.1", "mean"], ["centred"], name="_minusscalar0"),
        helper.make_node("Mul", ["centred", "scale"], ["prepared"], name="_mulscalar0"),
    ]
    constants = {"mean": np.float32(127.5), "scale": np.float32(1 / 128)}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(value), name) for name, value in constants.items()
    )
    for place, node in enumerate(first):
        model.graph.node.insert(place, node)
    onnx.save(model, str(path))
