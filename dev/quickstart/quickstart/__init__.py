"""Steps of the quickstart; the end-to-end tests stand on the same ones."""
