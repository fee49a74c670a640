"""Which files below a prefix hold rows."""

from types import SimpleNamespace

import pytest

from finetune_api.uris import S3Location
from finetune_trainer.prepare.sources import Source, find_files

FILES = ("b.jsonl", "a/c.csv.gz", "a/d.parquet", "dataset_info.json", "state.json.gz", "README.md", "e.jsonl.zst")


class Bucket:
    """A store with these files, which are not empty."""

    def list(self, prefix: S3Location) -> list[SimpleNamespace]:
        return [self.stat(S3Location(prefix.bucket, f"set/{name}")) for name in FILES]

    def stat(self, location: S3Location) -> SimpleNamespace:
        return SimpleNamespace(key=location.key, size=1)


def found(uri: str) -> list[str]:
    return [file.location.key for file in find_files(Bucket(), Source(0, "train", uri))]


def test_a_prefix_gives_its_files_of_rows_and_none_that_describe_them():
    assert found("s3://data/set/") == ["set/a/c.csv.gz", "set/a/d.parquet", "set/b.jsonl", "set/e.jsonl.zst"]


@pytest.mark.parametrize("name", ["dataset_info.json", "state.json.gz"])
def test_a_file_of_json_is_read_where_it_is_named(name):
    assert found(f"s3://data/set/{name}") == [f"set/{name}"]
