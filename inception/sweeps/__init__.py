"""Many runs of one experiment: points, workers, searches, and what people see of them."""
