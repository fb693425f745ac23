"""Labels of resized logits, which a graph interpolates only where they can differ.

Between four pixels bilinear interpolation averages their logits. A class that is the likeliest at all four is so at
each point between them, and nothing has to be interpolated there: with logits of a quarter of the size that is nine
pixels of ten in a picture of a street. The others are computed as Resize does. The labels stay the same but for ties.
"""

from collections import Counter
from typing import Any

import numpy as np

from icnet.deploy.export.onnx_graph import complete, import_onnx

MOST_PERCENT = 15
"""Up to which share of pixels between different labels this is faster than to resize everything.

With 19 classes and 1024x2048 labels ONNX Runtime takes 85 ms for both at 15 %, and at 5 % 49 instead of 101; OpenVINO
as long for both at 30 %, and at 5 % 38 instead of 169 ms (two cores with AVX-512).
"""
PREFIX = "borders/"
MODE = "coordinate_transformation_mode"
MODES = (b"align_corners", b"half_pixel", b"pytorch_half_pixel")
OTHERWISE = {"antialias", "axes", "keep_aspect_ratio_policy"}  # of Resize, attributes that torch does not write

# A cell is what lies between four neighbouring pixels of the logits. "row" and "column" tell the cell of each row and
# column of labels, "down" and "right" how far these are from its upper left pixel to the next ones.
GRAPH = """
borders (logits) => (labels)
{{
  likeliest = ArgMax <axis = 1, keepdims = 0> (logits)
  coarse = Cast <to = {type}> (likeliest)
  above = Slice (coarse, first, last, axis_rows)
  below = Slice (coarse, second, end, axis_rows)
  top_left = Slice (above, first, last, axis_columns)
  top_right = Slice (above, second, end, axis_columns)
  bottom_left = Slice (below, first, last, axis_columns)
  bottom_right = Slice (below, second, end, axis_columns)
  same_above = Equal (top_left, top_right)
  same_left = Equal (top_left, bottom_left)
  same_across = Equal (top_left, bottom_right)
  same_sides = And (same_above, same_left)
  same = And (same_sides, same_across)
  differ = Not (same)
  columns_differ = Gather <axis = 2> (differ, column)
  pixels_differ = Gather <axis = 1> (columns_differ, row)
  positions = NonZero (pixels_differ)
  positions_shape = Shape (positions)
  count = Gather <axis = 0> (positions_shape, one)
  pixels = Size (pixels_differ)
  count_times_100 = Mul (count, hundred)
  most_times_100 = Mul (pixels, most_percent)
  few = Less (count_times_100, most_times_100)

  labels = If (few) <
    then_branch = at_borders () => ({type_name}[N, H, W] interpolated) {{
      columns_inside = Gather <axis = 2> (top_left, column)
      inside = Gather <axis = 1> (columns_inside, row)
      channels_last = Transpose <perm = [0, 2, 3, 1]> (logits)
      scores = Reshape (channels_last, line_of_scores)
      n = Gather <axis = 0> (positions, zero)
      y = Gather <axis = 0> (positions, one)
      x = Gather <axis = 0> (positions, two)
      pixel_row = Gather <axis = 0> (row, y)
      pixel_column = Gather <axis = 0> (column, x)
      offset = Mul (n, picture)
      line_offset = Mul (pixel_row, line)
      line_start = Add (offset, line_offset)
      index = Add (line_start, pixel_column)
      index_right = Add (index, one)
      index_below = Add (index, line)
      index_across = Add (index_below, one)
      score_left = Gather <axis = 0> (scores, index)
      score_right = Gather <axis = 0> (scores, index_right)
      score_below = Gather <axis = 0> (scores, index_below)
      score_across = Gather <axis = 0> (scores, index_across)
      weight_right = Gather <axis = 0> (right, x)
      weight_down = Gather <axis = 0> (down, y)
      step_above = Sub (score_right, score_left)
      share_above = Mul (step_above, weight_right)
      score_above = Add (score_left, share_above)
      step_below = Sub (score_across, score_below)
      share_below = Mul (step_below, weight_right)
      score_under = Add (score_below, share_below)
      step = Sub (score_under, score_above)
      share = Mul (step, weight_down)
      score = Add (score_above, share)
      best = ArgMax <axis = 1, keepdims = 0> (score)
      best_label = Cast <to = {type}> (best)
      indices = Transpose <perm = [1, 0]> (positions)
      interpolated = ScatterND (inside, indices, best_label)
    }},
    else_branch = everywhere () => ({type_name}[N, H, W] resized) {{
      full = Resize <coordinate_transformation_mode = "{mode}", mode = "linear"> (logits, {region}, {scales}, sizes)
      full_labels = ArgMax <axis = 1, keepdims = 0> (full)
      resized = Cast <to = {type}> (full_labels)
    }}
  >
}}
"""


def label_at_borders(model: Any) -> Any:
    """Let a graph that ends in labels of bilinearly resized logits interpolate these only where labels meet.

    Where more than ``MOST_PERCENT`` of the pixels lie between different labels, as an untrained network has them, the
    graph resizes everything, as before.

    Args:
        model: The graph (``onnx.ModelProto``); it may change.

    Returns:
        The graph; as it was if it ends in anything else or a side of the images is open.
    """
    onnx = import_onnx()
    nodes = _labels_of_resized(model)
    if nodes is None:
        return model
    resize, argmax, cast = nodes
    tensors = {value.name: value.type.tensor_type for value in complete(model).graph.value_info}
    logits, resized = tensors[resize.input[0]], tensors[resize.output[0]]
    if not logits.shape.dim or not resized.shape.dim:  # of an open batch at opset 11 to 13 nothing is known
        return model
    _, classes, height, width = (side.dim_value for side in logits.shape.dim)  # 0 where it is open
    _, _, rows, columns = (side.dim_value for side in resized.shape.dim)
    if min(height, width) < 2 or min(rows, columns) < 2:
        return model
    mode = onnx.helper.get_node_attr_value(resize, MODE).decode()
    row, down = _cells(height, rows, mode)
    column, right = _cells(width, columns, mode)
    numbers = onnx.helper.tensor_dtype_to_np_dtype(logits.elem_type)  # float16 where the graph is
    constants = {
        "line_of_scores": [-1, classes], "axis_rows": [1], "axis_columns": [2],
        "first": [0], "second": [1], "last": [-1], "end": [np.iinfo(np.int64).max], "zero": 0, "one": 1, "two": 2,
        "line": width, "picture": height * width, "hundred": 100, "most_percent": MOST_PERCENT,
        "row": row, "column": column, "down": down.astype(numbers), "right": right.astype(numbers),
    }  # fmt: skip
    kind = model.graph.output[0].type.tensor_type.elem_type
    names = {name: PREFIX + name for name in constants}
    given = dict(zip(("logits", "region", "scales", "sizes"), resize.input, strict=True))
    names |= {"labels": cast.output[0], **{name: tensor for name, tensor in given.items() if tensor}}
    text = GRAPH.format(
        type=kind,
        type_name=onnx.TensorProto.DataType.Name(kind).lower(),
        mode=mode,
        **{name: name if given[name] else "" for name in ("region", "scales")},  # opset 11 and 12 have empty tensors
    )
    added = onnx.compose.add_prefix_graph(
        onnx.parser.parse_graph(text), PREFIX, rename_inputs=False, rename_outputs=False, name_map=names
    )
    kept = [node for node in model.graph.node if node not in nodes]
    del model.graph.node[:]
    model.graph.node.extend([*kept, *added.node])
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value), names[name]) for name, value in constants.items()
    )
    return model


def _labels_of_resized(model: Any) -> tuple[Any, Any, Any] | None:
    """Return Resize, ArgMax and Cast if a graph ends in these and nothing else takes what they give; otherwise None."""
    users = Counter(name for node in model.graph.node for name in node.input)
    users.update(output.name for output in model.graph.output)
    made_by = {name: node for node in model.graph.node for name in node.output}
    found, name = [], model.graph.output[0].name
    for operator in ("Cast", "ArgMax", "Resize"):
        node = made_by.get(name)
        if node is None or node.op_type != operator or users[name] != 1:
            return None
        found.append(node)
        name = node.input[0]
    cast, argmax, resize = found
    get = import_onnx().helper.get_node_attr_value
    attributes = {attribute.name for attribute in resize.attribute}
    bilinear = len(resize.input) == 4 and get(resize, "mode") == b"linear" and not (attributes & OTHERWISE)
    if not bilinear or get(resize, MODE) not in MODES or get(argmax, "axis") != 1 or get(argmax, "keepdims") != 0:
        return None
    return resize, argmax, cast


def _cells(size: int, resized: int, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Return for each position on a resized axis its cell, int64, and how far it is in it, (resized, 1) float32."""
    position = np.arange(resized)
    if mode == "align_corners":
        source = position * (size - 1) / (resized - 1)
    else:
        source = ((position + 0.5) * size / resized - 0.5).clip(0, size - 1)
    cell = np.minimum(source.astype(np.int64), size - 2)
    return cell, (source - cell).astype(np.float32)[:, None]
