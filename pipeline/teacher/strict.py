"""The strict reader's old place."""  # shim

from pipeline.classifier import read_safetensors

__all__ = ["read_safetensors"]
