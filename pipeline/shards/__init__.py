"""The dataset format: WebDataset tars under a manifest, written deterministically, read strictly and verified."""
