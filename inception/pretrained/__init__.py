"""Other frameworks' published weights -> checkpoints of ours, one file a format."""
