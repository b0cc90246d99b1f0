"""Everything that uses NVFlare: messages, jobs, startup kits and processes. Imports network and below."""
