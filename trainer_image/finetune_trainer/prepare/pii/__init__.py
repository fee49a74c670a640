"""Personal data in rows: found by form, verified by check digits, and then told, replaced or kept out of training."""
