"""The only place that knows NVFlare: its post, jobs, startup kits and processes. Imports network and below."""
