"""The page: a catalogue, the lineage graph, training sets, runs, models and plans, in a browser."""
