"""`featurestore demo`: the whole path on real data, from definition files to gRPC lookups."""
