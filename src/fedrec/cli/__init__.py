"""Commands: options in, tables or JSON out, no logic. Imports everything below, each when it runs."""
