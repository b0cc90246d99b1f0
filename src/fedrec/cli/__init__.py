"""Commands; no logic. Imports everything below, and each command only what it needs when it runs."""
