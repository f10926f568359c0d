"""Hostile input for every codec: seeds, mutations, the properties that must hold, and a driver (`codecs`)."""
