"""One thin module per DVC stage: validate a slice of params.yaml, call one function, write one folder."""
