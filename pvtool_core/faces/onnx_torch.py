"""Convert ONNX files to torch modules, regardless of how the exporter stored the weights.

onnx2torch converts the layers. It expects each weight among the initialisers, but exporters hide
them: behind Identity nodes for equal weights, behind Unsqueeze and Constant nodes without constant
folding, and behind a batch norm of an old version.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import (
    ModelProto,
    NodeProto,
    TensorProto,
    defs,
    helper,
    load,
    numpy_helper,
    shape_inference,
    version_converter,
)
from torch import nn

OLDEST_OPSET, MODERN_OPSET, NEWEST_OPSET = 9, 13, 17


def in_torch(onnx: Path, output: str) -> nn.Module:
    """Return the graph of a file as a torch module that returns `output`, frozen and in eval mode.

    Gradients reach its input. Raises NotImplementedError with the name of a layer that onnx2torch
    does not support.
    """
    from onnx2torch import convert

    model = load(str(onnx.resolve()))  # onnx does not follow links to a weights file
    for other in [each for each in model.graph.output if each.name != output]:
        model.graph.output.remove(other)
    if any(
        each.domain in ("", "ai.onnx") and each.version < OLDEST_OPSET
        for each in model.opset_import
    ):
        model = version_converter.convert_version(model, MODERN_OPSET)
    model = as_known_opset(with_plain_weights(with_known_layers(model)))
    module = convert(model)  # given a path, it would write a file beside the model
    return module.eval().requires_grad_(False)


def with_known_layers(model: ModelProto) -> ModelProto:
    """Return the model without CastLike, Gelu and allowzero, unknown to onnx2torch."""
    types = _types(model)
    nodes = [
        other
        for number, node in enumerate(model.graph.node)
        for other in _known(node, number, types)
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _types(model: ModelProto) -> dict[str, int]:
    """Return the number format of each value."""
    graph = shape_inference.infer_shapes(model).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    named = {value.name: value.type.tensor_type.elem_type for value in values}
    return named | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _known(node: NodeProto, number: int, types: Mapping[str, int]) -> list[NodeProto]:
    if node.op_type == "CastLike" and types.get(node.input[1]):
        return [helper.make_node("Cast", [node.input[0]], [*node.output], to=types[node.input[1]])]
    if node.op_type == "Gelu" and not any(
        each.name == "approximate" and each.s == b"tanh" for each in node.attribute
    ):
        return _gelu(node.input[0], node.output[0], f"gelu_{number}")
    if (
        node.op_type == "Reshape"
    ):  # a size of 0 would be an empty tensor, which recognisers do not have
        kept = [each for each in node.attribute if each.name != "allowzero"]
        del node.attribute[:]
        node.attribute.extend(kept)
    return [node]


def _gelu(source: str, target: str, name: str) -> list[NodeProto]:
    """Return nodes for x (1 + erf(x / sqrt 2)) / 2."""
    constants = {"root": math.sqrt(2.0), "one": 1.0, "half": 0.5}
    weights = [
        helper.make_node(
            "Constant",
            [],
            [f"{name}_{key}"],
            value=numpy_helper.from_array(np.array(value, np.float32)),
        )
        for key, value in constants.items()
    ]
    steps = (
        ("Div", source, "root", "scaled"),
        ("Add", "erf", "one", "sum"),
        ("Mul", "sum", "half", "share"),
    )
    inner = {
        key: f"{name}_{key}" for key in ("root", "one", "half", "scaled", "erf", "sum", "share")
    }
    first, add, half = (
        helper.make_node(kind, [inner.get(a, a), inner[b]], [inner[out]])
        for kind, a, b, out in steps
    )
    erf = helper.make_node("Erf", [inner["scaled"]], [inner["erf"]])
    return [
        *weights,
        first,
        erf,
        add,
        half,
        helper.make_node("Mul", [source, inner["share"]], [target]),
    ]


def as_known_opset(model: ModelProto) -> ModelProto:
    """Return the model with the newest opset in which onnx2torch supports all usual layers.

    Later versions of these layers only allow more number formats. Raises NotImplementedError for a
    layer or an attribute that the older opset lacks.
    """
    ours = [
        each
        for each in model.opset_import
        if each.domain in ("", "ai.onnx") and each.version > NEWEST_OPSET
    ]
    if not ours:
        return model
    for each in ours:
        each.version = NEWEST_OPSET
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in _REDUCTIONS:
            _axes_as_attribute(node, weights)
        _check_known(node)
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for name, tensor in weights.items() if name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


_REDUCTIONS = {
    f"Reduce{kind}"
    for kind in ("Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
}
"""Layers whose axes were an attribute before opset 18."""


def _axes_as_attribute(node: NodeProto, weights: Mapping[str, TensorProto]) -> None:
    """Write a reduction as before opset 18; one without effect (`noop_with_empty_axes`) is kept."""
    axes: list[int] = []
    if len(node.input) == 2 and node.input[1] in weights:
        axes = numpy_helper.to_array(weights[node.input.pop()]).tolist()
    noop = any(each.name == "noop_with_empty_axes" and each.i for each in node.attribute)
    if axes or not noop:
        kept = [each for each in node.attribute if each.name != "noop_with_empty_axes"]
        del node.attribute[:]
        node.attribute.extend([*kept, *([helper.make_attribute("axes", axes)] if axes else [])])


def _check_known(node: NodeProto) -> None:
    """Raise NotImplementedError for a layer that the newest supported opset lacks in this form."""
    try:
        schema = defs.get_schema(node.op_type, NEWEST_OPSET, node.domain)
    except defs.SchemaError as error:
        raise NotImplementedError(node.op_type) from error
    unknown = {each.name for each in node.attribute} - {*schema.attributes}
    if unknown or len(node.input) > schema.max_input:
        raise NotImplementedError(
            f"{node.op_type} with {', '.join(sorted(unknown)) or 'more inputs'}"
        )


def with_plain_weights(model: ModelProto) -> ModelProto:
    """Return the model with every weight as an initialiser that is used once."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    inputs = [
        each for each in graph.input if each.name not in weights
    ]  # old files list the weights there too
    constant, kept = _parted(graph.node, weights)
    weights |= _computed(constant, weights, model.opset_import)
    own = [
        tensor for number, node in enumerate(kept) for tensor in _own_weights(node, number, weights)
    ]
    plain = helper.make_graph(
        kept, graph.name, inputs, graph.output, own, value_info=graph.value_info
    )
    return helper.make_model(plain, opset_imports=model.opset_import, ir_version=model.ir_version)


def _parted(
    nodes: Iterable[NodeProto], weights: Iterable[str]
) -> tuple[list[NodeProto], list[NodeProto]]:
    """Split nodes into those that depend on weights only, and the kept."""
    known = {*weights, ""}  # the empty name stands for an omitted optional input
    parts: tuple[list[NodeProto], list[NodeProto]] = ([], [])
    for node in nodes:
        constant = known.issuperset(node.input)
        parts[0 if constant else 1].append(node)
        known.update(node.output if constant else ())
    return parts


def _computed(
    nodes: list[NodeProto], weights: dict[str, TensorProto], opsets: Any
) -> dict[str, TensorProto]:
    """Return the results of nodes that depend on weights only."""
    from onnx.reference import ReferenceEvaluator

    used = {name for node in nodes for name in node.input}
    names = [name for node in nodes for name in node.output]
    outputs = [helper.make_empty_tensor_value_info(name) for name in names]
    graph = helper.make_graph(
        nodes, "weights", [], outputs, [weights[name] for name in used & weights.keys()]
    )
    values: Any = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(None, {})
    return {
        name: numpy_helper.from_array(value, name)
        for name, value in zip(names, values, strict=True)
    }


def _own_weights(
    node: NodeProto, number: int, weights: dict[str, TensorProto]
) -> list[TensorProto]:
    """Return the weights of one node under unique names, and rename its inputs to them."""
    own: list[TensorProto] = []
    for place, name in enumerate(node.input):
        if name in weights:
            tensor = TensorProto()
            tensor.CopyFrom(weights[name])
            tensor.name = node.input[place] = f"weight_{number}_{place}"
            own.append(tensor)
    return own
