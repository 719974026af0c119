"""L2: networks on one device, where they come from, and the guard that checks them."""
