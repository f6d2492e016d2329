"""Second derivatives that exist and are right, also where torch's own operations lack them."""
