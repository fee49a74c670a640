"""Stage `prepare`: from rows and a model in S3 to a token cache and a plan, before any GPU is taken."""
