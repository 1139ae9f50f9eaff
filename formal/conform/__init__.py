"""The model held against the world: an emulated CPU (``python -m formal.conform cpu``)."""
