"""Moved to `pipeline.classifier` and `pipeline.sources`."""  # shim
