"""A row of the token cache is named by the file and the line it was read from."""

from finetune_trainer.data.places import Places, PlaceWriter


def test_places_are_read_back(tmp_path):
    with PlaceWriter(tmp_path, "train") as writer:
        writer.append("s3://d/a.jsonl:", 1)
        writer.append("s3://d/b.parquet:row ", 7)
        writer.append("s3://d/a.jsonl:", 2**40)
    places = Places.open(tmp_path, "train")
    assert places.of([2, 0, 1]) == [f"s3://d/a.jsonl:{2**40}", "s3://d/a.jsonl:1", "s3://d/b.parquet:row 7"]
    assert places.sources == ["s3://d/a.jsonl:", "s3://d/b.parquet:row "]


def test_a_split_without_rows_has_no_places(tmp_path):
    with PlaceWriter(tmp_path, "test"):
        pass
    assert len(Places.open(tmp_path, "test").rows) == 0


def test_rows_of_a_run_that_was_prepared_before_there_were_places_have_numbers(tmp_path):
    assert Places.open(tmp_path, "train").of([0, 41]) == [
        "row 1 of the prepared train split",
        "row 42 of the prepared train split",
    ]
