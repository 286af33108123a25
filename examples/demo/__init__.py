"""The demo: the service's whole job on a small model that is made on the spot."""
