"""VGG-like networks by Winograd's algorithm, in kernels of our own: float32, bfloat16 and int8.

`stages` reads the network, `calibration` finds the scales of int8, `passes` prepares the weights, and `network` runs
them. `kernels` is the compiled part; `emit`, `transforms` and `product` write its vector code.

May import: networks, core.
"""
