"""The layers of a converted network: products with weights that are always the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def is_layer(node: Any) -> bool:
    if node.get_type_name() != "MatMul" or node.get_attributes()["transpose_a"]:
        return False
    source = node.input_value(1).get_node()
    return source.get_type_name() == "Constant" and len(source.shape) == 2


def weights_of(layer: Any) -> NDArray[np.float32]:
    """As the product reads them."""
    return np.asarray(layer.input_value(1).get_node().data, np.float32)


def is_transposed(layer: Any) -> bool:
    """Whether its weights have a row for each number that comes out."""
    return bool(layer.get_attributes()["transpose_b"])


def rows_of(layer: Any) -> NDArray[np.float32]:
    """Its weights with a row for each number that comes out."""
    return weights_of(layer) if is_transposed(layer) else weights_of(layer).T
