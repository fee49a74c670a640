"""Kubernetes operator that runs FineTuneJobs."""
