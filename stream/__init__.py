DISTRIBUTION = "eddy-stream"
"""Eddy's name on PyPI, where `eddy` is another project; `importlib.metadata.version` of it is Eddy's version."""
