"""The codec `interframe`: see `codec` for the container, `forward` and `backward` for the two cores."""
