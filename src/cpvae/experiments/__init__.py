"""The paper's experiments (section 5): one file an experiment, one JSON file a result."""
