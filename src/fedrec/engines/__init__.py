"""Where nodes live. Imports federation and everything below."""
