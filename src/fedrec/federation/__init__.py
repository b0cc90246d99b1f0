"""The plan, the node, the coordinator and the folder of a run. Imports everything below, and no engine."""
