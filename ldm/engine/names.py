"""Names of the engines; light to import, for command lines."""

AUTO, EAGER_NAME, PACKED, COMPILED = "auto", "eager", "packed", "compiled"
ENGINES = (AUTO, EAGER_NAME, PACKED, COMPILED)
"""`auto` is packed on CPUs of the x86 family, and eager elsewhere."""
