"""The shapes inside an ONNX file, in a process of its own: `python -m featurize.networks.onnx_shapes FOLDER`.

The folder holds `network.onnx` and `request.json`: the image size, the layout, and the names of tensors. Prints one
JSON object: the shape of each tensor that can be tapped, for one image, and the number of weights.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import onnx

TAPPED_RANKS = (2, 3, 4)  # vectors, tokens, maps; with the number of images
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)


def main(folder: Path) -> None:
    """Infer the shapes; on failure the last line on standard error says why."""
    request = json.loads((folder / "request.json").read_text())
    model = onnx.load(folder / "network.onnx", load_external_data=False)
    weights = {tensor.name for tensor in model.graph.initializer}
    [images] = [value for value in model.graph.input if value.name not in weights]
    first = 2 if request["channels_first"] else 1
    for axis in (first, first + 1):
        images.type.tensor_type.shape.dim[axis].dim_value = request["size"]
    for value in model.graph.output:  # they may be stated for another size
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        sys.exit(f"its shapes do not fit together: {lines[-1]}")
    values = {value.name: value for value in [*inferred.value_info, *inferred.output]}
    shapes = {}
    for name in request["names"]:
        shape = _shape(values.get(name))
        if shape is not None:
            shapes[name] = shape
    parameters = sum(math.prod(tensor.dims) for tensor in model.graph.initializer if tensor.data_type in FLOATS)
    print(json.dumps({"shapes": shapes, "parameters": parameters}))


def _shape(value: Any) -> list[int] | None:
    """The shape for one image; 0 where it is not known, and None for what cannot be tapped."""
    if value is None or value.type.tensor_type.elem_type not in FLOATS:
        return None
    dims = value.type.tensor_type.shape.dim
    if len(dims) not in TAPPED_RANKS:
        return None
    return [dim.dim_value for dim in dims[1:]]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
