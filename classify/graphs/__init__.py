"""Networks and heads as one ONNX graph, from pixels or vectors to probabilities.

`graph` collects nodes, `networks` and `heads` add them, `trees` are those of XGBoost.

May import: heads, featurize.engines, featurize.runtimes, featurize.networks, featurize.cache, featurize.core.
"""

from classify.graphs.graph import Graph
from classify.graphs.heads import HEADS, add_head
from classify.graphs.networks import add_network, batch_of

__all__ = ["HEADS", "Graph", "add_head", "add_network", "batch_of"]
