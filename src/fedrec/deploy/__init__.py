"""A federation across machines: kits, processes, and the transport between them."""
