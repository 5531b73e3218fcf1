"""Class activation maps as a network of its own, for networks that end in pooling and one linear layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.utils import Extractor

OUTPUT = "maps"

_LINEAR, _FLATTEN, _POOL = {"Gemm"}, {"Flatten", "Reshape", "Squeeze"}, {"GlobalAveragePool", "ReduceMean"}
_WEIGHTS = "class_map_weights"


def write_class_maps(model: Path, target: Path) -> bool:
    """Write the network of an exported model with a map for each class in place of its logits.

    The mean of a class' map is its logit without the bias, so that the map shows exactly where the network found the
    class (arXiv:1512.04150, section 2).

    Args:
        model: the exported network: images float32 [N, 3, H, W] to logits [N, classes].
        target: the file to write: the same images to maps float32 [N, classes, h, w].

    Returns:
        Whether it was written: False if the network ends otherwise than in pooling and one linear layer, or its last
        features have one place alone, which says nothing of where.
    """
    network = onnx.shape_inference.infer_shapes(onnx.load(model))
    ending = _Ending.of(network.graph)
    if ending is None:
        return False
    body = Extractor(network).extract_model([network.graph.input[0].name], [ending.features])
    *_, height, width = body.graph.output[0].type.tensor_type.shape.dim
    if height.dim_value * width.dim_value == 1:
        return False
    _replace_output(body.graph, ending)
    onnx.checker.check_model(body, full_check=True)
    onnx.save(body, target)
    return True


@dataclass(frozen=True)
class _Ending:
    """The end of a network: the name of the last features [N, C, h, w], and the linear layer's weights [classes, C]."""

    features: str
    weights: NDArray[np.float32]

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> Self | None:
        producers = {name: node for node in graph.node for name in node.output}
        constants = {constant.name: constant for constant in graph.initializer}

        def producer_of(name: str, kinds: set[str]) -> onnx.NodeProto | None:
            node = producers.get(name)
            return node if node is not None and node.op_type in kinds else None

        linear = producer_of(graph.output[0].name, _LINEAR)
        if linear is None or linear.input[1] not in constants:
            return None
        pooled = linear.input[0]
        while (flatten := producer_of(pooled, _FLATTEN)) is not None:
            pooled = flatten.input[0]
        pool = producer_of(pooled, _POOL)
        if pool is None:
            return None
        weights = numpy_helper.to_array(constants[linear.input[1]])
        is_transposed = any(attribute.name == "transB" and attribute.i for attribute in linear.attribute)
        return cls(pool.input[0], weights if is_transposed else weights.T)


def _replace_output(graph: onnx.GraphProto, ending: _Ending) -> None:
    """Make the linear layer, as a convolution of each place of the features, the end of a network's body."""
    (features,) = graph.output
    batch, _, height, width = features.type.tensor_type.shape.dim
    shape = [batch.dim_param or batch.dim_value, len(ending.weights), height.dim_value or None, width.dim_value or None]
    weights = np.ascontiguousarray(ending.weights[:, :, None, None], np.float32)
    graph.initializer.append(numpy_helper.from_array(weights, _WEIGHTS))
    graph.node.append(helper.make_node("Conv", [ending.features, _WEIGHTS], [OUTPUT], "class_maps"))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, shape))
