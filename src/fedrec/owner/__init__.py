"""What an owner allows, in `node.toml` and in words, and which plans it refuses. Imports federation and below."""
