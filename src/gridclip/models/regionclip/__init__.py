"""RegionCLIP (2112.09106)."""
