"""The prepared data as training reads it: token cache, packing, schedule and batches.

Everything here but the reading of files is a pure function of the row lengths, the seed and the position in the
stream of sequences, so that any number of processes, and any restarted attempt, sees the same global batches.
"""
