"""The plan, the calls, the coordinator and the folder of a run. Imports privacy, secagg, models and below."""
