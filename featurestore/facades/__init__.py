"""Namespaces of `FeatureStore`: one class each, one line per method."""
