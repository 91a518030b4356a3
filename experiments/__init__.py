"""One ml_collections config per claimed number; base.py holds every knob once."""
