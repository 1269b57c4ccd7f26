"""The registry of public weights, installed as ``vidbg.weights``."""
