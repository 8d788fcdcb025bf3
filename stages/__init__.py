"""One thin module per DVC stage: parse names, validate its own slice of params.yaml, call one function, write one folder."""
