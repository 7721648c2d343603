"""XGBoost's trees as one node of an ONNX graph."""

from typing import Any

import numpy as np

from classify.graphs.graph import TREES, Graph
from classify.heads.trees import LEAF, LEAST_PROBABILITY, BoostedTrees, check_trees


def add_trees(graph: Graph, trees: BoostedTrees, x: str) -> str:
    """Add boosted trees that start from probabilities.

    Args:
        graph: gets the nodes.
        trees: fitted.
        x: the tensor with their features, float32 (n, d).

    Returns:
        The tensor with the scores, float32 (n, K).
    """
    assert trees.starts_from_probabilities
    classes = len(trees.classes_)
    model = check_trees(np.asarray(trees.ubj_, np.uint8).tobytes(), trees.n_features_in_, classes)
    outputs = classes if classes > 2 else 1
    least = graph.constant(LEAST_PROBABILITY)
    if outputs > 1:
        start = graph.add("Log", graph.add("Max", graph.columns(x, np.arange(classes)), least))
    else:
        most = graph.constant(1 - LEAST_PROBABILITY)
        second = graph.add("Min", graph.add("Max", graph.columns(x, [0]), least), most)
        rest = graph.add("Sub", graph.constant(1), second)
        start = graph.add("Log", graph.add("Div", second, rest))
    attributes = {"n_targets": outputs, "post_transform": "NONE", "aggregate_function": "SUM"}
    grown = graph.add("TreeEnsembleRegressor", x, domain=TREES[0], **attributes, **_nodes(model))
    scores = graph.add("Add", start, grown)
    if outputs > 1:
        return scores
    return graph.add("Concat", graph.add("Mul", scores, graph.constant(0)), scores, axis=1)


def _nodes(model: dict[str, Any]) -> dict[str, list]:
    """The attributes of the operator, with an entry for each node, or for each leaf."""
    parts: dict[str, list] = {
        "nodes_treeids": [], "nodes_nodeids": [], "nodes_modes": [], "nodes_featureids": [], "nodes_values": [],
        "nodes_truenodeids": [], "nodes_falsenodeids": [], "target_treeids": [], "target_nodeids": [],
        "target_ids": [], "target_weights": [],
    }  # fmt: skip
    for number, (tree, output) in enumerate(zip(model["trees"], model["tree_info"], strict=True)):
        left, right, values = (
            np.asarray(tree[name]) for name in ("left_children", "right_children", "split_conditions")
        )
        leaf = left == LEAF
        leaves = np.flatnonzero(leaf)
        parts["nodes_treeids"] += [number] * len(left)
        parts["nodes_nodeids"] += range(len(left))
        parts["nodes_modes"] += ["LEAF" if each else "BRANCH_LT" for each in leaf]
        parts["nodes_featureids"] += np.where(leaf, 0, tree["split_indices"]).tolist()
        parts["nodes_values"] += np.where(leaf, 0, values).tolist()
        parts["nodes_truenodeids"] += np.where(leaf, 0, left).tolist()
        parts["nodes_falsenodeids"] += np.where(leaf, 0, right).tolist()
        parts["target_treeids"] += [number] * len(leaves)
        parts["target_nodeids"] += leaves.tolist()
        parts["target_ids"] += [int(output)] * len(leaves)
        parts["target_weights"] += values[leaves].tolist()  # of a leaf, the condition is its value
    return parts
