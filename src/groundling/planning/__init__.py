"""What a run would need, by formulas alone: memory, disk, time. No torch, no models."""
