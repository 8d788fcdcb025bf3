"""The old place of `losses` and `optimise`."""  # shim
