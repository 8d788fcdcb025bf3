"""Data-free knowledge distillation in two stages: invert a teacher into shards, train students from them."""
