"""A federation's folder, the processes of its server and nodes, and the demo. Imports runs, network and below."""
