"""What detectors of proposals are made of: proposals, pooled regions, a head, their losses."""
