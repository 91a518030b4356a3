"""What a trained network has learnt: arrays for the figures of `launch.py inspect`."""
