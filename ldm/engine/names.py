"""Names of the engines; light to import, for command lines."""

AUTO, EAGER_NAME, PACKED, COMPILED = "auto", "eager", "packed", "compiled"
CUDAGRAPHS, OPENVINO, ONNX = "cudagraphs", "openvino", "onnx"
ENGINES = (AUTO, EAGER_NAME, PACKED, COMPILED, CUDAGRAPHS, OPENVINO, ONNX)
"""`auto` is packed on CPUs of the x86 family, and eager elsewhere; the last two need packages of their own."""

NONE, MODEL, SEQUENTIAL, GROUP = "none", "model", "sequential", "group"
OFFLOADS = (NONE, MODEL, SEQUENTIAL, GROUP)
"""How much of a model is on a GPU at once: all of it, one network, a layer, or a block and the next one."""
