"""VGG-like networks by Winograd's algorithm, in kernels of our own.

May import: networks, core, and `keras_graph` and `tensorflow` beside it.
"""
