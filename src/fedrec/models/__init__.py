"""The contract of a recommender, the registry, one recommender a file in the folders. Imports aggregation and below."""
