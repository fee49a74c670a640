"""`finetune`: command line for people who run FineTuneJobs."""
