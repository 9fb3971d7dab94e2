"""Blocks of networks, without weights of their own: what backbones and adapters are made of."""
