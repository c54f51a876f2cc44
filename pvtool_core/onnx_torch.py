"""An ONNX file as a torch module, whatever its exporter did with the weights.

onnx2torch does the layers. It wants each weight plainly among the initialisers, and exporters hide them: behind
Identity nodes where two are equal, behind Unsqueeze and Constant nodes where nothing was folded, and behind a batch
norm that is older than what it knows.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto, helper, load, numpy_helper, version_converter
from torch import nn

OLDEST_OPSET, MODERN_OPSET = 9, 13


def in_torch(onnx: Path) -> nn.Module:
    """The graph of the file as it stands, frozen and in eval mode; gradients reach its input.

    Raises NotImplementedError if it has a layer that onnx2torch does not know.
    """
    from onnx2torch import convert

    model = load(str(onnx))
    if any(each.domain in ("", "ai.onnx") and each.version < OLDEST_OPSET for each in model.opset_import):
        model = version_converter.convert_version(model, MODERN_OPSET)
    module = convert(with_plain_weights(model))  # given a path, it writes a file beside the model
    return module.eval().requires_grad_(False)


def with_plain_weights(model: ModelProto) -> ModelProto:
    """The same model, in which every weight is an initialiser and every initialiser is used once."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    inputs = [each for each in graph.input if each.name not in weights]  # old files list the weights there as well
    constant, others = _parted(graph.node, weights)
    weights |= _computed(constant, weights, model.opset_import)
    own = [tensor for number, node in enumerate(others) for tensor in _own_weights(node, number, weights)]
    plain = helper.make_graph(others, graph.name, inputs, graph.output, own, value_info=graph.value_info)
    return helper.make_model(plain, opset_imports=model.opset_import, ir_version=model.ir_version)


def _parted(nodes: Iterable[NodeProto], weights: Iterable[str]) -> tuple[list[NodeProto], list[NodeProto]]:
    """Nodes that depend on weights alone, and all others."""
    known = {*weights, ""}  # the empty name stands for an optional input that is left out
    parts: tuple[list[NodeProto], list[NodeProto]] = ([], [])
    for node in nodes:
        constant = known.issuperset(node.input)
        parts[0 if constant else 1].append(node)
        known.update(node.output if constant else ())
    return parts


def _computed(nodes: list[NodeProto], weights: dict[str, TensorProto], opsets: Any) -> dict[str, TensorProto]:
    """What nodes that depend on weights alone give out."""
    from onnx.reference import ReferenceEvaluator

    used = {name for node in nodes for name in node.input}
    names = [name for node in nodes for name in node.output]
    outputs = [helper.make_empty_tensor_value_info(name) for name in names]
    graph = helper.make_graph(nodes, "weights", [], outputs, [weights[name] for name in used & weights.keys()])
    values: Any = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(None, {})
    return {name: numpy_helper.from_array(value, name) for name, value in zip(names, values, strict=True)}


def _own_weights(node: NodeProto, number: int, weights: dict[str, TensorProto]) -> list[TensorProto]:
    """The weights of one node, under names that no other node uses, which it is told."""
    own: list[TensorProto] = []
    for place, name in enumerate(node.input):
        if name in weights:
            tensor = TensorProto()
            tensor.CopyFrom(weights[name])
            tensor.name = node.input[place] = f"weight_{number}_{place}"
            own.append(tensor)
    return own
